"""How far a model is from its teacher on held-out text, over the full vocabulary at temperature 1."""

from __future__ import annotations

from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.types import Rows


def agreement(
    student: Tensor, teacher: Tensor | None, rows: Rows, label_bytes: Tensor, *, k: int = 10
) -> dict[str, Tensor]:
    """Sums over a chunk of tokens: KL(teacher || student), equal first choices, shared top k, teacher's nats.

    student, teacher: logits (tokens, vocab). label_bytes: not used. Tokens count by rows.weights. All sums are
    float64 scalars.
    """
    del label_bytes
    if teacher is None:
        raise LimbeckError("the measure 'agreement' needs a teacher; the recipe has none.")
    log_p = teacher.float().log_softmax(-1)  # (tokens, vocab)
    log_q = student.float().log_softmax(-1)
    weights = rows.weights.double()  # (tokens,)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1).double()
    mine, theirs = student.topk(k).indices, teacher.topk(k).indices  # (tokens, k)
    shared = (mine[:, :, None] == theirs[:, None, :]).any(-1).double().mean(-1)
    kept = log_q.gather(-1, theirs).exp().sum(-1).double()
    nats = -log_p.gather(-1, rows.labels[:, None]).squeeze(-1).double()
    same = (mine[:, 0] == theirs[:, 0]).double()
    values = {"kl": kl, "top_1": same, "top_k": shared, "mass": kept, "teacher_nats": nats}
    return {name: (weights * value).sum() for name, value in values.items()} | {
        "tokens": weights.sum()
    }


def finish(sums: dict[str, float]) -> dict[str, float]:
    """Means per token: the KL to the teacher in nats, agreement, overlap, and the teacher's own loss."""
    tokens = max(sums["tokens"], 1e-12)
    return {
        "kl_to_teacher": sums["kl"] / tokens,
        "top_1_agreement": sums["top_1"] / tokens,
        "top_k_overlap": sums["top_k"] / tokens,
        "student_mass_on_teacher_top_k": sums["mass"] / tokens,
        "teacher_nll": sums["teacher_nats"] / tokens,
        "tokens": sums["tokens"],
    }
