"""The model card of an exported student: what it is, of what it was made, how good, what it took, and how to make it again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from limbeck.licences import HUB, Origin
from limbeck.measurement import Card
from limbeck.report import benchmarks, collect, cost, markup

_ERROR = "_stderr"


@dataclass(frozen=True)
class Made:
    """An arm as its card tells of it. model: 'student' or 'control', its name in figures.

    began: whose weights it began with, None where they were drawn. texts: what it was trained on. code: the package to
    import before it loads, where transformers alone does not know it.
    """

    name: str
    model: str
    method: str
    tags: tuple[str, ...]
    parameters: int
    tokens: int
    teacher: Origin | None
    teacher_parameters: int | None
    fingerprint: str | None
    began: Origin | None
    texts: tuple[Origin, ...]
    recipe: str
    own: Card
    code: str | None = None


def written(made: Made, run: collect.Facts) -> str:
    """The card: metadata as the Hub reads it, and a page for people. run: what the run's folder holds so far."""
    environment = Environment(
        loader=PackageLoader("limbeck.report", ""),
        autoescape=False,  # noqa: S701 (Markdown: the Hub makes the page of it, and cleans it)
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"code": markup.code, "code_cell": _code_cell, "line": markup.line}
    headings, rows = collect.table(run)
    answered, answers = benchmarks.table(run.benchmarks)
    return environment.get_template("card.md.jinja").render(
        metadata=metadata(made, run).to_yaml().strip(),
        made=made,
        run=run,
        verdict=collect.verdict(run),
        table="\n".join(markup.table(headings, rows)) if rows else "",
        answers="\n".join(markup.table(answered, answers)) if answers else "",
        commands=list(dict.fromkeys(str(each["command"]) for each in run.benchmarks)),
        smaller=_smaller(made),
        licence=licence(made),
        cost=cost.of_run(run).trained(),
        machine=_machine(run.provenance.get("hardware", {})),
        fence=markup.fence(made.recipe),
    )


def _code_cell(text: str) -> str:
    """A text of somebody else's as code in a cell of a table."""
    return markup.code(text).replace("|", r"\|")


def licence(made: Made) -> str | None:
    """The student's: what the recipe says, or that of the model whose weights it began with, where that is known."""
    return made.own.license or (made.began.licence if made.began else None)


def metadata(made: Made, run: collect.Facts) -> ModelCardData:
    """What programs read of a card. Folders of this machine are nobody's base model."""
    told = licence(made)
    known = told in HUB
    base = made.began.on_hub if made.began else None
    texts = [one.on_hub for one in made.texts if one.on_hub]
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        license=told if known or told is None else "other",
        license_name=None if known else told,
        language=list(made.own.language) or None,
        base_model=base,
        base_model_relation="finetune" if base else None,
        datasets=list(dict.fromkeys([*made.own.datasets, *texts])) or None,
        tags=list(made.tags),
        model_name=made.name,
        eval_results=_results(made, run) or None,
    )


def _results(made: Made, run: collect.Facts) -> list[EvalResult]:
    """The figures of this model alone, as the Hub lists them."""
    found = []
    for each in run.benchmarks:
        for figure, value in each["models"].get(made.model, {}).items():
            if figure.endswith(_ERROR):
                continue
            found.append(_result(str(each["measure"]), figure, value))
    bits = run.figures.get("bits_per_byte", {}).get(made.model)
    if bits:
        found.append(_result("held-out text", "bits_per_byte", bits["bits_per_byte"]))
    return found


def _result(text: str, figure: str, value: float) -> EvalResult:
    kind = text.replace(" ", "-")
    return EvalResult(
        task_type="text-generation",
        dataset_type=kind,
        dataset_name=text,
        metric_type=figure,
        metric_value=value,
        metric_name=figure.replace("_", " "),
    )


def _smaller(made: Made) -> str:
    """How large a student is beside its teacher."""
    if not made.teacher_parameters:
        return ""
    return f", {made.parameters / made.teacher_parameters:.1%} of the teacher's {made.teacher_parameters:,}"


def _machine(hardware: dict[str, Any]) -> str:
    """The machine in words."""
    if not hardware:
        return ""
    gpus: list[str] = hardware.get("gpus", [])
    counts = [f"{gpus.count(name)} × {name}" for name in dict.fromkeys(gpus)]
    own = f"{hardware.get('processor')}, {hardware.get('cores')} cores, {hardware.get('system')}"
    return "; ".join([*counts, own])
