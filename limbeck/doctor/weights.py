"""The last checks, which read weights: what teacher and student say of ten rows, beside what any fool could say of them."""

from __future__ import annotations

import math
import zlib
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from limbeck import assembly, choosing
from limbeck.doctor.case import Case, Learner
from limbeck.doctor.findings import Finding, Findings, Missing, attempted, fault, note, ok, warning
from limbeck.doctor.machine import room
from limbeck.estimating import GIGA, count
from limbeck.evaluation._judge import judge
from limbeck.evaluation.bits_per_byte import bits_per_byte
from limbeck.models import load
from limbeck.types import Source

ROWS = 10


def said(case: Case) -> Findings:
    """Teacher and student on the first rows of the first stage."""
    if not case.weights:
        return
    if case.teacher is not None:
        yield from attempted("teacher", partial(_teacher, case))
    for one in case.learners:
        yield from attempted(one.where, partial(_student, case, one))


def _teacher(case: Case) -> list[Finding]:
    config = case.teacher_config()
    assert config is not None
    _enough(config, case)
    base, source = case.base(), case.stage_source(0)
    needed, free = (
        count(load.build_on_meta(config)) * base.dtype.itemsize / GIGA,
        room(base.device)[1],
    )
    if needed > free:
        more = f"not asked: it takes {needed:.1f} GB, {free:.1f} GB are free here."
        return [Finding("left out", more, "teacher")]
    model = assembly.load_teacher(base)
    assert model is not None
    nats, bits = _measured(case, model, source)
    plain, most = _compressed(case, source), math.log(base.vocab)
    told = f"{nats:.3f} nats a token, {bits:.3f} bits per byte on {_rows(source)} rows"
    beside = f"uniform guessing {most:.3f} nats, zlib {plain:.3f} bits per byte"
    cure = (
        "Look at its weights, at the tokenizer and the template, and at what it says of other text."
    )
    if not math.isfinite(nats):
        return [
            fault(
                f"it says {nats} of the text: its weights or its numbers are broken",
                "teacher",
                cure=cure,
            )
        ]
    if nats >= most:
        more = f"{told}: worse than guessing ({beside}). It knows nothing of this text"
        return [fault(more, "teacher", wanted="a teacher of this text.", cure=cure)]
    if bits > plain:
        more = f"{told}: worse than a program that packs files ({beside})"
        return [warning(more, "teacher", cure=cure)]
    return [ok(f"{told} ({beside}).", "teacher")]


def _student(case: Case, one: Learner) -> list[Finding]:
    if choosing.left_to_the_probe(one.recipe.student):
        more = "not made: which attentions stay is found by the probe, once a run begins."
        return [note(more, one.where)]
    _enough(one.shape().config, case)
    source = case.stage_source(0)
    base = case.ground_of(one)
    needed, free = 4 * count(one.shape()) / GIGA, room(torch.device("cpu"))[1]
    if needed > free:
        more = f"not made: it takes {needed:.1f} GB, {free:.1f} GB are free here."
        return [Finding("left out", more, one.where)]
    student = assembly.student(base)
    broken = [name for name, each in student.named_parameters() if not each.isfinite().all()]
    if broken:
        more = f"{len(broken)} of its parameters hold a NaN or an infinity, such as {broken[0]}"
        return [fault(more, one.where, cure="Take another model, or bring its files again.")]
    nats, bits = _measured(case, student.to(base.device), source)
    told = (
        f"as it begins, {nats:.3f} nats a token, {bits:.3f} bits per byte on {_rows(source)} rows"
    )
    if not math.isfinite(nats):
        return [fault(f"{told}: its numbers are broken", one.where)]
    return [ok(f"{told}.", one.where)]


def _enough(config: Any, case: Case) -> None:
    """Leaves out a model that has no numbers for some of the ids: it cannot be asked, and why is told by another check."""
    rows, ids = config.get_text_config().vocab_size, case.base().vocab
    if rows < ids:
        raise Missing(f"not asked: it has {rows:,} ids, the tokenizer {ids:,}.")


def _rows(source: Source) -> int:
    return min(ROWS, source.rows)


def _measured(case: Case, model: PreTrainedModel, source: Source) -> tuple[float, float]:
    """Nats a token and bits per byte of a model on the first rows."""
    base = case.base()
    found = judge(
        {"model": model},
        source,
        [(bits_per_byte, {})],
        rows=_rows(source),
        vocab=base.vocab,
        device=base.device,
    )
    figures = found.figures["bits_per_byte"]["model"]
    return figures["nats_per_token"], figures["bits_per_byte"]


def _compressed(case: Case, source: Source) -> float:
    """Bits per byte that zlib needs for the same rows."""
    ids = source.batch(range(_rows(source))).labels.flatten().tolist()
    raw = case.base().tokenizer.decode(ids, skip_special_tokens=True).encode()
    return 8 * len(zlib.compress(raw, 9)) / max(1, len(raw))
