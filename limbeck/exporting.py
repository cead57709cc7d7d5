"""From a trained student to a Hugging Face folder that loads without us: reloaded and compared."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from limbeck import files
from limbeck.errors import Damaged, LimbeckError
from limbeck.recarding import CARD
from limbeck.training.signals import WATCHED

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_NOISE = 100  # of a narrower dtype, whose sums may be taken in another order where it is loaded
_ALLOWED = {".json", ".safetensors", ".jinja", ".txt", ".model", ".md"}
_FOLDERS = {"additional_chat_templates"}
"""Of a tokenizer with several templates."""


def export(
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    dtype: str,
    checkpoint: str = "last",
    max_difference: float,
    probe: torch.Tensor,
    card: str,
) -> float:
    """Writes the folder, loads it in a fresh process and compares logits. Returns the largest difference from the student.

    checkpoint: which one the student is of, for the manifest. probe: token ids (batch, time). The folder comes to exist
    only where the reloaded model says what the student of the same dtype says here, within `max_difference` of its
    largest logit (or of 1; a hundred times as much in a narrower dtype), and says nothing that is not finite. Raises
    LimbeckError otherwise. How far a narrower dtype is from the student itself depends on the student, so it is told
    and not judged.
    """
    student = student.to("cpu").eval()
    same = student.dtype == DTYPES[dtype]
    going = student if same else _cast(student, DTYPES[dtype])
    with torch.no_grad():  # (batch, time, vocab) each
        before = student(probe, use_cache=False).logits.float()
        written = before if same else going(probe, use_cache=False).logits.float()
    if not written.isfinite().all():
        raise LimbeckError(
            f"{folder}: in {dtype} the student's logits are not finite. Nothing was exported; the checkpoint is "
            "untouched. Export in float32 or bfloat16."
        )
    with files.committed(folder, about(dtype, checkpoint)) as partial:
        with files.written_by(SafetensorError, partial):
            going.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        (partial / CARD).write_text(card, encoding="utf-8")
        strange = [path.name for path in partial.iterdir() if not _fits(path)]
        if strange:
            raise LimbeckError(
                f"export wrote {strange}, which no model folder needs; nothing is kept."
            )
        found = _reloaded_difference(partial, probe, written)
        size = max(1.0, float(written.abs().max()))
        allowed = size * max_difference * (1 if dtype == "float32" else _NOISE)
        if not found <= allowed:
            raise LimbeckError(
                f"{folder}: the reloaded student's logits differ by {found:.3g}, {allowed:.3g} is allowed. "
                "Nothing was exported; the checkpoint is untouched."
            )
    return float((written - before).abs().max()) + found


def _fits(path: Path) -> bool:
    """Whether what was written is what a model folder needs, and no code."""
    if path.is_dir():
        return path.name in _FOLDERS and all(one.suffix == ".jinja" for one in path.iterdir())
    return path.suffix in _ALLOWED


def about(dtype: str, checkpoint: str) -> dict[str, str]:
    """What an export's manifest says of it."""
    return {"kind": "export", "dtype": dtype, "checkpoint": checkpoint}


def check(folder: Path, dtype: str, checkpoint: str) -> None:
    """Raises where an export is damaged, or was written otherwise than is asked for now."""
    try:
        told, wanted = files.verify(folder).about, about(dtype, checkpoint)
    except Damaged as reason:
        raise Damaged(
            f"{reason} Move {folder} away, and the same command writes it anew from its checkpoint."
        ) from reason
    for name, value in wanted.items():
        if told.get(name, value) != value:
            raise LimbeckError(
                f"{folder} was written with {name} {told[name]}; the recipe says {value}. Move it away, and the same command writes it "
                f"anew; or set export.{name} to {told[name]} again."
            )


def _cast(student: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """A copy whose weights are of another dtype. What is computed from the config stays as it is, as in a model that is loaded."""
    found = copy.deepcopy(student)
    for tensor in found.state_dict(keep_vars=True).values():
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)
    return found


def _reloaded_difference(folder: Path, probe: torch.Tensor, written: torch.Tensor) -> float:
    """The largest difference between logits (batch, time, vocab) here and in a process that loads the folder."""
    question = folder.with_name(f"{folder.name}-probe.safetensors")
    asked = {"ids": probe.contiguous(), "logits": written.contiguous()}
    with files.written_by(SafetensorError, question):
        save_file(asked, question)
    # A scheduler asks every process of a job to stop. Blocked here, and so in the other process too, its signals reach
    # this one when the other is done.
    before_it = signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    try:
        done = subprocess.run(  # noqa: S603 (our own module, no shell)
            [sys.executable, "-m", "limbeck.models.reload", str(folder), str(question)],
            capture_output=True,
            text=True,
            check=False,
            env={
                **os.environ,
                "HF_HUB_OFFLINE": "1",
                "OMP_NUM_THREADS": str(torch.get_num_threads()),
            },
            start_new_session=True,  # Ctrl-C in a terminal is for us, and we finish this first
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before_it)
        question.unlink()
    if done.returncode:
        raise LimbeckError(
            f"{folder}: what was exported does not load:\n{done.stderr.strip()[-2000:]}"
        )
    return float(json.loads(done.stdout.splitlines()[-1])["difference"])
