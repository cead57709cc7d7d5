"""A tiny student whose frozen layers are held in few bits, and what it computes, written out with plain matrices."""

import tiny
import torch
from torch import Tensor
from torch.func import functional_call
from transformers import PreTrainedModel

from limbeck.models import layout
from limbeck.students.adapters import adapters
from limbeck.types import Materials

SCALE = 32.0 / 2  # alpha over rank


def student(
    quantise: str, *, dtype: torch.dtype = torch.float64, **options: object
) -> PreTrainedModel:
    """A Llama of width 16 with adapters of rank 2 that are random on both sides, so that they count."""
    model = tiny.llama(dtype=dtype, seed=1)
    materials = Materials(teacher=lambda: model, load=lambda name, revision: model)
    torch.manual_seed(0)
    made = adapters(materials, rank=2, quantise=quantise, **options).to(dtype)
    source = tiny.generator(1)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=source))
    return made


def linear_names(model: PreTrainedModel) -> list[str]:
    """The names of the weights of all linear layers of a plain model's blocks."""
    found = layout.layers(model).named_modules()
    return [f"model.layers.{name}.weight" for name, m in found if isinstance(m, torch.nn.Linear)]


def reference(
    adapted: PreTrainedModel, weights: dict[str, Tensor], ids: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """(logits (batch, time, vocab), leaves): a plain Llama with weight + scale * B A in float64.

    weights: those of the linear layers, unpacked. leaves: A and B, to differentiate by, under the student's names.
    """
    leaves, merged = {}, {}
    for name, weight in weights.items():
        place = name.removesuffix(".weight")
        pair = []
        for side in "AB":
            key = f"base_model.model.{place}.lora_{side}.default.weight"
            leaves[key] = adapted.get_parameter(key).detach().clone().double().requires_grad_()
            pair.append(leaves[key])
        merged[name] = weight.double() + SCALE * pair[1] @ pair[0]
    plain = tiny.llama(dtype=torch.float64, seed=1)
    return functional_call(plain, merged, (ids,)).logits, leaves
