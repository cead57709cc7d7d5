"""The charts of a report, drawn with plotly: colours that read in light and in dark."""

from __future__ import annotations

import math

import plotly.graph_objects as go

from limbeck.report import machine, pages
from limbeck.report.collect import HELD_OUT, Curves, Facts, within

# Two of Okabe and Ito's colours, which people with any colour vision tell apart on black and on white.
COLOURS = {"student": "#0072b2", "control": "#d55e00"}
DASHES = {"student": "solid", "control": "dot"}
WINDOWS = 20
# Of looks at held-out rows: counts, what is the teacher's alone, and what cross-entropy says already.
_NO_CURVES = ("tokens", "bytes", "nats_per_token", "teacher_nll", "teacher_mass_on_its_top_k")


def words(name: str) -> str:
    """The name of a term or figure as people write it: 'forward KL'."""
    return " ".join("KL" if part == "kl" else part for part in name.split("_"))


def smooth(values: list[float]) -> list[float]:
    """An exponential mean without the bias of its start, so that noisy steps show their way.

    It looks back over a twentieth of the curve: more would hide how far a short run has come.
    """
    kept = 1 - min(1.0, WINDOWS / max(1, len(values)))
    found, mean, weight = [], 0.0, 0.0
    for value in values:
        mean = kept * mean + (1 - kept) * value
        weight = kept * weight + (1 - kept)
        found.append(mean / weight)
    return found


def terms(found: Facts) -> list[str]:
    """The names of all terms that any arm logged, in the order of their first line."""
    names: dict[str, None] = {}
    for curves in found.curves:
        for line in curves.lines:
            names |= dict.fromkeys(line.get("terms", {}))
    return list(names)


def _added(figure: go.Figure, curves: Curves, keys: tuple[str, ...], *, smoothed: bool) -> bool:
    xs, ys = curves.points(*keys)
    ys = [value if math.isfinite(value) else 0.0 for value in ys]
    if not xs:
        return False
    colour = COLOURS.get(curves.title, "#009e73")
    if smoothed:
        figure.add_scatter(
            x=xs, y=ys, mode="lines", line={"color": colour, "width": 1}, opacity=0.4,
            showlegend=False, hoverinfo="skip",
        )  # fmt: skip
    line = {"color": colour, "width": 2, "dash": DASHES.get(curves.title, "solid")}
    shown = smooth(ys) if smoothed else ys
    mode = "lines+markers" if keys[0] == HELD_OUT else "lines"  # looks are few
    figure.add_scatter(x=xs, y=shown, mode=mode, name=curves.title, line=line)
    return True


def curve(
    found: Facts, title: str, axis: str, *keys: str, smoothed: bool = False
) -> go.Figure | None:
    """A value over tokens, a line an arm; None where nobody logged it."""
    figure = go.Figure()
    drawn = [_added(figure, curves, keys, smoothed=smoothed) for curves in found.curves]
    if not any(drawn):
        return None
    figure.update_layout(
        title=title,
        xaxis_title="tokens",
        yaxis_title=axis,
        **pages.LAYOUT,
        hovermode="x unified",
        legend={"orientation": "h", "y": 1.12, "x": 1, "xanchor": "right"},
    )
    return figure


def looks(found: Facts) -> list[tuple[str, go.Figure | None]]:
    """What was seen of held-out rows while it trained: a chart a figure, with what a screen reader says of it."""
    paths: dict[tuple[str, ...], None] = {}
    for curves in found.curves:
        for line in curves.lines:
            seen = line.get(HELD_OUT)
            if seen is None:
                continue
            paths[("cross_entropy",)] = None
            paths |= dict.fromkeys(
                ("measures", measure, name)
                for measure, figures in seen["measures"].items()
                for name in figures
                if name not in _NO_CURVES
            )
            paths |= dict.fromkeys(
                ("terms", term) for term in seen["terms"] if term != "cross_entropy"
            )
    drawn: list[tuple[str, go.Figure | None]] = []
    for path in paths:
        title = f"Held out: {words(path[-1])}"
        drawn.append(
            (f"{title} over tokens", curve(found, title, _unit(path[-1]), HELD_OUT, *path))
        )
    return drawn


