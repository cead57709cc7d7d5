"""Which packages are installed: versions below security floors, below what Limbeck was made for, and extras that are missing."""

from __future__ import annotations

import importlib.metadata
import sys
from dataclasses import dataclass
from functools import partial

from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version

from limbeck import benchmarking, tracking
from limbeck.doctor.case import Case
from limbeck.doctor.findings import Finding, Findings, attempted, fault, ok, warning
from limbeck.recipe import Part


@dataclass(frozen=True)
class Floor:
    """A version below which a package is not safe with files of others, and why."""

    package: str
    version: str
    reason: str


FLOORS = (
    Floor("torch", "2.10", "CVE-2026-24747 and CVE-2025-32434: weights_only loads can run code"),
    Floor(
        "transformers",
        "5.10",
        "CVE-2026-9856 (a chat template is written outside its folder), CVE-2026-5241 and CVE-2026-4372 (a config "
        "fetches code), CVE-2026-1839 (a checkpoint is unpickled)",
    ),
    Floor("safetensors", "0.8.0", "a file saved over its own memory map came out as zeros"),
    Floor("jinja2", "3.1.6", "CVE-2025-27516: a chat template can leave the sandbox"),
)
# Of each line of Python the release that mends CVE-2025-4517: an archive can write outside its folder.
_MENDED = {11: 13, 12: 11, 13: 4}


def floors() -> Findings:
    """Versions below security floors, and below what Limbeck asks for."""
    found = [*_below_floors(), *_below_wanted()]
    if not any(one.severity == "fault" for one in found):
        names = ", ".join(f"{one.package} {_installed(one.package)}" for one in FLOORS)
        yield ok(f"{names}: at or above the security floors.")
    yield from found
    least = _MENDED.get(sys.version_info.minor)
    if least is not None and sys.version_info.micro < least:
        yield warning(
            f"Python {sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro} found: in it an archive that "
            "is unpacked can write outside its folder (CVE-2025-4517), unless the distribution has mended that",
            wanted=f"3.{sys.version_info.minor}.{least} or newer. Limbeck unpacks none; other programs here may.",
        )


def _installed(package: str) -> Version | None:
    try:
        return Version(importlib.metadata.version(package))
    except (importlib.metadata.PackageNotFoundError, InvalidVersion):
        return None


def _below_floors() -> list[Finding]:
    return [
        fault(
            f"{floor.package} {there} found: {floor.reason}",
            wanted=f"{floor.version} or newer.",
            cure=f"pip install --upgrade '{floor.package}>={floor.version}'",
        )
        for floor in FLOORS
        if (there := _installed(floor.package)) is not None and there < Version(floor.version)
    ]


def _below_wanted() -> list[Finding]:
    """What pip was told that Limbeck needs; a package was put in its place since."""
    try:
        lines = importlib.metadata.requires("limbeck") or []
    except importlib.metadata.PackageNotFoundError:  # run from a checkout
        return []
    found = []
    for asked in map(Requirement, lines):
        there = None if asked.marker and not asked.marker.evaluate() else _installed(asked.name)
        if there is None or asked.specifier.contains(there, prereleases=True):
            continue
        below = next((floor for floor in FLOORS if floor.package == asked.name), None)
        if below is not None and there < Version(below.version):
            continue  # told as unsafe
        found.append(
            fault(
                f"{asked.name} {there} found, which Limbeck was not made for",
                wanted=f"{asked.specifier}.",
                cure=f"pip install '{asked.name}{asked.specifier}'",
            )
        )
    return found


def extras(case: Case) -> Findings:
    """Trackers and benchmarks: their packages, keys and files."""
    given = case.asked.track
    twice = len({part.name for part in given}) < len(given)
    for some in [given] if twice else [(part,) for part in given]:
        yield from attempted("track", partial(_trackers, case, some))
    if case.asked.evaluate is not None and case.asked.evaluate.benchmarks is not None:
        yield from attempted("evaluate.benchmarks", partial(_benchmarks, case))


def _trackers(case: Case, some: tuple[Part, ...]) -> list[Finding]:
    tracking.check(case.asked.model_copy(update={"track": some}))
    return [ok(f"{part.name} can be told.", "track") for part in some]


def _benchmarks(case: Case) -> list[Finding]:
    benchmarking.check(case.asked)
    return [ok("every benchmark can be put.", "evaluate.benchmarks")]
