"""From a recipe to its live parts: tokenizer, vocabulary, sources, teacher, student."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from limbeck import loading, names, pages
from limbeck.data.tokenize import tokenizer_fingerprint
from limbeck.errors import ModelError, RecipeError
from limbeck.models import load, place
from limbeck.progress import say
from limbeck.recipe import Part, Recipe, Stage
from limbeck.teachers.live import Live
from limbeck.types import Materials, Source, Teacher

_OF_THE_TEACHER = ("adapters", "hybrid", "low_rank_clone", "pruned")
"""Students that begin with the teacher's weights, where they name no model of their own."""
DRAWN = "scratch"
"""The student that has a vocabulary of its own, and no model with files."""


@dataclass(frozen=True)
class Model:
    """A model as a recipe names it."""

    name: str
    revision: str | None = None


@dataclass(frozen=True)
class Ground:
    """What every part of a run stands on. vocab: ids that both models share, their tokenizer's own.

    workers: processes that prepare a text where it is not prepared; no part of what a run is.
    """

    recipe: Recipe
    tokenizer: PreTrainedTokenizerBase
    tokenizer_print: str
    vocab: int
    device: torch.device
    dtype: torch.dtype
    sources: dict[tuple[str, bool], Source] = field(default_factory=dict)
    workers: int = 1


def teacher_model(recipe: Recipe) -> Model | None:
    """The model behind the teacher, where the recipe names one."""
    return model_of(recipe.teacher)


def model_of(part: Part | None) -> Model | None:
    """The model that a part's options name."""
    options = part.options if part else {}
    name = options.get("model")
    return Model(name, options.get("revision")) if name and isinstance(name, str) else None


def began(recipe: Recipe) -> Model | None:
    """The model with whose weights a student begins: its own, or the teacher of which it is made; None where they are drawn."""
    own, made = model_of(recipe.student), recipe.student.name in _OF_THE_TEACHER
    return own or (teacher_model(recipe) if made else None)


def settle(recipe: Recipe) -> None:
    """Sets this process's threads, and what becomes of memory that it frees, as the recipe wants them.

    Before anything is loaded: blocks that lie in the heap already stay there.
    """
    if recipe.compute.threads:
        torch.set_num_threads(recipe.compute.threads)
    if recipe.compute.keep_freed_memory:
        pages.keep()
    else:
        pages.give_back()


def origin(recipe: Recipe) -> Model:
    """The model whose tokenizer is the run's."""
    named = Model(recipe.tokenizer) if recipe.tokenizer else None
    found = named or teacher_model(recipe) or model_of(recipe.student)
    if found is None:
        raise RecipeError("No model names a tokenizer: set 'tokenizer' to a folder or a hub name.")
    return found


def unchecked(recipe: Recipe) -> Ground:
    """Tokenizer, vocabulary and device of a recipe, whether or not its models fit them."""
    whose = origin(recipe)
    tokenizer = load.load_tokenizer(whose.name, revision=whose.revision)
    mark = tokenizer_fingerprint(tokenizer)
    ids = max(tokenizer.get_vocab().values()) + 1
    device = place.device_of(recipe.compute.device)
    dtype = place.dtype_of(recipe.compute.dtype, device)
    return Ground(recipe, tokenizer, mark, ids, device, dtype)


def ground(recipe: Recipe) -> Ground:
    """Tokenizer, vocabulary and device of a recipe; models that do not fit one another are refused here."""
    base, whose = unchecked(recipe), origin(recipe)
    for role, model in (
        ("teacher", teacher_model(recipe)),
        ("student", model_of(recipe.student)),
    ):
        if model and model != whose:
            _same_tokenizer(role, model, whose, base.tokenizer)
        if model:
            config = load.load_config(model.name, revision=model.revision)
            _check_room(f"{role} {model.name}", config, whose, base.vocab)
    if recipe.student.name == DRAWN:
        config = student_on_meta(recipe).config
        _check_room("student.scratch.config", config, whose, base.vocab)
        if (beyond := config.get_text_config().vocab_size - base.vocab) > 0:
            say(
                f"note: student.scratch.config has {beyond:,} ids that no text trains; vocab_size: {base.vocab} leaves them out."
            )
    return base


