"""Finds the taps of a recipe's terms in both models, of shapes only: a wrong name is told before weights are read."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace

from transformers import PreTrainedModel

from limbeck import assembly, loading
from limbeck.errors import ModelError, RecipeError
from limbeck.models import layout, load, taps
from limbeck.recipe import Link, Recipe, Stage, Term
from limbeck.training.links import DEEP, Joint, Kind, Tied, kind_of
from limbeck.training.step import Asked
from limbeck.training.trained import trainable
from limbeck.types import Objective

Models = tuple[Callable[[], PreTrainedModel], Callable[[], PreTrainedModel]]
"""What gives the student and the teacher on the meta device; neither is made where no term asks."""
_AT_LENGTH = 6
"""Pairs of a term that are listed one by one."""


def functions(recipe: Recipe, stage: Stage) -> list[Asked]:
    """The objectives of a stage, in the order of its terms; those between taps with their joints."""
    models = _models(recipe, stage)
    found = [_asked(recipe, stage, term, models) for term in stage.terms]
    _check_one_each(stage, [term for term in found if isinstance(term, Tied)])
    return found


def check(recipe: Recipe) -> None:
    """Refuses a student that cannot be made, and taps or words for what is trained that are not in its models."""
    for one in recipe.each:
        if "." not in one.student.name:  # a user's own may not know how to be shapes only
            assembly.student_on_meta(one)
        for stage in one.stages:
            functions(one, stage)
            if stage.freeze or stage.train != ("*",):
                trainable(assembly.student_on_meta(one, stage), stage)


def teacher_taps(recipe: Recipe) -> dict[str, int]:
    """The teacher's taps whose features any stage of any student compares with, each with its channels."""
    found: dict[str, None] = {}
    for one in recipe.each:
        for stage in one.stages:
            for term in functions(one, stage):
                if isinstance(term, Tied) and term.kind not in DEEP:
                    found |= dict.fromkeys(joint.teacher for joint in term.joints)
    return taps.widths(_models(recipe)[1](), list(found)) if found else {}


def lines(term: Tied) -> list[str]:
    """What a term compares, for people."""
    told = [_line(joint) for joint in term.joints]
    if len(told) > _AT_LENGTH:
        told = [told[0], f"and {len(told) - 2} pairs more, to", told[-1]]
    linked = term.linked
    if linked.teacher_projected:
        told.append("the teacher's through the student's projection, which learns from both sides")
    if term.kind == "units":
        among = "tokens of each row" if linked.units == "tokens" else "rows of a micro-batch"
        told.append(f"among {linked.max_units} {among} at most")
    if term.kind == "mixing":
        told.append("a time x time matrix a head and tap on both sides, some heads at a time")
    if term.kind == "heads":
        told.append(
            "time x time products a head and tap on both sides, computed twice; no eager attention"
        )
    if linked.token_share < 1:
        told.append(f"on {linked.token_share:.0%} of each row's tokens, drawn anew at each step")
    return told


def _line(joint: Joint) -> str:
    if joint.widths is None:
        return f"{joint.student} = {joint.teacher}"
    mine, theirs = joint.widths
    through = f" through a projector of {mine * theirs:,}" if joint.projector else ""
    return f"{joint.student} ({mine}) = {joint.teacher} ({theirs}){through}"


def map_parameters(terms: Sequence[Tied]) -> int:
    """How many parameters the projectors of these terms have together."""
    sizes = {}
    for term in terms:
        for joint in term.joints:
            if joint.projector and joint.widths and term.linked.projector:
                mine, theirs = joint.widths
                sizes[joint.projector] = mine * theirs + term.linked.projector.bias * theirs
    return sum(sizes.values())


def channels(terms: Sequence[Tied]) -> int:
    """How many numbers a token has at the taps that these terms compare, both sides together."""
    return sum(sum(joint.widths) for term in terms for joint in term.joints if joint.widths)


