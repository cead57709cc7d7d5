"""Tiny teachers of the families that can be cloned, and their clones."""

import copy

import tiny
import tiny_run
import torch
from tiny_families import build

from limbeck.models import load
from limbeck.models.low_rank import NarrowIn, NarrowOut
from limbeck.models.narrowing import FAMILIES
from limbeck.objectives.feature_mse import feature_mse
from limbeck.objectives.forward_kl import forward_kl
from limbeck.recipe import Linked
from limbeck.students.low_rank_clone import low_rank_clone
from limbeck.teachers.live import Live
from limbeck.training import links
from limbeck.training.ahead import Ahead
from limbeck.training.links import Joint, Tied
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


BOTH = "layers.{}.self_attn", "layers.{}.mlp"
# Each clone term: the student's tap, the teacher's, and whether the teacher's goes through the student's projection.
TERMS = {
    "attention-query": (f"{BOTH[0]}.q_proj", f"{BOTH[0]}.q_proj", False),
    "attention-key": (f"{BOTH[0]}.k_proj", f"{BOTH[0]}.k_proj", False),
    "attention-value": (f"{BOTH[0]}.v_proj", f"{BOTH[0]}.v_proj", False),
    "attention-in": (f"{BOTH[0]}.q_proj.inner", "layers.{}.input_layernorm", False),
    "attention-out": (f"{BOTH[0]}.o_proj.inner", f"{BOTH[0]}.o_proj", False),
    "attention-out-projected": (f"{BOTH[0]}.o_proj", f"{BOTH[0]}.o_proj", True),
    "mlp-gate": (f"{BOTH[1]}.gate_proj", f"{BOTH[1]}.gate_proj", False),
    "mlp-up": (f"{BOTH[1]}.up_proj", f"{BOTH[1]}.up_proj", False),
    "mlp-in": (f"{BOTH[1]}.gate_proj.inner", "layers.{}.post_attention_layernorm", False),
    "mlp-out": (f"{BOTH[1]}.down_proj", f"{BOTH[1]}.down_proj", True),
    "mlp-out-inside": (f"{BOTH[1]}.down_proj.inner", f"{BOTH[1]}.down_proj", False),
}


def tied(name, blocks=(0, 1), **linked):
    """A clone term as a Step is asked for it."""
    mine, theirs, through = TERMS[name]
    joints = tuple(Joint(mine.format(b), theirs.format(b), (1, 1)) for b in blocks)
    linked = Linked(at=["x"], teacher_projected=through, **linked)
    return Tied(feature_mse, "features", joints, linked, 3)


def spelled(name, weight=0.2):
    """The same as a recipe has it."""
    mine, theirs, through = TERMS[name]
    pair = {"student": mine.format("*"), "teacher": theirs.format("*")}
    more = {"teacher_projected": True} if through else {}
    return {f"feature_mse as {name}": {"weight": weight, "at": pair, **more}}


def job(folder, *, alone=False, dtype=torch.float64, **changes):
    """A Loop that trains a clone beside its live teacher; alone: on clone terms and nothing that is said."""
    names = [*TERMS] if not alone else ["attention-query", "mlp-gate", "mlp-in", "mlp-out"]
    objective = [spelled(name) for name in names] + ([] if alone else ["forward_kl"])
    stage = tiny_run.stage(**{"objective": objective} | changes)
    model = teacher(dtype=dtype, tie_word_embeddings=True)
    student = clone(model, attention="shared", unlock="mlp")
    work = tiny_run.job(folder, stage_=stage, student=student, teacher=Live(model), dtype=dtype)
    work.functions = [tied(name) for name in names] + ([] if alone else [forward_kl])
    work.ahead = Ahead(work.source, work.teacher, work.world.device, links.wanted([work.functions]))
    return work
