"""What a recipe would do, found without loading a weight: parameters, memory, tokens, disk, files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.syntax import Syntax
from rich.table import Table
from transformers import PreTrainedModel

from limbeck import assembly, choosing, linking, loading, recorded
from limbeck.assembly import Model
from limbeck.cache import kinds
from limbeck.cache.format import CacheAbout, chosen
from limbeck.errors import LimbeckError, RecipeError
from limbeck.estimating import GIGA, Estimate, count, estimate, lent
from limbeck.models import load, place, quantised
from limbeck.recipe import Recipe, Stage, Watch
from limbeck.training.links import Tied
from limbeck.training.trained import trainable

# Bytes a token on WikiText-2 (docs/threshold-sampling.md, docs/results.md).
_MEASURED = {
    "sample": " (at threshold 1/50 48 to 57 were measured; a flatter teacher takes more)",
    "rs": " (of 50 draws 68 were measured; a flatter teacher takes more)",
}


def show(recipe: Recipe) -> None:
    """Prints the resolved recipe and the plan."""
    console = Console()
    console.print(Syntax(loading.dump(recipe), "yaml", background_color="default"))
    for one in recipe.each:
        _plan(console, one)


def _plan(console: Console, recipe: Recipe) -> None:
    """The plan of one student."""
    device = place.device_of(recipe.compute.device)
    dtype = place.dtype_of(recipe.compute.dtype, device)
    model = assembly.teacher_model(recipe)
    student = assembly.student_on_meta(recipe)
    teacher = (
        load.build_on_meta(load.load_config(model.name, revision=model.revision)) if model else None
    )
    held = (
        teacher
        if teacher is not None and recipe.teacher and recipe.teacher.name == "live"
        else None
    )
    table = Table(title=f"{recipe.name}: the plan", show_header=False)
    table.add_row("device, dtype", f"{device}, {str(dtype).removeprefix('torch.')}")
    if teacher is not None and model is not None:
        table.add_row("teacher", f"{model.name}: {count(teacher):,} parameters")
    table.add_row("student", f"{count(student):,} parameters")
    deployed = count(assembly.finisher(recipe)(assembly.student_on_meta(recipe)))
    if deployed != count(student):
        table.add_row("  deployed", f"{deployed:,} parameters")
    if shared := lent(student, recipe):
        table.add_row("  the teacher's own", f"{shared:,} parameters, held once with one rank")
    packed, size = quantised.held(student)
    if packed:
        spared = (packed * dtype.itemsize - size) / GIGA
        line = f"{packed:,} parameters in {size / GIGA:.2f} GB, which spares {spared:.2f} GB"
        table.add_row("  quantised", line)
    if kept := _attentions(student):
        table.add_row("  attention", kept)
    for index in range(len(recipe.stages)):
        _add_stage(
            table, recipe, index, student, count(held) if held is not None else 0, dtype.itemsize
        )
    if recipe.watch and recipe.evaluate:
        table.add_row("looks", _looks(recipe.watch, recipe))
    for line in _writes(recipe):
        table.add_row("writes", line)
    console.print(table)
    for warning in warnings(recipe, model):
        console.print(f"[yellow]note:[/yellow] {escape(warning)}", highlight=False)


def _looks(asked: Watch, recipe: Recipe) -> str:
    """When which held-out rows are looked at while a stage trains, for people."""
    rows = asked.rows or recipe.checkpoints.held_out_rows
    behind = recipe.evaluate.rows if recipe.evaluate else 0
    told = f"every {asked.every.amount:,} {asked.every.unit}, at {rows} held-out rows behind the {behind} of evaluate; best by {asked.best}"
    return told + (
        f"; a stage ends after {asked.patience} without a better one" * bool(asked.patience)
    )


def _attentions(student: PreTrainedModel) -> str:
    """Where a hybrid has attention, for people; nothing of other models."""
    kinds = getattr(student.config, "layers_block_type", None)
    if kinds is None:
        return ""
    kept = [str(number) for number, kind in enumerate(kinds) if kind == "full_attention"]
    return f"blocks {', '.join(kept)} of {len(kinds)}" if kept else f"none of {len(kinds)} blocks"


def _add_stage(
    table: Table,
    recipe: Recipe,
    index: int,
    student: PreTrainedModel,
    teacher: int,
    bytes_each: int,
) -> None:
    stage = recipe.stages[index]
    if stage.merged:
        student = assembly.student_on_meta(recipe, stage)
    trained = count(student, trainable(student, stage))
    length = stage.source.options.get("length")
    if not isinstance(length, int):
        raise RecipeError(
            f"stage {stage.name}: the source has no length, so there is nothing to plan."
        )
    per_step = stage.rows_per_step * length
    steps = stage.budget.steps(per_step)
    asked = zip(stage.terms, linking.functions(recipe, stage), strict=True)
    tied = {term.title: one for term, one in asked if isinstance(one, Tied)}
    maps = linking.map_parameters(list(tied.values()))
    peak = peak_of(
        recipe, stage, student, list(tied.values()), teacher=teacher, bytes_each=bytes_each
    )
    arms = 2 if recipe.control else 1
    table.add_section()
    table.add_row(f"stage {stage.name}", " + ".join(term.title for term in stage.terms))
    for title, term in tied.items():
        for line in linking.lines(term):
            table.add_row(f"  {title}", line)
    beside = f", and {maps:,} of projectors" if maps else ""
    table.add_row(
        "  trained / frozen", f"{trained:,} / {count(student) - trained:,} parameters{beside}"
    )
    table.add_row(
        "  tokens", f"{steps * per_step:,} in {steps:,} steps of {per_step:,}, x {arms} arms"
    )
    causes = ", ".join(f"{name} {value:.2f}" for name, value in vars(peak).items())
    table.add_row("  peak memory", f"about {peak.total:.1f} GB on one device ({causes})")
    if recipe.teacher and recipe.teacher.name == "cached":
        sizes = student.config.get_text_config()
        table.add_row("  cache", cache_line(recipe, sizes, steps * per_step))
        for tap, told in feature_lines(recipe, length, steps * per_step).items():
            table.add_row(f"  cache at {tap}", told)
    if recipe.evaluate is None:
        table.add_row("  evaluation", "none")


def peak_of(
    recipe: Recipe,
    stage: Stage,
    student: PreTrainedModel,
    tied: Sequence[Tied],
    *,
    teacher: int,
    bytes_each: int,
) -> Estimate:
    """Peak memory of a stage. student: its shapes, merged where the stage's is. tied: its terms between taps.

    teacher: parameters of a teacher that stands beside.
    """
    trained = count(student, trainable(student, stage))
    maps, taps = linking.map_parameters(tied), linking.channels(tied)
    return estimate(student, trained, teacher, stage, recipe, bytes_each, maps=maps, taps=taps)


def _ids(given: int | list[int] | None) -> list[int]:
    return given if isinstance(given, list) else [] if given is None else [given]


def cache_line(recipe: Recipe, student: Any, tokens: int) -> str:
    """What a stage's tokens take in the recipe's cache, and what was measured where that depends on the text."""
    each = cache_bytes(recipe, student)
    measured = _MEASURED.get(recorded.options(recipe).get("kind", CacheAbout.kind), "")
    return f"about {tokens * each / GIGA:.2f} GB, {each} bytes/token{measured}; a row is kept once"


def cache_bytes(recipe: Recipe, student: Any) -> int:
    """Bytes a token takes in the recipe's cache, rounded; `sample` and `rs` depend on the text."""
    settings = chosen(recorded.options(recipe), vocab=student.vocab_size)
    model = assembly.teacher_model(recipe)
    if settings["kind"] == "kl-vector":
        settings["width"] = student.hidden_size
    if settings["kind"] == "hidden8" and model is not None:
        sizes = load.load_config(model.name, revision=model.revision).get_text_config()
        settings["width"] = sizes.hidden_size
    return round(kinds.estimate(CacheAbout("", "", student.vocab_size, 1, **settings)))


