"""How far a model is from its teacher on held-out text, over the full vocabulary at temperature 1."""

from __future__ import annotations

from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.objectives.forward_kl import forward_kl
from limbeck.types import Rows, Sampled, TopK

NEEDS_TEACHER = True
BETTER = {
    "kl_to_teacher": "lower",
    "top_1_agreement": "higher",
    "top_k_overlap": "higher",
    "student_mass_on_teacher_top_k": "higher",
}
"""Figures by which students can be told apart, and which way they are better."""
OF_KEPT = {"TopK": tuple(BETTER), "Sampled": ("kl_to_teacher",), "HeadMean": ()}
"""Those that are known of a teacher of which so much was kept."""
_FIGURES = {
    "kl_to_teacher": "kl",
    "top_1_agreement": "top_1",
    "top_k_overlap": "top_k",
    "student_mass_on_teacher_top_k": "mass",
    "teacher_mass_on_its_top_k": "teacher_mass",
    "teacher_nll": "teacher_nats",
}


def agreement(
    student: Tensor,
    teacher: Tensor | TopK | Sampled | None,
    rows: Rows,
    label_bytes: Tensor,
    *,
    k: int = 10,
) -> dict[str, Tensor]:
    """Sums over a chunk of tokens: KL(teacher || student), equal first choices, shared top k, masses, teacher's nats.

    student, teacher: logits (tokens, vocab). label_bytes: not used. Tokens count by rows.weights. All sums are
    float64 scalars. Of a teacher of which only TopK (tokens, k) or Sampled was kept: what that tells; its KL is over
    the kept ids and the rest, or right in expectation.
    """
    del label_bytes
    if teacher is None:
        raise LimbeckError("the measure 'agreement' needs a teacher; the recipe has none.")
    weights = rows.weights.double()  # (tokens,)
    if isinstance(teacher, Tensor):
        values = _of_logits(student, teacher, rows, k)
    else:
        values = _of_kept(student, teacher, rows, k)
    return {name: (weights * value.double()).sum() for name, value in values.items()} | {
        "tokens": weights.sum()
    }


def _of_logits(student: Tensor, teacher: Tensor, rows: Rows, k: int) -> dict[str, Tensor]:
    """Each token's values (tokens,) beside a teacher whose logits (tokens, vocab) are at hand."""
    log_p = teacher.float().log_softmax(-1)  # (tokens, vocab)
    log_q = student.float().log_softmax(-1)
    theirs = teacher.topk(k).indices  # (tokens, k)
    return {
        "kl": (log_p.exp() * (log_p - log_q)).sum(-1),
        **_among(student, log_q, theirs),
        "teacher_mass": log_p.gather(-1, theirs).exp().sum(-1),
        "teacher_nats": -log_p.gather(-1, rows.labels[:, None]).squeeze(-1),
    }


def _of_kept(student: Tensor, teacher: TopK | Sampled, rows: Rows, k: int) -> dict[str, Tensor]:
    """The same (tokens,) beside what was kept of a teacher."""
    if isinstance(teacher, Sampled):
        known = teacher.entropy is not None  # without it the sum is the teacher's cross-entropy
        return {"kl": forward_kl(student, teacher, rows)} if known else {}
    best = teacher.logprobs.topk(min(k, teacher.ids.shape[-1]))
    theirs = teacher.ids.gather(-1, best.indices)  # (tokens, k)
    return {
        "kl": forward_kl(student, teacher, rows),
        **_among(student, student.float().log_softmax(-1), theirs),
        "teacher_mass": best.values.float().exp().sum(-1),
    }


def _among(student: Tensor, log_q: Tensor, theirs: Tensor) -> dict[str, Tensor]:
    """How the student's choices are to the teacher's likeliest ids (tokens, k), the first of them first."""
    mine = student.topk(theirs.shape[-1]).indices  # (tokens, k)
    return {
        "top_1": (mine[:, 0] == theirs[:, 0]).double(),
        "top_k": (mine[:, :, None] == theirs[:, None, :]).any(-1).double().mean(-1),
        "mass": log_q.gather(-1, theirs).exp().sum(-1),
    }


def finish(sums: dict[str, float]) -> dict[str, float]:
    """Means per token: the KL to the teacher in nats, agreement, overlap, masses, and the teacher's own loss."""
    tokens = max(sums["tokens"], 1e-12)
    found = {name: sums[key] / tokens for name, key in _FIGURES.items() if key in sums}
    return found | {"tokens": sums["tokens"]}
