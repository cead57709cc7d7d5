"""What a run is worth: teacher, student and control on the same held-out text, and the gap recovered."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel

from limbeck import assembly, checked, comparing, confidence, files, loading
from limbeck.assembly import Ground
from limbeck.evaluation._judge import Judged, judge
from limbeck.evaluation._sample import greedy
from limbeck.evaluation._tokens import disagreement
from limbeck.folder import Folder
from limbeck.models import load
from limbeck.recipe import Evaluate
from limbeck.report import benchmarks, collect, shapes, speeds, tables
from limbeck.report.tables import LAYERS, MODELS, SAMPLES, TOKENS
from limbeck.students.pruned import LOOKED_AT

Figures = dict[str, dict[str, dict[str, float]]]
"""{measure: {model: {name: value}}}"""

_HIGHER_IS_BETTER = ("top_1_agreement",)
# Which figure of which measure tells how much of the gap was recovered.
GAPS = (
    ("bits_per_byte", "bits_per_byte"),
    ("agreement", "kl_to_teacher"),
    ("agreement", "top_1_agreement"),
)


def models_of(base: Ground, folder: Folder) -> dict[str, PreTrainedModel]:
    """Teacher, student and control as they would be used: loaded from their folders."""
    found = {}
    teacher = assembly.load_teacher(base)
    if teacher is not None:
        found["teacher"] = teacher
    for title, path in (("student", folder.export), ("control", folder.control.export)):
        if path.is_dir():
            files.verify(path)
            found[title] = load.load_model(str(path), dtype=base.dtype).to(base.device).eval()
    return found


def evaluate(base: Ground, folder: Folder, stop: Callable[[], bool]) -> Figures:
    """Measures all models in one pass and writes evaluation/<measure>.json, samples and sizes."""
    asked = base.recipe.evaluate
    source = assembly.held_out(base)
    if asked is None or source is None:
        return {}
    rows = min(asked.rows, source.rows)
    models = models_of(base, folder)
    measures = [
        loading.checked(part, "evaluation", f"evaluate.measures[{number}]")
        for number, part in enumerate(asked.measures)
    ]
    found = judge(
        models,
        source,
        measures,
        rows=rows,
        vocab=base.vocab,
        device=base.device,
        chunk=base.recipe.compute.chunk or 256,
        stop=stop,
    )
    about = {
        "source": asked.source.model_dump(),
        "rows": rows,
        "length": source.length,
        "asked": _plain(asked),
    }
    sizes = {
        name: {"parameters": float(sum(p.numel() for p in model.parameters()))}
        for name, model in models.items()
    }
    _write_samples(base, folder, models, asked)
    if {"teacher", "student"} <= set(models):
        first = source.batch([0]).to(base.device)
        told = disagreement(models, base.tokenizer, first, vocab=base.vocab)
        files.write_json(folder.evaluation(TOKENS), about | {"row": 0, "tokens": told})
        alike = comparing.of_models(models, source, min(rows, LOOKED_AT))
        files.write_json(folder.evaluation(LAYERS), about | alike)
    for measure, figures in found.figures.items():
        _write(folder, measure, figures, about | _worth(found, measure))
    _write(folder, MODELS, sizes, about)  # last: it says that the others are there
    return {MODELS: sizes, **found.figures}


def _worth(found: Judged, measure: str) -> dict[str, Any]:
    """What tells how sure a measure's figures are, and the sums of rows that they were made of."""
    if measure not in found.rows:
        return {}
    rows, finish = found.rows[measure], found.finishes[measure]
    gaps = [key for of, key in GAPS if of == measure]
    return {
        **confidence.told(rows, finish, gaps),
        "rows_of": found.addresses,
        "row_sums": rows,
    }


def done(folder: Folder, asked: Evaluate) -> bool:
    """Whether every figure that is asked for is written."""
    path = folder.evaluation(MODELS)
    told = files.read_json(path) if path.is_file() else {}
    return isinstance(told, dict) and bool(told.get("asked") == _plain(asked))


def _plain(asked: Evaluate) -> dict[str, Any]:
    """What is asked of held-out text; benchmarks and speed keep their own account."""
    return asked.model_dump(mode="json", by_alias=True, exclude={"benchmarks", "speed"})


def _write(folder: Folder, measure: str, figures: Any, about: dict[str, Any]) -> None:
    whole = {
        "measure": measure,
        "command": f"limbeck evaluate {folder.path}",
        **about,
        "models": figures,
    }
    gaps = {key: gap_recovered({measure: figures}, measure, key) for m, key in GAPS if m == measure}
    gaps = {key: gap for key, gap in gaps.items() if gap is not None}
    sure = {
        key: whole["gap_intervals"][key] for key in gaps if key in whole.get("gap_intervals", {})
    }
    whole |= {"gap_recovered": gaps} if gaps else {}
    files.write_json(folder.evaluation(measure), whole | ({"gap_intervals": sure} if sure else {}))


