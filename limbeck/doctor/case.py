"""A recipe under examination, and what is known of it: each thing made once, when a check first asks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from transformers import PretrainedConfig, PreTrainedModel

from limbeck import assembly, choosing
from limbeck.assembly import Ground, Model
from limbeck.doctor.findings import once
from limbeck.errors import LimbeckError
from limbeck.models import load, place
from limbeck.recipe import Part, Recipe, Stage
from limbeck.types import Source

EVALUATE = "evaluate.source"


@dataclass(frozen=True)
class Learner:
    """A student of the recipe. recipe: the run of it alone. shape: its parameters without their numbers."""

    where: str
    recipe: Recipe
    shape: Callable[[], PreTrainedModel]

    @property
    def model(self) -> Model | None:
        """The model that its part names."""
        return assembly.model_of(self.recipe.student)

    @property
    def begins_as(self) -> Model | None:
        """The model whose words and ends the student begins with, where it is made of one."""
        return assembly.began(self.recipe)


class Case:
    """What the checks share. ranks: how many processes are to share the work, or None for as many as there are devices."""

    def __init__(self, recipe: Recipe, *, weights: bool = True, ranks: int | None = None) -> None:
        self.recipe = _known(_computable(recipe))
        self.asked = recipe
        self.weights = weights
        self.ranks = ranks
        self.teacher = assembly.teacher_model(recipe)
        self.base = once("the run's tokenizer", lambda: assembly.unchecked(self.recipe))
        self.teacher_config = once("the teacher's config", self._teacher_config)
        self.learners = [
            Learner(
                "student" if not recipe.students else f"students[{number}]",
                one,
                once("the student's shape", partial(assembly.student_on_meta, one)),
            )
            for number, one in enumerate(self.recipe.each)
        ]
        self._sources: dict[str, Callable[[], Source]] = {}

    def _teacher_config(self) -> PretrainedConfig | None:
        model = self.teacher
        return load.load_config(model.name, revision=model.revision) if model else None

    @property
    def device(self) -> torch.device:
        """Where it would be computed, if the device that the recipe names is here; else where it can be."""
        return place.device_of(self.recipe.compute.device)

    @property
    def models(self) -> list[tuple[str, Model]]:
        """The models that the recipe names, each once, and as what."""
        found = [("teacher", self.teacher), *((one.where, one.model) for one in self.learners)]
        named: dict[Model, str] = {}
        for role, model in found:
            if model is not None:
                named.setdefault(model, role)
        return [(role, model) for model, role in named.items()]

    def ground_of(self, learner: Learner) -> Ground:
        """The ground of a student's own run."""
        return replace(self.base(), recipe=learner.recipe)

    @property
    def texts(self) -> list[tuple[str, Part, bool]]:
        """Every text of the recipe once: where it stands, what it is, and whether it is trained on."""
        stages = [(f"stages[{n}].source", s.source, True) for n, s in enumerate(self.recipe.stages)]
        if self.recipe.evaluate is not None:
            stages.append((EVALUATE, self.recipe.evaluate.source, False))
        found: list[tuple[str, Part, bool]] = []
        for one in stages:
            if one[1] not in [part for _, part, _ in found]:
                found.append(one)
        return found

    def source(self, where: str, part: Part) -> Source:
        """The rows of a text, opened once: text that is not prepared yet is prepared."""
        key = f"{part.model_dump_json()} {where == EVALUATE}"
        if key not in self._sources:
            shuffled = where != EVALUATE
            self._sources[key] = once(
                f"the text of {where}",
                lambda: assembly.source(self.base(), part, where, shuffled=shuffled),
            )
        return self._sources[key]()

    def stage_source(self, index: int) -> Source:
        """The rows that a stage reads."""
        return self.source(f"stages[{index}].source", self.recipe.stages[index].source)

    def length(self, index: int) -> int:
        """Tokens a row of a stage."""
        told = self.recipe.stages[index].source.options.get("length")
        return told if isinstance(told, int) and told > 0 else self.stage_source(index).length

    def steps(self, index: int) -> int:
        """Optimizer steps of a stage."""
        stage = self.recipe.stages[index]
        if stage.budget.unit == "steps":
            return stage.budget.amount
        return stage.budget.steps(stage.rows_per_step * self.length(index))

    def shape(self, learner: Learner, stage: Stage) -> PreTrainedModel:
        """The student's shape in a stage, which may train it merged."""
        if not stage.merged:
            return learner.shape()
        return assembly.student_on_meta(learner.recipe, stage)


def _computable(recipe: Recipe) -> Recipe:
    """The same recipe, on a device that is here: a wrong one is told by its own check, and hides no other fault."""
    try:
        place.device_of(recipe.compute.device)
    except LimbeckError:
        compute = recipe.compute.model_copy(update={"device": "auto"})
        return recipe.model_copy(update={"compute": compute})
    return recipe


def _known(recipe: Recipe) -> Recipe:
    """With what an earlier probe found; as it is where nothing is known."""
    try:
        return choosing.known(recipe)
    except LimbeckError:
        return recipe