def feature_lines(recipe: Recipe, length: int, tokens: int) -> dict[str, str]:
    """What a stage's tokens take at each of the teacher's taps that are kept beside the recipe's cache."""
    found = {}
    for about in recorded.feature_abouts(recipe, CacheAbout("", "", 1, length)):
        each = kinds.estimate(about)
        kept = f"{about.width:,} channels of {about.share:.0%} of the tokens in {about.numbers}"
        found[about.tap] = (
            f"about {tokens * each / GIGA:.2f} GB, {round(each):,} bytes/token: {kept}"
        )
    return found


def _writes(recipe: Recipe) -> list[str]:
    root = f"{recipe.runs}/{recipe.name}"
    found = [f"{root}/recipe.yaml, provenance.json, audit.jsonl, log.jsonl, log.csv"]
    if recipe.telemetry.every_seconds:
        found.append(f"{root}/telemetry.jsonl (a line every {recipe.telemetry.every_seconds:g} s)")
    if recipe.track:
        found.append(f"to trackers: {', '.join(part.name for part in recipe.track)}")
    for index, stage in enumerate(recipe.stages):
        keep = recipe.checkpoints.keep_last + recipe.checkpoints.keep_best
        found.append(f"{root}/stages/{index + 1}-{stage.name}/checkpoints/ ({keep} at most)")
    found.append(f"{root}/export/, evaluation/, report.html, report.md")
    if recipe.control:
        found.append(f"{root}/control/ (the same again)")
    if recipe.teacher and recipe.teacher.name == "cached":
        found.append(f"{recipe.teacher.options.get('path')}/ (the cache)")
    return found


def warnings(recipe: Recipe, model: Model | None) -> list[str]:
    """What a user should know before spending hours."""
    found = of_recipe(recipe)
    try:
        base = assembly.ground(recipe)
    except LimbeckError as reason:
        found.append(f"tokenizer and models were not compared: {reason}")
        return found
    # A conversation holds its own ends, and what separates it counts nothing.
    texts = [stage.source for stage in recipe.stages if stage.source.name != "chat"]
    separators = {source.options.get("separator", "eos") for source in texts}
    if model and base.tokenizer.eos_token_id not in _ids(
        load.load_config(model.name, revision=model.revision).eos_token_id
    ):
        found.append(
            "the tokenizer's eos id is not the one in the teacher's config: generation may not stop."
        )
    if "eos" in separators:
        found.append(
            f"documents are separated by {base.tokenizer.eos_token!r}, the tokenizer's eos token."
        )
    return found


def of_recipe(recipe: Recipe) -> list[str]:
    """What can be said of a recipe before its models are looked at."""
    found = []
    if not recipe.control and recipe.teacher is not None:
        found.append(
            "no control arm: without 'control: true' nobody can tell whether distillation helped."
        )
    for part in recipe.students or (recipe.student,):
        if asked := choosing.left_to_the_probe(part):
            found.append(
                f"{asked.auto} attentions are kept where the probe will find them most needed; here they are counted as if "
                "they stood at equal distances."
            )
    return found
