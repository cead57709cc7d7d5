"""What a run's folder tells: figures, curves, samples, recipe, provenance. Reads files only, needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from limbeck import checked
from limbeck.errors import LimbeckError
from limbeck.report import benchmarks, machine, shapes, speeds, tables
from limbeck.strict import parse_yaml, text_of

Line = dict[str, Any]
HELD_OUT = "held_out"
"""Where a line of the log keeps a look at held-out rows."""
_TRAINED = "Bring back the file as it was; what it told is nowhere else."
_SURE = ("intervals", "differences", "gap_intervals", "confidence")


@dataclass(frozen=True)
class Curves:
    """The log of one arm. lines: in the order they were trained, tokens counted through all stages."""

    title: str
    lines: list[Line]

    def points(self, *keys: str) -> tuple[list[float], list[float]]:
        """Tokens, and the value at these nested keys, of each line that has it."""
        xs, ys = [], []
        for line in self.lines:
            value: Any = line
            for key in keys:
                value = value.get(key) if isinstance(value, dict) else None
            if isinstance(value, int | float):
                xs.append(float(line["tokens_in_all"]))
                ys.append(float(value))
        return xs, ys


@dataclass(frozen=True)
class Facts:
    """All that a report shows. settings: the recipe as plain data. figures: {measure: {model: {name: value}}}.

    sure: {measure: {'intervals': {model: {name: [value, low, high]}}, 'differences': {pair: …}, 'gap_intervals': {name: …}}}.
    """

    name: str
    recipe: str
    provenance: Line
    curves: list[Curves]
    figures: dict[str, dict[str, dict[str, float]]]
    gaps: dict[str, float] = field(default_factory=dict)
    sure: dict[str, Line] = field(default_factory=dict)
    about: Line = field(default_factory=dict)
    samples: Line = field(default_factory=dict)
    tokens: list[Line] = field(default_factory=list)
    layers: list[Line] = field(default_factory=list)
    telemetry: list[Line] = field(default_factory=list)
    benchmarks: list[Line] = field(default_factory=list)
    speed: Line = field(default_factory=dict)
    settings: Line = field(default_factory=dict)


def facts(run: Path) -> Facts:
    """Everything a run's folder holds; raises LimbeckError where it is no run."""
    written = run / "recipe.yaml"
    if not written.is_file():
        raise LimbeckError(f"{run} is no run: it has no recipe.yaml.")
    held = tables.read(run / "evaluation")
    figures = tables.figures(held)
    gaps: dict[str, float] = {}
    sure: dict[str, Line] = {}
    about: Line = {}
    for measure in figures:
        told = held[measure]
        gaps |= told.get("gap_recovered", {})
        sure[measure] = {key: told[key] for key in _SURE if key in told}
        about = {key: told[key] for key in tables.ABOUT}
    arms = [Curves("student", _lines(run)), Curves("control", _lines(run / "control"))]
    recipe = text_of(written)
    return Facts(
        name=run.resolve().name,
        recipe=recipe,
        provenance=_provenance(run / "provenance.json"),
        curves=[arm for arm in arms if arm.lines],
        figures=figures,
        gaps=gaps,
        sure=sure,
        about=about,
        samples=held.get(tables.SAMPLES, {}),
        tokens=held.get(tables.TOKENS, {}).get("tokens", []),
        layers=held.get(tables.LAYERS, {}).get("students", []),
        telemetry=machine.read(run),
        benchmarks=benchmarks.read(run / "evaluation/benchmarks"),
        speed=held.get(speeds.NAME, {}),
        settings=_settings(recipe, str(written)),
    )


def _settings(recipe: str, where: str) -> Line:
    return dict(checked.value(parse_yaml(recipe, where), shapes.Recipe, where, _TRAINED))


def _provenance(path: Path) -> Line:
    """What the run was made of and on; {} before it was written."""
    if not path.is_file():
        return {}
    return dict(checked.read(path, shapes.Provenance, _TRAINED))


def _lines(run: Path) -> list[Line]:
    """The lines of log.jsonl, with tokens counted through all stages."""
    found = checked.lines(run / "log.jsonl", shapes.LogLine, _TRAINED)
    lines: list[Line] = [dict(line) for line in found]
    before, stage = 0, None
    for index, line in enumerate(lines):
        if line["stage"] != stage:
            before, stage = (lines[index - 1]["tokens_in_all"] if index else 0), line["stage"]
        line["tokens_in_all"] = before + line["tokens"]
    return lines