def bars(found: Facts, title: str, axis: str, measure: str, key: str) -> go.Figure | None:
    """One figure of every model, side by side."""
    models = found.figures.get(measure, {})
    values = {model: row[key] for model, row in models.items() if key in row}
    if len(values) < 2:
        return None
    colours = [COLOURS.get(model, "#7f7f7f") for model in values]
    ends = [
        within(found, measure, "intervals", model, key) or [values[model]] * 3 for model in values
    ]
    whiskers = pages.WHISKERS | {
        "array": [high - value for value, _, high in ends],
        "arrayminus": [value - low for value, low, _ in ends],
    }
    figure = go.Figure(
        go.Bar(
            x=list(values),
            y=list(values.values()),
            marker_color=colours,
            text=[f"{value:.4g}" for value in values.values()],
            textposition="inside",
            insidetextanchor="middle",
            error_y=whiskers,
        )
    )
    figure.update_layout(**pages.LAYOUT, title=title, yaxis_title=axis, xaxis_showgrid=False)
    return figure


def layers(found: Facts) -> go.Figure | None:
    """How alike each block is to the teacher's block that `at: all` pairs it with, on held-out rows."""
    figure = go.Figure()
    for one in found.layers:
        pairs = list(enumerate(one["paired"]))
        figure.add_scatter(
            x=[block for block, _ in pairs],
            y=[one["cka"][block][theirs] for block, theirs in pairs],
            text=[f"teacher's block {theirs}" for _, theirs in pairs],
            mode="lines+markers",
            name=one["name"],
            line={
                "color": COLOURS.get(one["name"], "#009e73"),
                "dash": DASHES.get(one["name"], "solid"),
            },
        )
    if not figure.data:
        return None
    figure.update_layout(
        **pages.LAYOUT,
        title="Blocks, alike to the teacher's",
        xaxis_title="block of the student",
        yaxis_title="linear CKA",
        hovermode="x unified",
        legend={"orientation": "h", "y": 1.12, "x": 1, "xanchor": "right"},
    )
    return figure


def all_charts(found: Facts) -> list[tuple[str, go.Figure]]:
    """Every chart that this run has data for, with what a screen reader says of it."""
    drawn: list[tuple[str, go.Figure | None]] = [
        (
            "Bits per byte of teacher, student and control on held-out text; lower is better",
            bars(
                found, "Bits per byte (lower is better)", "bits", "bits_per_byte", "bits_per_byte"
            ),
        ),
        (
            "Divergence from the teacher of student and control on held-out text; lower is better",
            bars(
                found,
                "KL to the teacher (lower is better)",
                "nats per token",
                "agreement",
                "kl_to_teacher",
            ),
        ),
    ]
    drawn.append(
        ("How alike each block is to its block of the teacher; 1 is the same", layers(found))
    )
    drawn += looks(found)
    for term in terms(found):
        title = f"Training: {words(term)}"
        drawn.append(
            (
                f"{title} over tokens",
                curve(found, title, _unit(term), "terms", term, smoothed=True),
            )
        )
    drawn += [
        ("Gradient norm over tokens", curve(found, "Gradient norm", "norm", "grad_norm")),
        ("Learning rate over tokens", curve(found, "Learning rate", "rate", "learning_rate")),
        (
            "Tokens per second over tokens",
            curve(found, "Throughput", "tokens/s", "tokens_per_second"),
        ),
        ("Peak memory over tokens", curve(found, "Peak memory", "GB", "peak_gigabytes")),
        (
            "Model FLOPs utilisation over tokens: the share of the devices' peak",
            curve(found, "Model FLOPs utilisation", "share of peak", "model_flops_utilisation"),
        ),
    ]
    told = [(said, figure) for said, figure in drawn if figure is not None]
    return told + machine.charts(found.telemetry)


def _unit(term: str) -> str:
    """What a term or figure is measured in: the comparisons of what models say are in nats but for total variation."""
    if term == "bits_per_byte":
        return "bits"
    if term == "accuracy" or "top" in term.split("_") or "top_1" in term:
        return "share of tokens" if "mass" not in term else "probability"
    said = term == "cross_entropy" or "kl" in term.split("_") or term == "jensen_shannon"
    return "nats per token" if said else "mean over tokens"
