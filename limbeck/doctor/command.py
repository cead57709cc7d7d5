"""The door `limbeck doctor`: every check by itself, a line for each finding, and what it comes to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from limbeck.bringing import own_work

if TYPE_CHECKING:
    from limbeck.doctor.case import Case
    from limbeck.doctor.findings import Finding, Findings

_COLOURS = {
    "ok": "green",
    "note": "cyan",
    "warning": "yellow",
    "fault": "bold red",
    "left out": "dim",
}


def doctor(
    recipe: Annotated[Path, typer.Argument(help="A recipe, a YAML file.", metavar="RECIPE")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Changes to the recipe: key.path=value", metavar="[KEY=VALUE]..."),
    ] = None,
    *,
    weights: Annotated[
        bool, typer.Option("--weights/--no-weights", help="Whether models are loaded and asked.")
    ] = True,
    ranks: Annotated[
        int | None, typer.Option(help="Processes that share the work; else one a GPU.", min=1)
    ] = None,
    json: Annotated[Path | None, typer.Option(help="The file to write all of it to.")] = None,
) -> None:
    """Looks for everything that can be wrong before GPU hours are spent. Ends with 2 where there is a fault."""
    own_work()
    found = examined(recipe, overrides or (), weights=weights, ranks=ranks)
    _show(found)
    counts = Counter(one.severity for one in found)
    if json is not None:
        from limbeck import files

        files.write_json(
            json,
            {"recipe": str(recipe), "counts": counts, "findings": [asdict(one) for one in found]},
        )
    if counts["fault"]:
        raise typer.Exit(2)


def examined(
    path: Path, overrides: Sequence[str] = (), *, weights: bool = True, ranks: int | None = None
) -> list[Finding]:
    """All that is found of a recipe."""
    from limbeck import assembly, loading
    from limbeck.doctor import packages
    from limbeck.doctor.case import Case
    from limbeck.doctor.findings import broke

    try:
        case = Case(loading.load(path, overrides), weights=weights, ranks=ranks)
    except BaseException as reason:  # whatever it was: what needs no recipe is told all the same
        unread = replace(broke(reason), check="recipe")
        return [*_together([("packages", packages.floors)]), unread]
    assembly.settle(case.recipe)
    return _together([("packages", packages.floors), *_checks(case)])


def _checks(case: Case) -> list[tuple[str, Callable[[], Findings]]]:
    """Every check of a recipe that can be read, cheapest first; of a fault that several meet the first one tells."""
    from functools import partial

    from limbeck.doctor import (
        folders,
        machine,
        models,
        packages,
        server,
        settings,
        templates,
        texts,
        vocabulary,
        weights,
    )

    order: list[tuple[str, Callable[[Case], Findings]]] = [
        ("recipe", settings.recipe),
        ("extras", packages.extras),
        ("device", machine.device),
        ("models", models.shapes),
        ("files", models.weights),
        ("stages", models.stages),
        ("tokenizers", vocabulary.tokenizers),
        ("vocabulary", vocabulary.padding),
        ("text", texts.opened),
        ("schedule", settings.schedule),
        ("ends", vocabulary.ends),
        ("templates", templates.templates),
        ("coverage", texts.coverage),
        ("documents", texts.documents),
        ("amounts", texts.amounts),
        ("lengths", texts.lengths),
        ("held out", texts.judged),
        ("memory", machine.memory),
        ("disk", machine.disk),
        ("run", folders.runs),
        ("cache", folders.cache),
        ("server", server.server),
        ("weights", weights.said),
    ]
    return [(name, partial(check, case)) for name, check in order]


def _together(checks: Sequence[tuple[str, Callable[[], Findings]]]) -> list[Finding]:
    """What the checks find; what one was refused for is not told again by another."""
    from limbeck.doctor.findings import attempted

    found: list[Finding] = []
    told: dict[str, str] = {}
    for name, check in checks:
        for one in attempted("", check):
            key = one.found.partition(": ")[2] or one.found
            if one.severity == "fault" and told.setdefault(key, name) != name:
                continue
            found.append(replace(one, check=name))
    return found


def _show(found: Sequence[Finding]) -> None:
    console = Console()
    for one in found:
        where = f"{one.where}: " if one.where and not one.found.startswith(one.where) else ""
        colour = _COLOURS[one.severity]
        head = f"[{colour}]{one.severity:8}[/{colour}] {one.check:10} {escape(where + one.found)}"
        console.print(head, soft_wrap=True, highlight=False)
        for word, text in (("wanted: ", one.wanted), ("", one.cure)):
            if text:
                console.print(f"{'':20}{escape(word + text)}", soft_wrap=True, highlight=False)
        for line in one.lines:
            console.print(f"{'':20}  {escape(line)}", soft_wrap=True, highlight=False)
    counts = Counter(one.severity for one in found)
    told = [
        f"{counts[name]} {name}{'s' * (counts[name] != 1)}" for name in ("fault", "warning", "note")
    ]
    told.append(f"{counts['ok']} things in order")
    told += [f"{counts['left out']} not looked at"] if counts["left out"] else []
    console.print(", ".join(told) + ".", soft_wrap=True, highlight=False)