def _write_samples(
    base: Ground, folder: Folder, models: dict[str, PreTrainedModel], asked: Evaluate
) -> None:
    if asked.prompt is None:
        return
    texts = {
        name: greedy(model, base.tokenizer, asked.prompt, asked.sample_tokens)
        for name, model in models.items()
    }
    files.write_json(folder.evaluation(SAMPLES), {"prompt": asked.prompt, "models": texts})


def gap_recovered(figures: Figures, measure: str, key: str) -> float | None:
    """(control - student) / (control - teacher): 0 is no better than the control, 1 is the teacher itself.

    None where the control is as good as the teacher already: there is no gap, and the quotient would say nonsense.
    """
    models = figures.get(measure, {})
    if not {"teacher", "student", "control"} <= set(models):
        return None
    teacher, student, control = (
        models[name].get(key) for name in ("teacher", "student", "control")
    )
    if teacher is None or student is None or control is None:
        return None
    return recovered(teacher, student, control, key in _HIGHER_IS_BETTER)


def recovered(teacher: float, student: float, control: float, higher: bool) -> float | None:
    """The share of the way from control to teacher that a student went; None where the teacher is no better."""
    behind = teacher - control if higher else control - teacher
    return None if behind <= 0 else (control - student) / (control - teacher)


def read(folder: Folder) -> Figures:
    """The figures that a run's folder holds."""
    return tables.figures(tables.read(folder.path / "evaluation"))


def tell(folder: Folder, report: Path | None) -> None:
    """Prints the table of figures, the gap recovered, the samples and where the report is."""
    figures, console = read(folder), Console()
    if figures:
        console.print(_table(figures))
        for measure, key in GAPS:
            gap = gap_recovered(figures, measure, key)
            name = key.replace("_", " ")
            if gap is None and {"teacher", "control"} <= set(figures.get(measure, {})):
                console.print(
                    f"no gap in {name}: the control is as good as the teacher", highlight=False
                )
            if gap is not None:
                console.print(
                    f"gap recovered, {name}: {gap:.1%} of (control - teacher)", highlight=False
                )
        console.print(collect.verdict(collect.facts(folder.path)), highlight=False, markup=False)
    tell_benchmarks(folder.path / "evaluation/benchmarks")
    tell_speed(folder.path / "evaluation")
    samples = folder.evaluation(SAMPLES)
    if samples.is_file():
        told = checked.read(samples, shapes.Samples, shapes.AGAIN)
        console.print(f"\nAfter the words: {told['prompt']!r}", highlight=False, markup=False)
        for name, text in told["models"].items():
            console.print(f"  {name}: {text.strip()!r}", highlight=False, markup=False)
    if report:
        console.print(f"\nReport: {report}", soft_wrap=True, highlight=False)


def tell_benchmarks(place: Path) -> None:
    """Prints what models answered in benchmarks, where there is anything."""
    kept = benchmarks.read(place)
    if not kept:
        return
    _print_table("Benchmarks (lm-eval)", *benchmarks.table(kept))


def tell_speed(place: Path) -> None:
    """Prints how fast models write, where that was measured."""
    kept = speeds.read(place)
    if kept:
        _print_table("How fast they read and write", *speeds.table(kept))


def _print_table(title: str, headings: list[str], rows: list[list[str]]) -> None:
    table = Table(title=title)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number < 2 else "right")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


_COLUMNS: tuple[tuple[str, str, str, str], ...] = (
    (MODELS, "parameters", "parameters", ",.0f"),
    ("bits_per_byte", "bits_per_byte", "bits per byte", ".4f"),
    ("agreement", "kl_to_teacher", "KL to teacher", ".4f"),
    ("agreement", "top_1_agreement", "top-1 agreement", ".2%"),
    ("speed", "tokens_per_second", "tokens/s", ",.0f"),
)


def _table(figures: Figures) -> Table:
    table = Table(title="On held-out text")
    table.add_column("model")
    shown = [column for column in _COLUMNS if column[0] in figures]
    for _, _, heading, _ in shown:
        table.add_column(heading, justify="right")
    for model in tables.models(figures):
        cells = [
            format(figures[m].get(model, {}).get(key, float("nan")), form)
            for m, key, _, form in shown
        ]
        table.add_row(model, *cells)
    return table


def probe(base: Ground) -> torch.Tensor:
    """Token ids (1, time) on which an exported student is compared with the trained one."""
    source = assembly.held_out(base) or assembly.stage_source(base, base.recipe.stages[-1])
    return source.batch([0]).input_ids[:, :64]
