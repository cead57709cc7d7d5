"""Checkpoints: weights and optimizer state, each rank its own file, complete or absent, never a pickle."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from limbeck import files
from limbeck.errors import Damaged, LimbeckError
from limbeck.training.optim import PROJECTORS
from limbeck.training.parallel import World, barrier, local, piece, told

STATE = "state.json"
MOMENTS = ("exp_avg", "exp_avg_sq")
CROSS_ENTROPY = "cross_entropy"
"""The figure that judges where a recipe names no other."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint that is on disk. score: lower is better; None where nobody judged it.

    ended: its stage ends here, before its budget is used.
    """

    folder: Path
    step: int
    score: float | None
    ended: bool = False


def _tensors(
    module: nn.Module, adam: torch.optim.Optimizer | None, kept: Iterable[str]
) -> dict[str, Tensor]:
    """The pieces of this rank: every kept parameter, and its moments."""
    found = {}
    parameters = dict(module.named_parameters())
    masters = (
        {tensor for group in adam.param_groups for tensor in group["params"]} if adam else set()
    )
    strangers = [
        n for n in kept if adam and parameters[n].requires_grad and parameters[n] not in masters
    ]
    if strangers:  # a gathered copy would be saved in place of the master, and without its moments
        raise LimbeckError(f"{strangers[0]} is not what the optimizer trains; nothing was saved.")
    for name in sorted(kept):
        found[name] = parameters[name]
        state = adam.state.get(parameters[name], {}) if adam else {}
        for moment in MOMENTS:
            if moment in state:
                found[f"{moment}:{name}"] = state[moment]
    return {key: local(value).detach().cpu().contiguous() for key, value in found.items()}


@contextlib.contextmanager
def _shared(folder: Path, about: dict[str, Any], world: World) -> Iterator[Path]:
    """A folder that all ranks write into, committed by the first one when all are done."""
    if world.first:
        with files.committed(folder, about) as partial:
            told(str(partial.absolute()), world)
            yield partial
            barrier()
    else:
        yield Path(told("", world))
        barrier()
    barrier()


def save(
    folder: Path,
    module: nn.Module,
    adam: torch.optim.Optimizer | None,
    state: dict[str, Any],
    *,
    kept: Iterable[str],
    world: World,
) -> None:
    """Commits weights (those named in `kept`), moments and the state of the loop under `folder`."""
    tensors = _tensors(module, adam, kept)
    with _shared(folder, {"kind": "checkpoint", "step": state["step"]}, world) as partial:
        path = partial / f"rank-{world.rank:04d}.safetensors"
        with files.written_by(SafetensorError, path):
            save_file(tensors, path)
        if world.first:
            counts = _updates(module, adam, kept) if adam else {}
            updates = max(counts.values(), default=0)
            others = {name: count for name, count in counts.items() if count != updates}
            counted = {"ranks": world.size, "updates": updates, "others": others}
            files.write_json(partial / STATE, {**state, **counted})


def _updates(module: nn.Module, adam: torch.optim.Optimizer, kept: Iterable[str]) -> dict[str, int]:
    """How often each trained parameter was updated: one that no term has reached yet, never."""
    parameters = dict(module.named_parameters())
    trained = [name for name in sorted(kept) if parameters[name].requires_grad]
    return {n: int(adam.state.get(parameters[n], {}).get("step", 0)) for n in trained}


def _whole(readers: list[Any], key: str) -> Tensor:
    pieces = [reader.get_tensor(key) for reader in readers]
    return pieces[0] if len(pieces) == 1 or pieces[0].ndim == 0 else torch.cat(pieces)


def state(folder: Path) -> dict[str, Any]:
    """The state of the loop in a checkpoint, once its every byte verifies."""
    files.verify(folder)
    found: dict[str, Any] = files.read_json(folder / STATE)
    return found


def names(folder: Path) -> set[str]:
    """The parameters that a checkpoint holds."""
    with safe_open(folder / "rank-0000.safetensors", framework="pt") as reader:
        return {key for key in reader.keys() if ":" not in key}  # noqa: SIM118 (no mapping)


def load(
    folder: Path, module: nn.Module, adam: torch.optim.Optimizer | None, *, world: World
) -> dict[str, Any]:
    """Fills the module and the optimizer from a verified checkpoint of any number of ranks.

    Returns the state of the loop. Raises Damaged where a file is not as it was written, LimbeckError
    where the checkpoint belongs to another student.
    """
    at = state(folder)
    parameters = dict(module.named_parameters())
    with contextlib.ExitStack() as stack:
        paths = [folder / f"rank-{rank:04d}.safetensors" for rank in range(at["ranks"])]
        readers = [stack.enter_context(safe_open(path, framework="pt")) for path in paths]
        keys = set(readers[0].keys())
        names = sorted(key for key in keys if ":" not in key)
        if (
            adam is None
        ):  # projectors stay behind when the student goes on to another stage, or leaves
            names = [n for n in names if n in parameters or not n.startswith(PROJECTORS)]
        unknown = sorted(set(names) - set(parameters))
        if unknown:
            raise LimbeckError(f"{folder}: holds '{unknown[0]}', which this student does not have.")
        lacking = [n for n in _trained(parameters, adam) if n not in names]
        if lacking:
            raise LimbeckError(f"{folder}: lacks '{lacking[0]}', which this stage trains.")
        counts = at.get("others", {})  # earlier checkpoints had updated all alike
        updated = {n: counts.get(n, at["updates"]) for n in _trained(parameters, adam)}
        bare = [n for n, count in updated.items() if count and f"exp_avg:{n}" not in keys]
        if bare:
            raise LimbeckError(f"{folder}: lacks the optimizer's state of '{bare[0]}'.")
        for name in names:
            _fill(parameters[name], _whole(readers, name), world, f"{folder}: {name}")
            if adam is not None and updated.get(name) and f"exp_avg:{name}" in keys:
                there = parameters[name].device
                step = torch.tensor(float(updated[name]), device=there)
                adam.state[parameters[name]] = {"step": step} | {
                    moment: _like(parameters[name], _whole(readers, f"{moment}:{name}"), world)
                    for moment in MOMENTS
                }
    return at


def _trained(parameters: Mapping[str, Tensor], adam: torch.optim.Optimizer | None) -> list[str]:
    """The names that an optimizer trains; none where only weights are read."""
    return [n for n, tensor in parameters.items() if adam is not None and tensor.requires_grad]


def _fill(parameter: Tensor, whole: Tensor, world: World, where: str) -> None:
    mine = piece(whole, parameter, world)
    place = local(parameter.detach())
    if mine.shape != place.shape:
        raise LimbeckError(f"{where}: found {tuple(mine.shape)}, wanted {tuple(place.shape)}.")
    place.copy_(mine)


def _like(parameter: Tensor, whole: Tensor, world: World) -> Tensor:
    """A moment, sharded as its parameter is."""
    moment = torch.zeros_like(parameter, requires_grad=False)
    _fill(moment, whole, world, "optimizer state")
    return moment


def found(folder: Path, *, by: str = CROSS_ENTROPY) -> list[Saved]:
    """The checkpoints of a stage that look complete, newest first. by: the figure whose scores count."""
    saved = []
    for path in folder.glob("[0-9]*"):
        if (path / files.MANIFEST).is_file() and (path / STATE).is_file():
            try:
                told = files.read_json(path / STATE)
                score = told.get("score") if told.get("judged_by", CROSS_ENTROPY) == by else None
                saved.append(Saved(path, int(path.name), score, bool(told.get("ended_early"))))
            except Damaged:
                saved.append(Saved(path, int(path.name), None))
    return sorted(saved, key=lambda item: item.step, reverse=True)


def newest(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint whose every byte verifies, and why newer ones were passed over."""
    reasons = []
    for item in found(folder):
        try:
            files.verify(item.folder)
        except Damaged as reason:
            reasons.append(str(reason))
        else:
            return item.folder, reasons
    return None, reasons