def _models(recipe: Recipe, stage: Stage | None = None) -> Models:
    def teacher() -> PreTrainedModel:
        model = assembly.teacher_model(recipe)
        if model is None:
            raise RecipeError(
                "teacher: an objective compares taps, and no model is named in which they could be found. "
                "Give the teacher's 'model'."
            )
        return load.build_on_meta(load.load_config(model.name, revision=model.revision))

    student = functools.cache(lambda: assembly.student_on_meta(recipe, stage))
    return student, functools.cache(teacher)


def _asked(recipe: Recipe, stage: Stage, term: Term, models: Models) -> Asked:
    function, _ = loading.checked(term, "objectives", "objective")
    if term.linked is None:
        return function
    where = f"stage {stage.name}, {term.title}"
    kind = _kind(function)
    assert kind is not None  # loading.check refuses others
    try:
        pairs = [pair for link in term.linked.at for pair in _pairs(link, models)]
        _check_once(pairs)
        joints = [Joint(*pair) for pair in pairs]
        if kind == "mixing":
            _check_mixing(joints, models)
        elif kind == "heads":
            taps.check_heads(models[0](), [joint.student for joint in joints])
            taps.check_heads(models[1](), [joint.teacher for joint in joints])
        else:
            joints = _measured(term, joints, models, narrowed(recipe))
    except (ModelError, RecipeError) as reason:
        raise RecipeError(f"{where}: {reason}") from reason
    if term.linked.teacher_projected:
        joints = [_through(where, joint, models) for joint in joints]
    if kind == "features":
        _check_widths(where, joints)
    forced = stage.forward == "layer_forced"
    if forced:
        _check_forced(where, joints, models)
    return Tied(function, kind, tuple(joints), term.linked, recipe.seed, forced=forced)


def _check_mixing(joints: list[Joint], models: Models) -> None:
    """Refuses mixers and attentions whose matrices are not as many."""
    heads = taps.check_mixing(models[0](), [joint.student for joint in joints])
    taps.check_heads(models[1](), [joint.teacher for joint in joints])
    theirs = models[1]().config.get_text_config().num_attention_heads
    for joint in joints:
        if heads[joint.student] != theirs:
            raise RecipeError(
                f"the mixer at {joint.student} has {heads[joint.student]} heads, the teacher's attention {theirs}; wanted "
                "as many. Leave student.hybrid.heads out, or this stage."
            )


def _check_forced(where: str, joints: list[Joint], models: Models) -> None:
    """Refuses to feed blocks what the teacher's are fed where they do not stand one for one."""
    student, teacher = (model() for model in models)
    mine, theirs = taps.depth(student), taps.depth(teacher)
    wide = [one.config.get_text_config().hidden_size for one in (student, teacher)]
    if mine != theirs or wide[0] != wide[1]:
        raise RecipeError(
            f"{where}: forward 'layer_forced' feeds each block what the teacher's is fed; the student has {mine} blocks of "
            f"{wide[0]} channels, the teacher {theirs} of {wide[1]}. Wanted the same: take a hybrid, or forward: free."
        )
    for one in (student, teacher):
        if layout.leaks(one):
            raise RecipeError(
                f"{where}: forward 'layer_forced' feeds whole rows to blocks; in {type(one).__name__} packed documents would "
                "see one another, so each runs as a row of its own. Take a model of another family, or forward: free."
            )
    for joint in joints:
        if taps.block(joint.student) is None or taps.block(joint.student) != taps.block(
            joint.teacher
        ):
            raise RecipeError(
                f"{where}: {joint.student} beside {joint.teacher}; under 'layer_forced' wanted taps of one block."
            )


def _kind(function: Objective) -> Kind | None:
    first = next(iter(inspect.signature(function, eval_str=True).parameters.values()))
    return kind_of(first.annotation)


def narrowed(recipe: Recipe) -> int | None:
    """The width that a cached teacher's features are projected to, or None for that of their taps."""
    if recipe.teacher is None or recipe.teacher.name != "cached":
        return None
    options = loading.checked(recipe.teacher, "teachers", "teacher")[1]
    width: int | None = options.get("feature_width")
    return width


