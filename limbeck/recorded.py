"""What stands behind a cached teacher: who is recorded, under which settings, and the head that it holds for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from limbeck import assembly, linking, loading
from limbeck.assembly import Ground
from limbeck.cache.format import ABOUT, CacheAbout, chosen, read_about
from limbeck.cache.head import head_digest
from limbeck.errors import CacheMismatch, RecipeError
from limbeck.featuring import about_tap
from limbeck.models import layout, load
from limbeck.recipe import Part, Recipe
from limbeck.teachers.cached import Cached
from limbeck.teachers.live import Live
from limbeck.teachers.remote import Remote
from limbeck.training import trained
from limbeck.types import Batch, Signal, Teacher, Wanted


def options(recipe: Recipe) -> dict[str, Any]:
    """What a recipe says of its cached teacher, each value of the type that the option has."""
    assert recipe.teacher is not None
    return loading.checked(recipe.teacher, "teachers", "teacher")[1]


def cache_about(base: Ground, length: int) -> CacheAbout:
    """What a cache must have been recorded from, to serve the recipe's cached teacher.

    Width and head of `hidden8` and `kl-vector` are known only where the cache has begun already.
    """
    given = options(base.recipe)
    mark, name = _recorded(base.recipe, given)
    _check_own(base, given)
    path = Path(given["path"])
    found = read_about(path) if (path / ABOUT).is_file() else None
    return CacheAbout(
        teacher=mark,
        teacher_name=name,
        tokenizer=base.tokenizer_print,
        vocab=base.vocab,
        length=length,
        **chosen(given, found, vocab=base.vocab),
    )


def _recorded(recipe: Recipe, given: Mapping[str, Any]) -> tuple[str, str]:
    """Fingerprint and name of the teacher behind a cached one."""
    if (served := given.get("server")) is not None:
        return served.fingerprint, served.model
    model = assembly.teacher_model(recipe)
    if model is None:
        raise RecipeError("teacher.cached: give 'model' or 'server', the teacher that is recorded.")
    return load.fingerprint(model.name, model.revision), model.name


def feature_abouts(recipe: Recipe, main: CacheAbout) -> list[CacheAbout]:
    """What the caches of the taps say of themselves that any stage of any student compares with."""
    given = options(recipe)
    kept = (given.get("feature_share", 1.0), given.get("feature_numbers", "bfloat16"))
    width = given.get("feature_width")
    found = linking.teacher_taps(recipe)
    return [about_tap(main, tap, channels, (*kept, width)) for tap, channels in found.items()]


def _check_own(base: Ground, given: Mapping[str, Any]) -> None:
    """Refuses a vocabulary or tokenizer that is not the run's: what is recorded would be served to nobody."""
    for name, mine in (("vocab", base.vocab), ("tokenizer", base.tokenizer_print)):
        said = given.get(name)
        if said is not None and said != mine:
            raise CacheMismatch(
                f"teacher.cached.{name} {said} found; this run's is {mine}. "
                "Take it out, or choose models and a tokenizer that have it."
            )


def rows_at_once(recipe: Recipe) -> int | None:
    """Rows that a server is asked of at a time, so that all its requests are on the way; None leaves it to the machine."""
    served = options(recipe).get("server")
    return None if served is None else served.concurrency * served.prompts


class LazyTeacher:
    """A teacher that is loaded when it is first asked: where all is recorded, it never is."""

    def __init__(self, load_it: Callable[[], Teacher]) -> None:
        self._load = load_it
        self._loaded: Teacher | None = None

    def loaded(self) -> Teacher:
        """The teacher, loaded by now."""
        self._loaded = self._loaded or self._load()
        return self._loaded

    def signal(self, batch: Batch, wanted: Wanted) -> Signal:
        """What the teacher says of each token of batch.counted."""
        return self.loaded().signal(batch, wanted)


def heeding(found: Teacher | None, stop: Callable[[], bool] | None) -> Teacher | None:
    """The same teacher; one on a server is no longer waited for once `stop` says so."""
    if isinstance(found, Remote) and stop is not None:
        found.heed(stop)
    return found


def live_teacher(base: Ground, stop: Callable[[], bool] | None = None) -> LazyTeacher:
    """The teacher that is asked behind a cached one: live, or remote, which gives up waiting once `stop` says so."""
    assert base.recipe.teacher is not None
    given = base.recipe.teacher.options
    if given.get("server") is not None:
        asked = {"server": given["server"], "k": given.get("k", CacheAbout.k)}
        part = Part(name="remote", options=asked)
    else:
        named = {name: given[name] for name in ("model", "revision") if given.get(name)}
        part = Part(name="live", options=named)
    live = base.recipe.model_copy(update={"teacher": part})

    def load_it() -> Teacher:
        found = heeding(assembly.teacher(replace(base, recipe=live)), stop)
        assert found is not None
        return found

    return LazyTeacher(load_it)


def head(base: Ground, lazily: LazyTeacher, whole: Recipe) -> layout.Head:
    """The head that a cache is recorded with: the teacher's for hidden states, else the student's, which is frozen.

    whole: the recipe of all students that learn beside this one, whose heads must then be the same.
    """
    if options(base.recipe).get("kind") == "hidden8":
        live = lazily.loaded()
        assert isinstance(live, Live)
        return layout.head(live.model, vocab=live.vocab)
    found = _frozen_head(base, assembly.student(base))
    mark = head_digest(found)
    for number, one in enumerate(whole.each[1:], start=1):
        other = assembly.with_recipe(base, one)
        if head_digest(_frozen_head(other, assembly.student(other))) != mark:
            raise RecipeError(
                f"students[{number}] has another output head than students[0], and teacher.cached.kind 'kl-vector' is for one head. "
                "Choose another kind, or give each student a recipe and a cache of its own."
            )
    return found


def for_one_head(found: Teacher | None) -> bool:
    """Whether what a teacher says holds for one frozen head only."""
    return isinstance(found, Cached) and found.reader.about.kind == "kl-vector"


def check_head(base: Ground, found: Teacher | None, learner: PreTrainedModel) -> None:
    """Refuses a student whose head is not the one that its cached teacher was recorded for, or does not stay so."""
    if isinstance(found, Cached) and for_one_head(found):
        found.check_head(_frozen_head(base, learner))


def _frozen_head(base: Ground, learner: PreTrainedModel) -> layout.Head:
    """The student's head in the numbers that the run computes with; one that any stage trains is refused."""
    found = layout.head(learner, vocab=base.vocab)
    mine = [each for each in (found.weight, found.bias) if each is not None and each.requires_grad]
    names = [name for name, one in learner.named_parameters() if any(one is each for each in mine)]
    for stage in base.recipe.stages:
        still = trained.trainable(learner, stage).intersection(names)
        if still:
            raise RecipeError(
                f"teacher.cached.kind 'kl-vector' is for a frozen head; stage {stage.name} trains {min(still)}. "
                f"Put 'head' into its 'freeze', leave it out of 'train' ({', '.join(stage.train)} now), or choose another kind."
            )
    return replace(found, weight=found.weight.detach().to(base.dtype))
