"""report.html and report.md of a run: one page that needs nothing else, and the same in plain text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from limbeck import files
from limbeck.report import benchmarks, charts, collect, cost, markup, pages, speeds

# Nats of KL at which a token is as dark as it gets.
_DARKEST = 4.0


def write(run: Path) -> Path:
    """Writes both reports into the run's folder. Returns the path of report.html."""
    found = collect.facts(run)
    files.write_bytes(run / "report.html", html(found).encode())
    files.write_bytes(run / "report.md", markdown(found).encode())
    return run / "report.html"


def html(found: collect.Facts) -> str:
    """One self-contained page: no file, font or script is fetched."""
    headings, rows = collect.table(found)
    answered, answers = benchmarks.table(found.benchmarks)
    measured, speed = speeds.table(found.speed)
    return pages.filled(
        "page.html.jinja",
        charts.all_charts(found),
        {
            "found": found,
            "verdict": collect.verdict(found),
            "ends": collect.ends(found),
            "headings": headings,
            "rows": rows,
            "gaps": _gaps(found),
            "answered": answered,
            "answers": answers,
            "measured": measured,
            "speed": speed,
            "commands": _commands(found),
            "tokens": [_token(one) for one in found.tokens],
            "cost": cost.of_run(found).rows(),
            "provenance": _flat(found.provenance),
        },
    )


def _token(one: dict[str, Any]) -> dict[str, Any]:
    """A token as the page shows it: its shade from 0 to 1, and what is told of it."""
    nats = one["kl"].get("student", 0.0)
    lines = [
        f"{model}: {one['said'][model]:.1%} for this; "
        + ", ".join(f"{text!r} {chance:.1%}" for text, chance in one["likeliest"][model])
        for model in one["likeliest"]
    ]
    told = f"{one['text']!r}: {nats:.2f} nats apart\n" + "\n".join(lines)
    return {"text": one["text"], "shade": round(min(1.0, nats / _DARKEST), 2), "told": told}


def _benchmarks(found: collect.Facts) -> list[str]:
    headings, rows = benchmarks.table(found.benchmarks)
    again = [_again(command) for command in _commands(found)]
    return [*markup.table(headings, rows), "", *again]


def _again(command: Any) -> str:
    return f"Again: {markup.code(str(command))}"


def _commands(found: collect.Facts) -> list[str]:
    """The commands that the answers came of, each once."""
    return list(dict.fromkeys(str(each["command"]) for each in found.benchmarks))


def _gaps(found: collect.Facts) -> list[tuple[str, str]]:
    return [
        (charts.words(key), f"{value:.1%}{_range(found, key)}") for key, value in found.gaps.items()
    ]


def _range(found: collect.Facts, key: str) -> str:
    ends = next(
        (
            one["gap_intervals"][key]
            for one in found.sure.values()
            if key in one.get("gap_intervals", {})
        ),
        None,
    )
    return "" if ends is None else f" ({ends[1]:.1%} to {ends[2]:.1%})"


def _flat(tree: dict[str, Any], before: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in tree.items():
        name = f"{before}{key}"
        if isinstance(value, dict):
            rows += _flat(value, f"{name}.")
        else:
            rows.append((name, _told(value)))
    return rows


def _told(value: Any) -> str:
    items = value if isinstance(value, list) else [value]
    return ", ".join("none" if item is None else str(item) for item in items) or "none"


def markdown(found: collect.Facts) -> str:
    """The report for a terminal or a pull request."""
    headings, rows = collect.table(found)
    lines = [f"# {markup.line(found.name)}", "", collect.verdict(found), ""]
    for told in collect.ends(found):
        lines += [markup.line(told), ""]
    if rows:
        lines += [*markup.table(headings, rows), ""]
    for name, value in _gaps(found):
        lines.append(f"- Gap recovered, {name}: {value} of (control - teacher)")
    if found.about:
        lines += [
            "",
            f"Held-out text: {found.about['rows']} rows of {found.about['length']} tokens. "
            f"{_again(found.about['command'])}",
        ]
    if found.benchmarks:
        lines += ["", "## Benchmarks", "", *_benchmarks(found)]
    if found.speed:
        measured, speed = speeds.table(found.speed)
        lines += ["", "## How fast they read and write", "", *markup.table(measured, speed)]
        lines += ["", _again(found.speed["command"])]
    if found.samples:
        lines += ["", f"After the words {markup.code(found.samples['prompt'])}:", ""]
        for model, text in found.samples["models"].items():
            told = json.dumps(text.strip(), ensure_ascii=False)
            lines += [f"- {model}: {markup.code(told)}"]
    took = cost.of_run(found).rows()
    lines += ["", "## Cost", "", *(f"- {name}: {value}" for name, value in took)] if took else []
    recipe = found.recipe.strip()
    fence = markup.fence(recipe)
    lines += ["", "## Recipe", "", f"{fence}yaml", recipe, fence, "", "## Provenance", ""]
    lines += [f"- {name}: {markup.code(value)}" for name, value in _flat(found.provenance)]
    return "\n".join(lines) + "\n"