def _pairs(link: Link, models: Models) -> list[tuple[str, str]]:
    """The taps that a link stands for: one pair, or for a pattern one a block of the student."""
    student, teacher = (model() for model in models)
    if ("*" in link.student) != ("*" in link.teacher):
        raise RecipeError(
            f"'{link.student}' beside '{link.teacher}'; wanted a pattern on both sides, or on none."
        )
    if "*" not in link.student:
        taps.module(student, link.student)
        taps.module(teacher, link.teacher)
        return [(link.student, link.teacher)]
    taps.matching(teacher, link.teacher)
    mine, theirs = taps.depth(student), taps.depth(teacher)
    found = []
    for tap in taps.matching(student, link.student):
        number = taps.block(tap)
        assert number is not None
        other = link.teacher.replace("*", str(opposite(number, mine, theirs)))
        taps.module(teacher, other)
        found.append((tap, other))
    return found


def opposite(block: int, mine: int, theirs: int) -> int:
    """The block of `theirs` that ends at the same share of the depth as this one of `mine`; the last has the last."""
    return max(0, ((block + 1) * theirs * 2 + mine) // (2 * mine) - 1)


def _check_once(pairs: list[tuple[str, str]]) -> None:
    for pair in pairs:
        if pairs.count(pair) > 1:
            raise RecipeError(f"{pair[0]} and {pair[1]} are compared twice; name them once.")


def _measured(term: Term, joints: list[Joint], models: Models, width: int | None) -> list[Joint]:
    """The joints with the widths of their taps, and with a projector where the term asks for one."""
    assert term.linked is not None
    mine = taps.widths(models[0](), [joint.student for joint in joints])
    theirs = taps.widths(models[1](), [joint.teacher for joint in joints])
    return [
        Joint(
            joint.student,
            joint.teacher,
            (mine[joint.student], width or theirs[joint.teacher]),
            named(term.title, joint) if term.linked.projector else "",
        )
        for joint in joints
    ]


def named(term: str, joint: Joint) -> str:
    """A projector's name in a Step: the same in a stage that compares the same taps as the one before, so that it goes on."""
    return "|".join((term, joint.student, joint.teacher)).replace(".", "-")


def _through(where: str, joint: Joint, models: Models) -> Joint:
    """A joint whose teacher's tap goes through the student's projection, with the widths that are then compared."""
    try:
        wide = taps.projecting(models[0](), joint.student).projection.shape[1]
    except ModelError as reason:
        raise RecipeError(f"{where}: {reason}") from reason
    assert joint.widths is not None
    if joint.widths[1] != wide:
        raise RecipeError(
            f"{where}: the projection at the student's {joint.student} takes {wide} channels, the teacher's {joint.teacher} "
            f"has {joint.widths[1]}. Name a tap of the teacher's stream, such as {joint.student}; of a cached teacher, keep "
            "whole features."
        )
    return replace(joint, widths=(joint.widths[0], joint.widths[0]))


def _check_one_each(stage: Stage, terms: Sequence[Tied]) -> None:
    """A projection is given one tensor of the teacher's in a forward."""
    given: dict[str, str] = {}
    for joint in (j for term in terms if term.linked.teacher_projected for j in term.joints):
        other = given.setdefault(joint.student, joint.teacher)
        if other != joint.teacher:
            raise RecipeError(
                f"stage {stage.name}: at {joint.student} both {other} and {joint.teacher} of the teacher are to go through "
                "one projection; name one of them."
            )


def _check_widths(where: str, joints: list[Joint]) -> None:
    for joint in joints:
        assert joint.widths is not None
        if joint.widths[0] != joint.widths[1] and not joint.projector:
            raise RecipeError(
                f"{where}: the student's {joint.student} has {joint.widths[0]} channels, the teacher's {joint.teacher} "
                f"{joint.widths[1]}; wanted as many. Give the term 'projector: linear'."
            )