def ends(found: Facts) -> list[str]:
    """Sentences on the stages that ended before their budget was used."""
    return [
        f"Stage {line['stage']} of the {arm.title} ended early, at step {line['step']:,} of "
        f"{line['ended_early']['of']:,}: {line['ended_early']['why']}."
        for arm in found.curves
        for line in arm.lines
        if "ended_early" in line
    ]


COLUMNS = (
    ("models", "parameters", "parameters", "{:,.0f}"),
    ("bits_per_byte", "bits_per_byte", "bits per byte", "{:.4f}"),
    ("bits_per_byte", "nats_per_token", "nats per token", "{:.4f}"),
    ("agreement", "kl_to_teacher", "KL to the teacher", "{:.4f}"),
    ("agreement", "top_1_agreement", "top-1 agreement", "{:.2%}"),
    ("agreement", "top_k_overlap", "top-k overlap", "{:.2%}"),
    ("speed", "tokens_per_second", "tokens/s", "{:,.0f}"),
)


def table(found: Facts) -> tuple[list[str], list[list[str]]]:
    """The figures as text: headings, and a row a model."""
    shown = [column for column in COLUMNS if column[0] in found.figures]
    rows = []
    for model in tables.models(found.figures):
        cells = []
        for measure, key, _, form in shown:
            value = found.figures[measure].get(model, {}).get(key)
            ends = within(found, measure, "intervals", model, key)
            cells.append("–" if value is None else form.format(value) + _ends(ends, form))
        rows.append([model, *cells])
    return ["model", *(heading for _, _, heading, _ in shown)], rows


def within(found: Facts, measure: str, *keys: str) -> list[float] | None:
    """[value, low, high] of a figure, or None where nobody knows how sure it is."""
    here: Any = found.sure.get(measure, {})
    for key in keys:
        here = here.get(key) if isinstance(here, dict) else None
    return here if isinstance(here, list) else None


def _ends(ends: list[float] | None, form: str) -> str:
    """The interval behind a figure: nothing where it is a point, such as the teacher's distance to itself."""
    if ends is None or ends[1] == ends[2]:
        return ""
    return f" ({form.format(ends[1])} to {form.format(ends[2])})"


def verdict(found: Facts) -> str:
    """One sentence: did distillation help? By how much, against a control that saw the same text, and how sure that is."""
    bits, kl = found.figures.get("bits_per_byte", {}), found.figures.get("agreement", {})
    if not found.figures:
        return "This run has not been evaluated yet."
    known = {model for model, told in bits.items() if "bits_per_byte" in told}
    if "student" not in known:
        return "Bits per byte were not measured, so there is no verdict."
    if "control" not in known:
        return "This run has no control arm, so nobody can tell whether distillation helped."
    gain = bits["control"]["bits_per_byte"] - bits["student"]["bits_per_byte"]
    parts = [
        _better(
            gain, "bits per byte of held-out text", _behind(found, "bits_per_byte", "bits_per_byte")
        )
    ]
    if all("kl_to_teacher" in kl.get(model, {}) for model in ("student", "control")):
        closer = kl["control"]["kl_to_teacher"] - kl["student"]["kl_to_teacher"]
        ends = _behind(found, "agreement", "kl_to_teacher")
        parts.append(_better(closer, "nats of KL to the teacher", ends))
    return f"Against a control that learned from the same text alone, the student is {'; it is '.join(parts)}."


def _behind(found: Facts, measure: str, key: str) -> tuple[float, float] | None:
    """The ends of the interval of control minus student: how much the student is better."""
    ends = within(found, measure, "differences", "student - control", key)
    return None if ends is None else (-ends[2], -ends[1])


def _better(gain: float, unit: str, ends: tuple[float, float] | None) -> str:
    if gain == 0:
        return f"equal in {unit}"
    word = "better" if gain > 0 else "worse"
    if ends is None:
        return f"{word} by {abs(gain):.4f} {unit}"
    low, high = sorted(end if gain > 0 else -end for end in ends)
    told = f"{word} by {abs(gain):.4f} {unit} (95 %: {low:.4f} to {high:.4f})"
    return told if low > 0 else f"{told}, which these rows do not tell from no difference"
