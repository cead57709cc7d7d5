"""The teacher with state-space mixers in the place of most of its attentions (MOHAWK, Llamba, Mamba in the Llama)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field
from transformers import PreTrainedModel

from limbeck.errors import RecipeError
from limbeck.models import hybrid as hybrids
from limbeck.models import openings
from limbeck.models.retrieval import PAIRS
from limbeck.spelling import Frozen
from limbeck.types import Materials


class Probed(Frozen):
    """How many attentions are kept where `limbeck probe` finds them most needed."""

    auto: int = Field(gt=0, description="how many")
    by: Literal["heads", "layers"] = Field(
        default="heads",
        description="a block's worth: the sum over its heads, or all of them at once",
    )
    prompts: int = Field(default=100, gt=0, description="how often a value is asked for")
    pairs: int = Field(
        default=10, ge=PAIRS[0], le=PAIRS[-1], description="pairs of each dictionary"
    )
    seed: int = Field(default=0, ge=0, description="of the dictionaries")


Whole = Annotated[int, Field(ge=0, strict=True)]
"""No true and no text, which pydantic would take for 1 and for what it spells."""
Kept = list[Whole] | Whole | Literal["all", "none"] | Probed


def hybrid(
    materials: Materials,
    *,
    mixer: hybrids.Mixer = "mamba2",
    keep_attention: Kept = "none",
    start: Literal["attention", "identity"] | None = None,
    heads: Annotated[int, Field(gt=0)] | None = None,
    state: Annotated[int, Field(gt=0)] | None = None,
    mixers_of: str | None = None,
) -> PreTrainedModel:
    """The teacher's blocks, most of them with a Mamba-2 mixer instead of attention (Bick et al., 2024: MOHAWK).

    mixer: `mamba2` makes a plain Bamba, `discrete_mamba2` Llamba's own. keep_attention: numbers of blocks, how many at
    equal distances, `all`, `none`, or {auto: how many} by the probe. start: mixers from queries, keys and values, or
    with an open gate and a convolution that does nothing; null is `attention` for mamba2, whose norm takes the size of
    what is not normalised, and `identity` for discrete_mamba2, which has none. heads, state: sizes of a mixer; null takes the attention's.
    mixers_of: a model with such mixers, whose are taken instead, such as a published Llamba.
    """
    if materials.config is None:
        raise RecipeError(
            "student.hybrid: there is no teacher to replace layers of; give the teacher's 'model'."
        )
    hybrids.check(materials.config, mixer)
    given = {"start": start, "heads": heads, "state": state}
    start = start or ("attention" if mixer == "mamba2" else "identity")
    depth = materials.config.get_text_config().num_hidden_layers
    kept = kept_blocks(keep_attention, depth)
    told = {"heads": heads, "state": state}
    if mixers_of is not None:
        _check_alone(given)
        donor = materials.load(mixers_of, None)
        told = openings.sizes(donor, mixer, materials.config, kept)
    shape = hybrids.shape_of(materials.config, mixer, kept, **told)
    if mixers_of is None:
        openings.check(materials.config, shape, start)
    teacher = materials.teacher()
    student = hybrids.transferred(teacher, shape)
    if next(student.parameters()).is_meta:
        return student
    if mixers_of is not None:
        openings.of_another(student, donor)
    elif start == "attention":
        openings.from_attention(student, teacher)
    else:
        openings.identity(student)
    return student


def _check_alone(given: Mapping[str, object]) -> None:
    """Refuses what is told of mixers that are taken from elsewhere."""
    if told := [name for name, value in given.items() if value is not None]:
        raise RecipeError(
            f"student.hybrid: {', '.join(told)} and mixers_of are given; mixers of another model are as they are there. Take "
            f"{'them' if len(told) > 1 else 'it'} out, or mixers_of."
        )


def kept_blocks(asked: Kept, depth: int) -> list[int]:
    """The blocks that keep their attention, in order. What only the probe knows is spread evenly until it was asked."""
    if asked == "all":
        return list(range(depth))
    if asked == "none":
        return []
    if isinstance(asked, Probed):
        return spread(asked.auto, depth)
    if isinstance(asked, int):
        return spread(asked, depth)
    if isinstance(asked, str) or sorted(set(asked)) != list(asked) or not _inside(asked, depth):
        raise RecipeError(
            f"student.hybrid.keep_attention: {asked} found; wanted rising numbers from 0 to {depth - 1}, how many, all, none "
            "or {auto: how many}."
        )
    return list(asked)


def _inside(numbers: Sequence[int], depth: int) -> bool:
    return all(0 <= number < depth for number in numbers)


def spread(count: int, depth: int) -> list[int]:
    """`count` blocks of `depth` at equal distances, each in the middle of its share."""
    if count > depth:
        raise RecipeError(
            f"student.hybrid.keep_attention: {count} attentions are to be kept; the teacher has {depth} blocks."
        )
    return [(2 * number + 1) * depth // (2 * count) for number in range(count)]