def set_aside(folder: Path, last: Path | None) -> list[Path]:
    """Hides what stands after the last checkpoint that verifies: those steps are trained and saved again."""
    hidden = []
    for path in sorted(folder.glob("[0-9]*")):
        if last is None or int(path.name) > int(last.name):
            aside = path.with_name(f".damaged-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            hidden.append(path.rename(aside))
    return hidden


def removable(saved: list[Saved], *, keep_last: int, keep_best: int) -> list[Saved]:
    """Which checkpoints may go, given that the newest one verifies: neither last nor best."""
    newest_first = sorted(saved, key=lambda item: item.step, reverse=True)
    judged = [item for item in newest_first if item.score is not None]
    best = sorted(judged, key=lambda item: (item.score, -item.step))[:keep_best]
    kept = [*newest_first[: max(1, keep_last)], *best]
    return [item for item in newest_first if item not in kept]


def prune(folder: Path, *, keep_last: int, keep_best: int, by: str = CROSS_ENTROPY) -> None:
    """Removes old checkpoints, but only once the newest one verifies."""
    saved = found(folder, by=by)
    if saved:
        files.verify(saved[0].folder)
    for item in removable(saved, keep_last=keep_last, keep_best=keep_best):
        # Renamed first: a removal that is cut short must not leave a folder that looks complete.
        going = item.folder.with_name(f".partial-removed-{item.folder.name}")
        item.folder.rename(going)
        shutil.rmtree(going)
