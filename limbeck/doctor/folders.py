"""Folders that are there already: a run of this name, and a cache, which may be another teacher's or damaged."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from limbeck import loading, prints, recorded
from limbeck.cache.format import ABOUT, CacheAbout, read_about
from limbeck.cache.read import CacheReader
from limbeck.doctor.case import Case, Learner
from limbeck.doctor.findings import Finding, Findings, attempted, fault, note, ok, warning
from limbeck.featuring import folder as features_of
from limbeck.folder import Folder
from limbeck.planning import Several
from limbeck.training import checkpoint
from limbeck.types import Source

LOOKED_AT = 256
"""Rows of a stage that are looked for in a cache to which nothing can be added."""


def runs(case: Case) -> Findings:
    """The run's folder, where there is one."""
    for one in case.learners:
        folder = Folder(Path(one.recipe.runs) / one.recipe.name)
        if not folder.recipe.is_file():
            yield ok(f"{folder.path} holds no run yet.", one.where)
            continue
        where = str(folder.path)
        yield from attempted(where, partial(_same, one, folder, where))
        yield from attempted(where, partial(_made_of, case, one, folder))
        yield from attempted(where, partial(_free, folder, where))
        yield from attempted(where, partial(_checkpoints, one, folder))


def _same(one: Learner, folder: Folder, where: str) -> list[Finding]:
    folder.check(loading.dump(one.recipe), prints.identity)
    return [ok("holds a run of this recipe, which goes on.", where)]


def _made_of(case: Case, one: Learner, folder: Folder) -> list[Finding]:
    prints.check_models(case.ground_of(one), folder)
    return []


def _free(folder: Folder, where: str) -> list[Finding]:
    """Whether another process works in it. A lock that is not there is not made."""
    lock = folder.path / ".lock"
    if lock.is_file():
        try:
            with FileLock(lock, timeout=0):
                pass
        except Timeout:
            said = "is in use by another process"
            return [fault(said, where, cure="Wait for it, stop it, or give this run another name.")]
    return []


def _checkpoints(one: Learner, folder: Folder) -> list[Finding]:
    found = []
    for index, stage in enumerate(one.recipe.stages):
        place = folder.checkpoints(index, stage.name)
        last, damaged = checkpoint.newest(place)
        cure = f"The run goes on from {last.name if last else 'its beginning'}."
        found += [warning(reason, str(place), cure=cure) for reason in damaged]
    return found


def cache(case: Case) -> Findings:
    """The cache of a cached teacher: of this teacher and text, whole, and complete where nobody can add to it."""
    teacher = case.recipe.teacher
    if teacher is None or teacher.name != "cached":
        return
    yield from attempted("teacher.cached", partial(_lengths, case))
    yield from attempted("teacher.cached", partial(_cache, case))


def _lengths(case: Case) -> list[Finding]:
    """Rows of several lengths are refused."""
    parts: list[tuple[Source, int]] = []
    for index in range(len(case.recipe.stages)):
        source = case.stage_source(index)
        parts.append((source, source.rows))
    Several(parts)
    return []


def _cache(case: Case) -> Findings:
    given = recorded.options(case.recipe)
    path = Path(given["path"])
    asked = given.get("model") is not None or given.get("server") is not None
    if not (path / ABOUT).is_file():
        if not asked:
            read_about(path)  # says what is missing
        yield ok(f"{path} holds nothing yet: it is recorded first.", "teacher.cached")
        return
    about = recorded.cache_about(case.base(), case.length(0)) if asked else None
    reader = CacheReader(path, about)
    yield ok(f"{path}: {len(reader):,} rows of kind {reader.about.kind}, every byte as written.")
    if about is not None:
        yield from attempted("teacher.cached", partial(_features, case, path, about))
    else:
        yield from attempted("teacher.cached", partial(_rows, case, reader))


def _features(case: Case, path: Path, about: CacheAbout) -> Findings:
    for each in recorded.feature_abouts(case.recipe, about):
        place = features_of(path, each.tap)
        if (place / ABOUT).is_file():
            CacheReader(place, each)
        else:
            yield note(f"{path}: nothing was recorded at {each.tap} yet.", "teacher.cached")


def _rows(case: Case, reader: CacheReader) -> list[Finding]:
    """Rows that a stage reads, in a cache of which nobody knows the teacher."""
    for index, stage in enumerate(case.recipe.stages):
        source = case.stage_source(index)
        read = min(case.steps(index) * stage.rows_per_step, source.rows, LOOKED_AT)
        reader.check_holds(source.batch(range(read)).addresses)
    return []
