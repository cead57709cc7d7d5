"""How much memory a stage takes on one device, found from sizes before a weight is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from limbeck.models import narrowing, place, quantised
from limbeck.recipe import Recipe, Stage

GIGA = 1e9
# Tensors of a block that are kept for the backward pass, in widths and MLP widths per token: inputs of the
# two norms, q, k, v, attention's output, the residuals; gate, up, their product and its input.
_WIDTHS, _MLP_WIDTHS = 10, 4
# Copies of a chunk of logits that live at one time: raw, log-softmax of both sides, their difference, the slope.
_LOGIT_COPIES = 6
_CHUNK = 256


@dataclass(frozen=True)
class Estimate:
    """Peak gigabytes on one device, by cause. An estimate from sizes, not a measurement."""

    parameters: float
    gradients: float
    optimizer: float
    teacher: float
    activations: float
    features: float
    head: float

    @property
    def total(self) -> float:
        """All causes together."""
        return float(sum(vars(self).values()))


def count(model: PreTrainedModel, names: set[str] | None = None) -> int:
    """How many parameters a model has, packed ones as well, or those of these names."""
    packed = quantised.held(model)[0] if names is None else 0
    plain = [p for name, p in model.named_parameters() if names is None or name in names]
    total: int = packed + sum(p.numel() for p in plain)
    return total


def lent(student: PreTrainedModel, recipe: Recipe) -> int:
    """Parameters of a clone that are its live teacher's own memory, with one rank: of one device and one dtype."""
    teacher, compute = recipe.teacher, recipe.compute
    if teacher is None or teacher.name != "live":
        return 0
    device = place.device_of(compute.device)
    told, where = (teacher.options.get(name) or "auto" for name in ("dtype", "device"))
    same = told == "auto" or place.dtype_of(told, device) == place.dtype_of(compute.dtype, device)
    return narrowing.teachers_own(student) if same and where in ("auto", compute.device) else 0


def estimate(
    student: PreTrainedModel,
    trained: int,
    teacher: int,
    stage: Stage,
    recipe: Recipe,
    bytes_each: int,
    *,
    maps: int = 0,
    taps: int = 0,
) -> Estimate:
    """Peak memory of a stage on one device with one rank; more ranks divide the first three, but for what is quantised.

    trained: parameters of the student that are; maps: those of the projectors, which all are. taps: numbers a token of
    both sides' features that terms compare.
    """
    sizes: Any = student.config
    length = int(stage.source.options.get("length", 0))
    tokens = stage.micro_rows * length
    inner = getattr(sizes, "intermediate_size", None) or 4 * sizes.hidden_size
    per_block = _WIDTHS * sizes.hidden_size + _MLP_WIDTHS * inner
    blocks = 2 if recipe.compute.activation_checkpointing else sizes.num_hidden_layers
    # A clone's weights are products, and backward wants them again.
    made = narrowing.products(student, one_block=recipe.compute.activation_checkpointing)
    packed, size = quantised.held(student)
    still = count(student) - packed - trained - lent(student, recipe)
    return Estimate(
        # Masters and the copy that is computed with; what is frozen has no master, what is quantised neither.
        parameters=((trained + maps) * (4 + bytes_each) + still * bytes_each + size) / GIGA,
        gradients=(trained + maps) * (4 + bytes_each) / GIGA,
        optimizer=(trained + maps) * 8 / GIGA,
        teacher=teacher * bytes_each / GIGA,
        activations=(tokens * blocks * per_block + made) * bytes_each / GIGA,
        features=tokens * taps * bytes_each / GIGA,
        head=(
            (recipe.compute.chunk or _CHUNK) * sizes.vocab_size * 4 * _LOGIT_COPIES
            + sizes.vocab_size * sizes.hidden_size * 4
        )
        / GIGA,
    )