def _check_room(what: str, config: PretrainedConfig, whose: Model, vocab: int) -> None:
    """Refuses a model that has no numbers for some of the tokenizer's ids."""
    room = config.get_text_config().vocab_size
    if room < vocab:
        raise ModelError(
            f"{what} has {room:,} ids, the tokenizer of {whose.name} has {vocab:,}; wanted as many or more. "
            "Correct its vocab_size, or choose the tokenizer of this model."
        )


def beside(base: Ground, recipe: Recipe) -> Ground:
    """The same for another student of one recipe, whose texts are open already; both must read the same ids."""
    found = ground(recipe)
    if (found.tokenizer_print, found.vocab) != (base.tokenizer_print, base.vocab):
        raise ModelError(
            f"students: {recipe.name} has a tokenizer of {found.vocab:,} ids ({found.tokenizer_print[:12]}), the first "
            f"student one of {base.vocab:,} ({base.tokenizer_print[:12]}). Students that learn side by side read the "
            "same ids: choose students of one tokenizer, or give each a recipe of its own."
        )
    return replace(found, sources=base.sources)


def _same_tokenizer(
    role: str, model: Model, origin: Model, wanted: PreTrainedTokenizerBase
) -> None:
    mine = load.load_tokenizer(model.name, revision=model.revision)
    found = tokenizer_fingerprint(mine, roles=False)
    mark = tokenizer_fingerprint(wanted, roles=False)
    if mine.eos_token_id != wanted.eos_token_id:
        say(
            f"note: {role} {model.name} ends with {mine.eos_token!r}, {origin.name} with {wanted.eos_token!r}: "
            "a student that learns from one may not stop at the other."
        )
    if found != mark:
        raise ModelError(
            f"The {role}'s tokenizer ({model.name}, {found[:12]}) is not that of {origin.name} ({mark[:12]}): "
            "they give other ids or have other words. Token by token they cannot be compared; choose models "
            "of one family."
        )


def source(base: Ground, part: Part, where: str, *, shuffled: bool = True) -> Source:
    """The rows of a source, in the order of the recipe's seed. Opened once: text is verified on opening."""
    key = (part.model_dump_json(), shuffled)
    if key not in base.sources:
        base.sources[key] = _source(base, part, where, shuffled=shuffled)
    return base.sources[key]


def _source(base: Ground, part: Part, where: str, *, shuffled: bool) -> Source:
    function, options = loading.checked(part, "sources", where)
    known = names.options(function)
    if "seed" in known:
        options.setdefault("seed", base.recipe.seed)
    if "shuffled" in known and not shuffled:
        options["shuffled"] = False
    # What no recipe can set is given by place, as the tokenizer is; a source of a user's own may not take it.
    takes = inspect.signature(function).parameters
    found: Source = function(base.tokenizer, *[base.workers] * ("workers" in takes), **options)
    return found


def stage_source(base: Ground, stage: Stage) -> Source:
    """The rows that a stage reads."""
    return source(base, stage.source, f"stage {stage.name}: source")


def held_out(base: Ground) -> Source | None:
    """The rows that judge, in their own order."""
    if base.recipe.evaluate is None:
        return None
    found = source(base, base.recipe.evaluate.source, "evaluate.source", shuffled=False)
    for stage in base.recipe.stages:
        if found.identity == stage_source(base, stage).identity:
            raise RecipeError(
                f"evaluate.source is the text that stage {stage.name} trains on; no figure would mean anything. "
                "Give another path, or another 'split'."
            )
    return found


