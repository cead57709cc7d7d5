"""Tiny teachers of every family that a hybrid can be made of, hybrids of them, and batches that are packed or padded."""

import tiny
import tiny_run
import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from limbeck.models import hybrid
from limbeck.objectives.feature_norm import feature_norm
from limbeck.objectives.mixing_matrix import mixing_matrix
from limbeck.recipe import Linked
from limbeck.students.hybrid import hybrid as student_of
from limbeck.teachers.live import Live
from limbeck.training import links
from limbeck.training.ahead import Ahead
from limbeck.training.links import Joint, Tied
from limbeck.types import Materials

MIXERS = ("mamba2", "discrete_mamba2")
SIZES = {
    "vocab_size": tiny.VOCAB,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
    "rms_norm_eps": 1e-5,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
TEACHERS = {
    "llama": ("llama", {}),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "llama, llama3 positions": ("llama", {"rope_parameters": LLAMA3}),
    "llama, biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "mistral": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {}),
    "qwen2, tied": ("qwen2", {"tie_word_embeddings": True}),
}


def teacher(kind="llama", *, dtype=torch.float32, seed=0, **changes):
    """A random model of a few thousand parameters, no norm of which is 1 and no bias 0."""
    family, more = TEACHERS[kind]
    config = CONFIG_MAPPING[family](**{**SIZES, **more, **changes})
    made = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    return tiny.randomised(made.to(dtype), seed=seed)


def made(origin, mixer, keep="none", **options):
    """The student of a recipe with this teacher; a mixer's own chance is torch's, so it is seeded here."""
    torch.manual_seed(0)
    materials = Materials(teacher=lambda: origin, load=None, config=origin.config)
    return student_of(materials, mixer=mixer, keep_attention=keep, **options)


def rough(origin, mixer, keep="none", *, seed=5, **options):
    """The same with mixers of random parameters, so that nothing in them does nothing."""
    student = made(origin, mixer, keep, **options)
    source = tiny.generator(seed)
    with torch.no_grad():
        for one in hybrid.mixers(student).values():
            for parameter in one.parameters():
                noise = torch.randn(parameter.shape, generator=source, dtype=torch.float64)
                parameter.add_(0.3 * noise)
    return student


def ids(batch=2, time=11, *, seed=0):
    return torch.randint(3, tiny.VOCAB, (batch, time), generator=tiny.generator(seed))


def padded(lengths=(11, 7, 4)):
    """Rows of these lengths with padding on the left: ids, mask and positions, all (batch, time)."""
    rows = [ids(1, length, seed=length) for length in lengths]
    time = max(lengths)
    whole = torch.stack(
        [torch.nn.functional.pad(row[0], (time - row.shape[1], 0), value=0) for row in rows]
    )
    mask = torch.tensor([[0] * (time - length) + [1] * length for length in lengths])
    return rows, whole, mask, (mask.cumsum(1) - 1).clamp(min=0)


def norms(student="layers.*", theirs="layers.*", *, shift=0, only=range(3)):
    """The distance between outputs at taps of these blocks, each of which is fed what the teacher's is fed."""
    joints = tuple(
        Joint(student.replace("*", str(n)), theirs.replace("*", str(n + shift)), (16, 16))
        for n in only
    )
    return Tied(feature_norm, "features", joints, Linked(at=["x"]), 0, forced=True)


def matrices(only=(0, 2)):
    """The distance between matrices of mixers and attentions in these blocks."""
    joints = tuple(Joint(f"layers.{n}.mamba", f"layers.{n}.self_attn") for n in only)
    return Tied(mixing_matrix, "mixing", joints, Linked(at=["x"]), 0, forced=True)


def job(folder, *, mixer="discrete_mamba2", dtype=torch.float64, computed=None, **changes):
    """A Loop that trains a hybrid's mixers block by block, beside its live teacher, on matrices and on what mixers say."""
    both = {"student": "layers.*.mamba", "teacher": "layers.*.self_attn"}
    objective = [{"mixing_matrix": {"at": both}}, {"feature_norm": {"at": both}}]
    asked = tiny_run.stage(**{"objective": objective, "forward": "layer_forced"} | changes)
    origin = teacher(dtype=dtype)
    student = rough(origin, mixer, [1])
    parts = {"stage_": asked, "student": student, "teacher": Live(origin)}
    work = tiny_run.job(folder, **parts, dtype=computed or dtype)
    said = norms("layers.*.mamba", "layers.*.self_attn", only=(0, 2))
    work.functions = [matrices(), said]
    work.ahead = Ahead(work.source, work.teacher, work.world.device, links.wanted([work.functions]))
    return work
