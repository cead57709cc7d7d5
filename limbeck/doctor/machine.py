"""What this machine has: the device and its numbers, memory for every stage, and room on the disks that are written to."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch

from limbeck import assembly, linking, recorded, showing
from limbeck.cache import kinds
from limbeck.cache.format import CacheAbout
from limbeck.doctor.case import Case, Learner
from limbeck.doctor.findings import Finding, Findings, attempted, fault, ok, warning
from limbeck.estimating import GIGA, Estimate, count
from limbeck.models import load, place
from limbeck.recipe import Part, Stage
from limbeck.training.links import Tied
from limbeck.training.trained import trainable

_EXPORTED = {"float32": 4, "bfloat16": 2, "float16": 2}
# Where a container says how much memory it may have.
_LIMIT = Path("/sys/fs/cgroup/memory.max")


def device(case: Case) -> Findings:
    """Devices and dtypes that the recipe names."""
    asked = case.asked.compute
    named = {"compute": (asked.device, asked.dtype)}
    if case.asked.teacher is not None and case.asked.teacher.name == "live":
        given = case.asked.teacher.options
        named["teacher.live"] = (given.get("device", "auto"), given.get("dtype", "auto"))
    for where, (name, dtype) in named.items():
        yield from attempted(where, partial(_device, str(name), str(dtype), where))


def _device(name: str, dtype: str, where: str) -> list[Finding]:
    found = place.device_of(name)
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        there = f"{torch.cuda.device_count()} CUDA devices are here"
        return [fault(f"'{name}' found; {there}", f"{where}.device", wanted="one of those.")]
    number = place.dtype_of(dtype, found)
    fast = place.dtype_of("auto", found)
    if found.type == "cpu" and number in (torch.float16, torch.bfloat16) and number != fast:
        said = f"{dtype} on a CPU that does not multiply it: several times as slow as float32"
        return [warning(said, f"{where}.dtype", cure="Set it to auto or float32.")]
    return [ok(f"{found}, {str(number).removeprefix('torch.')}.", where)]


def memory(case: Case) -> Findings:
    """The peak of every stage beside what the device has."""
    for one in case.learners:
        for index, stage in enumerate(one.recipe.stages):
            where = f"{one.where}, stage {stage.name}"
            yield from attempted(where, partial(_memory, case, one, index, where))


def peak(case: Case, one: Learner, index: int) -> Estimate:
    """What a stage of a student takes on one device."""
    stage = _of_length(one.recipe.stages[index], case.length(index))
    dtype = place.dtype_of(one.recipe.compute.dtype, case.device)
    config = case.teacher_config()
    live = one.recipe.teacher is not None and one.recipe.teacher.name == "live"
    teacher = count(load.build_on_meta(config)) if live and config is not None else 0
    tied = [each for each in linking.functions(one.recipe, stage) if isinstance(each, Tied)]
    shape = case.shape(one, stage)
    return showing.peak_of(
        one.recipe, stage, shape, tied, teacher=teacher, bytes_each=dtype.itemsize
    )


def _of_length(stage: Stage, length: int) -> Stage:
    """The same stage, whose source says its length where only its rows did."""
    source = Part(name=stage.source.name, options=stage.source.options | {"length": length})
    return stage.model_copy(update={"source": source})


def _memory(case: Case, one: Learner, index: int, where: str) -> list[Finding]:
    found, (whole, free) = peak(case, one, index), room(case.device)
    on_gpus = case.device.type == "cuda"
    ranks = case.ranks or (torch.cuda.device_count() if on_gpus else 1)
    shared = found.parameters + found.gradients + found.optimizer + found.teacher
    # Each of several GPUs holds its part of what is sharded; on CPUs all parts lie in one memory.
    rest = found.total - shared
    least = shared / ranks + rest if on_gpus else shared + rest * ranks
    causes = ", ".join(f"{name} {value:.2f}" for name, value in vars(found).items())
    of = f" {'on each' if on_gpus else 'by all'} of {ranks} processes" * (ranks > 1)
    told = f"about {least:.2f} GB{of}"
    cure = "Lower micro_rows or length, set compute.activation_checkpointing, cache the teacher, or take more devices."
    if least > whole:
        said = f"{told} are needed, {case.device} has {whole:.2f} GB ({causes} of one)"
        return [fault(said, where, cure=cure)]
    if least > free:
        said = f"{told} are needed, {free:.2f} of {whole:.2f} GB are free now on {case.device}"
        return [warning(said, where, cure=cure)]
    return [ok(f"{told} of {whole:.2f} GB on {case.device} ({causes}).", where)]


def room(where: torch.device) -> tuple[float, float]:
    """Gigabytes that a device has, and that are free."""
    if where.type == "cuda":
        free, whole = torch.cuda.mem_get_info(where)
        return whole / GIGA, free / GIGA
    told = psutil.virtual_memory()
    limit = _LIMIT.read_text().strip() if _LIMIT.is_file() else "max"
    whole = min(told.total, int(limit)) if limit.isdecimal() else told.total
    return whole / GIGA, min(told.available, whole) / GIGA


@dataclass(frozen=True)
class _Need:
    """Bytes that are still to be written below a folder."""

    folder: Path
    size: float
    what: str


def disk(case: Case) -> Findings:
    """What is written, beside what is free on each disk."""
    wrong = set[Path]()
    for where, folder in _folders(case):
        stands = _standing(folder)
        if not stands.is_dir() or not os.access(stands, os.W_OK | os.X_OK):
            what = "may not be written to" if stands.is_dir() else "is a file"
            wrong.add(folder)
            yield fault(f"{folder} cannot be made: {stands} {what}", where, cure="Name another.")
    needs = list[_Need]()
    asks = [partial(_cache_needs, case), *(partial(_run_needs, case, one) for one in case.learners)]
    for ask in asks:
        yield from attempted("", partial(_gathered, ask, needs))
    disks: dict[int, list[_Need]] = {}
    for need in (one for one in needs if one.folder not in wrong):
        disks.setdefault(_standing(need.folder).stat().st_dev, []).append(need)
    for some in disks.values():
        yield _disk(some)


def _folders(case: Case) -> list[tuple[str, Path]]:
    """What is to be made, and where the recipe says so."""
    found = [("runs", _run_folder(one)) for one in case.learners]
    teacher = case.recipe.teacher
    if teacher is not None and teacher.name == "cached" and "path" in teacher.options:
        found.append(("teacher.cached.path", Path(str(teacher.options["path"]))))
    return found


def _run_folder(one: Learner) -> Path:
    return Path(one.recipe.runs) / one.recipe.name


def _gathered(ask: Any, found: list[_Need]) -> list[Finding]:
    found += ask()
    return []


def _disk(some: list[_Need]) -> Finding:
    free = shutil.disk_usage(_standing(some[0].folder)).free
    whole = sum(need.size for need in some)
    told = ", ".join(f"{need.what} {need.size / GIGA:.3g} below {need.folder}" for need in some)
    said = f"about {whole / GIGA:.3g} GB are still to be written ({told}); {free / GIGA:.1f} GB are free"
    if whole > free:
        cure = (
            "Free some, name other folders, or lower checkpoints.keep_last or what the cache keeps."
        )
        return fault(said, cure=cure)
    if whole > 0.8 * free:
        return warning(said, cure="Free some: nothing else may be written meanwhile.")
    return ok(f"{said}.")


def _standing(folder: Path) -> Path:
    """The folder, or the nearest above it that exists."""
    here = folder.expanduser().absolute()
    return next(path for path in (here, *here.parents) if path.exists())


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _cache_needs(case: Case) -> Iterator[_Need]:
    teacher = case.recipe.teacher
    if teacher is None or teacher.name != "cached" or not recorded.options(case.recipe).get("path"):
        return
    tokens = 0
    for index, stage in enumerate(case.recipe.stages):
        rows = min(case.steps(index) * stage.rows_per_step, case.stage_source(index).rows)
        tokens += rows * case.length(index)
    config = case.learners[0].shape().config.get_text_config()
    each: float = showing.cache_bytes(case.recipe, config)
    for about in recorded.feature_abouts(case.recipe, CacheAbout("", "", 1, case.length(0))):
        each += kinds.estimate(about)
    path = Path(recorded.options(case.recipe)["path"])
    yield _Need(path, max(0, tokens * each - _size(path)), "the cache")


def _run_needs(case: Case, one: Learner) -> Iterator[_Need]:
    keep, arms = one.recipe.checkpoints, 2 if one.recipe.control else 1
    number = 8 if one.recipe.compute.dtype == "float64" else 4
    size = 0.0
    for index, stage in enumerate(one.recipe.stages):
        shape = case.shape(one, stage)
        written = -(-case.steps(index) // keep.every)
        # Parameters and two moments of each; one more stands while the oldest is not removed yet.
        stay = min(keep.keep_last + keep.keep_best + 1, written)
        size += stay * 3 * number * count(shape, trainable(shape, stage))
    leaves = count(assembly.finisher(one.recipe)(assembly.student_on_meta(one.recipe)))
    size += leaves * _EXPORTED[one.recipe.export.dtype]
    folder = _run_folder(one)
    yield _Need(folder, max(0, size * arms - _size(folder)), f"the run of {one.where}")