def load_teacher(base: Ground) -> PreTrainedModel | None:
    """The teacher's model in the numbers that the run computes with, or None where none is named."""
    model = teacher_model(base.recipe)
    if model is None:
        return None
    found = load.load_model(model.name, revision=model.revision, dtype=base.dtype).to(base.device)
    return found.eval().requires_grad_(False)


def teacher(base: Ground) -> Teacher | None:
    """The recipe's teacher, ready to be asked."""
    part = base.recipe.teacher
    if part is None:
        return None
    function, options = loading.checked(part, "teachers", "teacher")
    shared: dict[str, Any] = {"vocab": base.vocab, "tokenizer": base.tokenizer_print}
    shared |= {"device": str(base.device), "dtype": str(base.dtype).removeprefix("torch.")}
    known = names.options(function)
    given = {k: v for k, v in shared.items() if k in known and k not in options}
    # One that must know words, and not only their fingerprint, takes the tokenizer first, as sources do.
    first = [base.tokenizer] if names.takes_tokenizer(function) else []
    found: Teacher = function(*first, **given, **options)
    inside = any(stage.looks_inside for stage in base.recipe.stages)
    if isinstance(found, Live) and base.recipe.compute.compile and not inside:
        found.compile()
    return found


def student(base: Ground, stage: Stage | None = None) -> PreTrainedModel:
    """The student before training: a pure function of the recipe, so that all arms and stages start alike.

    What it may look at is the text of the first stage, whichever stage it is made for. stage: if it is a merged one, as
    a plain model.
    """
    master = torch.float64 if base.dtype == torch.float64 else torch.float32

    def loaded(name: str, revision: str | None) -> PreTrainedModel:
        return load.load_model(name, revision=revision, dtype=master)

    text = stage_source(base, base.recipe.stages[0])
    torch.manual_seed(base.recipe.seed)
    made = _made(base.recipe, loaded, text).to(master)
    for name, parameter in made.named_parameters():
        if parameter.requires_grad and parameter.dtype != master:
            raise ModelError(
                f"student: {name} is {parameter.dtype}; training needs {master} masters."
            )
    return _as_wanted(base.recipe, stage, made)


def student_on_meta(recipe: Recipe, stage: Stage | None = None) -> PreTrainedModel:
    """The student's shapes, without a weight; for a merged stage, those of the plain model."""
    with torch.device("meta"):
        made = _made(recipe, lambda n, r: load.build_on_meta(load.load_config(n, revision=r)), None)
        return _as_wanted(recipe, stage, made)


def merged(recipe: Recipe, made: PreTrainedModel) -> PreTrainedModel:
    """The plain model that a student leaves as, all of which can be trained."""
    return finisher(recipe)(made).requires_grad_(True)


def _as_wanted(recipe: Recipe, stage: Stage | None, made: PreTrainedModel) -> PreTrainedModel:
    return merged(recipe, made) if stage is not None and stage.merged else made


def _made(
    recipe: Recipe, loaded: Callable[[str, str | None], PreTrainedModel], text: Source | None
) -> PreTrainedModel:
    function, options = loading.checked(recipe.student, "students", "student")
    model = teacher_model(recipe)
    materials = Materials(
        teacher=lambda: loaded(model.name, model.revision) if model else None,
        load=loaded,
        config=load.load_config(model.name, revision=model.revision) if model else None,
        text=text,
    )
    made: PreTrainedModel = function(materials, **options)
    return made


def finisher(recipe: Recipe) -> Callable[[Any], PreTrainedModel]:
    """What makes a plain model of the trained student: its family member's `finish`, or nothing."""
    function, _ = loading.checked(recipe.student, "students", "student")
    module = sys.modules[function.__module__]
    found: Callable[[Any], PreTrainedModel] = vars(module).get("finish", lambda model: model)
    return found


def with_recipe(base: Ground, recipe: Recipe) -> Ground:
    """The same ground under another recipe of the same models, such as the control's."""
    return replace(base, recipe=recipe)
