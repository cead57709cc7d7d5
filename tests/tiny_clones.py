"""Tiny teachers of the families that can be cloned, and their clones."""

import copy

import tiny
import torch
from tiny_families import build

from limbeck.models import load
from limbeck.models.low_rank import NarrowIn, NarrowOut
from limbeck.models.narrowing import FAMILIES
from limbeck.students.low_rank_clone import low_rank_clone
from limbeck.types import Materials

__all__ = ["FAMILIES"]
ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


def teacher(family="llama", *, dtype=torch.float64, **changes):
    """A random teacher of width 24 whose heads are 8 wide, so that heads x head_dim is not its width; in eval mode."""
    plain = {"hidden_size": 24, "head_dim": 8, "initializer_range": 0.2}
    if family == "llama":
        plain["rope_parameters"] = ROPE
    model = tiny.randomised(build(family, **plain | changes)).to(dtype)
    return model.requires_grad_(False)


def materials(model, text=None):
    return Materials(
        teacher=lambda: copy.deepcopy(model), load=None, config=model.config, text=text
    )


def clone(model, *, seed=0, **options):
    """A clone of width 12, each of its parameters that learns moved away from where it began."""
    torch.manual_seed(seed)
    student = low_rank_clone(materials(model), **{"width": 12} | options)
    source = tiny.generator(seed)
    with torch.no_grad():
        for name, one in student.named_parameters():
            if one.requires_grad:
                spread = 0.3 if name.endswith("projection") else 0.1
                one += spread * torch.randn(one.shape, generator=source, dtype=torch.float64)
    return student


def on_meta(name):
    """A published teacher's shapes."""
    return load.build_on_meta(load.load_config(name))


def narrow_layers(student):
    """Every projected linear layer by its name."""
    kinds = NarrowIn | NarrowOut
    return {name: one for name, one in student.named_modules() if isinstance(one, kinds)}
