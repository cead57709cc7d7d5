"""The comparison of runs as a table and as one page that needs nothing else: who is better, who is smaller, who is beaten by nobody."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import plotly.graph_objects as go

from limbeck.intervals import Interval
from limbeck.report import pages
from limbeck.report.entries import Entry, unbeaten

BITS, KL = ("bits_per_byte", "bits_per_byte"), ("agreement", "kl_to_teacher")
_SIZE, _SPEED = ("models", "parameters"), ("speed", "tokens_per_second")
_SPACE = "\u00a0"  # which no line is broken at
_TO = f"{_SPACE}to{_SPACE}"
Value = Callable[[Entry], float | None]
# Okabe and Ito's, which people with any colour vision tell apart; shapes tell them apart in print.
_HUES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#7f7f7f")
_MARKS = ("circle", "square", "diamond", "cross", "triangle-up", "x", "star")
# What quality is set against: title, unit, value, and whether less of it is better.
AXES: tuple[tuple[str, str, Value, bool], ...] = (
    ("size", "parameters", lambda one: one.value(*_SIZE), True),
    ("speed", "tokens/s when judged", lambda one: one.value(*_SPEED), False),
    ("training", "tokens trained on", lambda one: one.trained, True),
)


def table(entries: Sequence[Entry]) -> tuple[list[str], list[list[str]]]:
    """Headings, and a row an entry, as text."""
    base = entries[0].title
    headings = ["run", "seeds", "parameters", "trained on", "tokens/s", "bits per byte"]
    headings += [f"beside {base}", "KL to the teacher", f"KL beside {base}", "gap recovered"]
    return headings, [_row(one) for one in entries]


def _row(one: Entry) -> list[str]:
    return [
        one.title,
        str(len(one.runs)),
        _number(one.value(*_SIZE)),
        _number(one.trained),
        _number(one.value(*_SPEED)),
        _sure(one, BITS),
        _beside(one.against.get(BITS[1]), paired=one.paired),
        _sure(one, KL),
        _beside(one.against.get(KL[1]), paired=True),
        _gap(one),
    ]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _sure(one: Entry, figure: tuple[str, str]) -> str:
    value, ends = one.value(*figure), one.intervals.get(figure[1])
    if value is None:
        return "–"
    told = f"{value:.4f}"
    if ends is not None and ends.low != ends.high:
        told += f" ({ends.low:.4f}{_TO}{ends.high:.4f})"
    low, high = (f"{end(one.each(*figure)):.4f}" for end in (min, max))
    return told if low == high else f"{told}, seeds{_SPACE}{low}{_TO}{high}"


def _beside(difference: Interval | None, *, paired: bool) -> str:
    if difference is None:
        return "–"
    told = f"{difference.value:+.4f} ({difference.low:+.4f}{_TO}{difference.high:+.4f})"
    if not difference.certain:
        told += ", may be none"
    return told if paired else f"{told}, other rows"


def _gap(one: Entry) -> str:
    gaps = [run.facts.gaps[BITS[1]] for run in one.runs if BITS[1] in run.facts.gaps]
    if one.first.model != "student" or not gaps:
        return "–"
    return f"{sum(gaps) / len(gaps):.1%}"


def charts(entries: Sequence[Entry]) -> list[tuple[str, go.Figure]]:
    """Quality against size, speed and training, with a line through those that nobody beats in both."""
    drawn = [
        (title, _pareto(entries, title, unit, value, less)) for title, unit, value, less in AXES
    ]
    return [
        (f"Bits per byte against {title}; lower is better, the line joins what nobody beats", one)
        for title, one in drawn
        if one is not None
    ]


def _pareto(
    entries: Sequence[Entry], title: str, unit: str, value: Value, less: bool
) -> go.Figure | None:
    found = [(one, value(one), one.value(*BITS)) for one in entries]
    points = [(one, x, y) for one, x, y in found if x is not None and y is not None]
    if len(points) < 2:
        return None
    best = unbeaten([(x if less else -x, y) for _, x, y in points])
    line = sorted((points[at][1], points[at][2]) for at in best)
    figure = go.Figure()
    figure.add_scatter(
        x=[x for x, _ in line], y=[y for _, y in line], mode="lines", name="beaten by nobody",
        line={"color": "#7f7f7f", "dash": "dot"}, hoverinfo="skip",
    )  # fmt: skip
    for number, (one, x, y) in enumerate(points):
        figure.add_scatter(
            x=[x],
            y=[y],
            mode="markers",
            name=one.title,
            marker={
                "size": 11,
                "color": _HUES[number % len(_HUES)],
                "symbol": _MARKS[number % len(_MARKS)],
            },
            error_y=_whisker(y, one.intervals.get(BITS[1])),
        )
    layout = pages.LAYOUT | {"title": f"Quality and {title}", "height": 420}
    figure.update_layout(**layout, xaxis_title=unit, yaxis_title="bits per byte (lower is better)")
    figure.update_layout(legend={"orientation": "h", "y": -0.32, "yanchor": "top"})
    return figure


def _whisker(value: float, ends: Interval | None) -> dict[str, Any]:
    above, below = (ends.high - value, value - ends.low) if ends else (0.0, 0.0)
    return pages.WHISKERS | {"array": [above], "arrayminus": [below]}


def html(entries: Sequence[Entry]) -> str:
    """One self-contained page."""
    headings, rows = table(entries)
    return pages.filled(
        "contrast.html.jinja",
        charts(entries),
        {
            "headings": headings,
            "rows": rows,
            "names": [one.title for one in entries],
            "sources": sorted(
                {str(run.facts.about.get("command", "")) for one in entries for run in one.runs}
            ),
        },
    )


def plain(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """The same for programs."""
    return [
        {
            "run": one.title,
            "model": one.first.model,
            "runs": [run.facts.name for run in one.runs],
            "seeds": [run.seed for run in one.runs],
            "parameters": one.value(*_SIZE),
            "trained_tokens": one.trained,
            "tokens_per_second": one.value(*_SPEED),
            "figures": {key: one.each(m, key) for m, key in (BITS, KL)},
            "intervals": {key: ends.plain() for key, ends in one.intervals.items()},
            "difference_from_first": {key: ends.plain() for key, ends in one.against.items()},
            "paired": one.paired,
        }
        for one in entries
    ]
