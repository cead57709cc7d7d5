"""What of a student a stage trains: its patterns among what the student offers, without what it freezes."""

from __future__ import annotations

import fnmatch

from torch import nn
from transformers import PreTrainedModel

from limbeck.errors import ModelError, RecipeError
from limbeck.models import layout
from limbeck.names import suggestion
from limbeck.stage import Stage

GROUPS = ("mlp", "mixers", "attention", "kept_layers", "norms", "embeddings", "head")
"""Words for parts of a model that families call by other names. kept_layers: a hybrid's blocks with attention."""


def trainable(student: PreTrainedModel, stage: Stage) -> set[str]:
    """The names of parameters that a stage trains. Raises RecipeError where nothing is left."""
    offered = [name for name, parameter in student.named_parameters() if parameter.requires_grad]
    found = {n for pattern in stage.train for n in _matching(student, pattern)} & set(offered)
    if not found:
        raise RecipeError(
            f"stage {stage.name}: train {list(stage.train)} matches no parameter; such as {offered[:3]}."
        )
    still = {name for word in stage.freeze for name in _frozen(student, stage, word)}
    if found <= still:
        raise RecipeError(
            f"stage {stage.name}: freeze {list(stage.freeze)} leaves nothing of train {list(stage.train)}. Take one out."
        )
    return found - still


def counts(student: nn.Module, names: set[str]) -> tuple[int, int]:
    """How many numbers these parameters have, and all."""
    sizes = {name: parameter.numel() for name, parameter in student.named_parameters()}
    return sum(sizes[name] for name in names), sum(sizes.values())


def _frozen(student: PreTrainedModel, stage: Stage, word: str) -> set[str]:
    """The parameters that a word or a pattern stands for."""
    names = [name for name, _ in student.named_parameters()]
    group = word in GROUPS
    found = _of_group(student, names, word) if group else _matching(student, word)
    if not found:
        what = "has none" if group else "matches no parameter"
        near = "" if group else suggestion(word, list(GROUPS))
        raise RecipeError(
            f"stage {stage.name}: freeze '{word}': {type(layout.plain_model(student)).__name__} {what}.{near} There are the "
            f"words {', '.join(GROUPS)}, and patterns such as {names[0]}."
        )
    return found


def _matching(student: PreTrainedModel, pattern: str) -> set[str]:
    """The parameters of which a name fits a pattern: one that several modules share has several, and is told by its first."""
    first = {id(parameter): name for name, parameter in student.named_parameters()}
    every = student.named_parameters(remove_duplicate=False)
    return {first[id(one)] for name, one in every if fnmatch.fnmatchcase(name, pattern)}


def _of_group(student: PreTrainedModel, names: list[str], word: str) -> set[str]:
    inside = {
        "mlp": (".mlp.", ".feed_forward.", ".block_sparse_moe."),
        "mixers": (".mamba.",),
        "attention": (".self_attn.", ".attn.", ".attention.", ".self_attention."),
    }
    if word in inside:
        return {name for name in names if any(part in name for part in inside[word])}
    if word == "norms":
        modules = {name.rpartition(".")[0].rpartition(".")[2] for name in names}
        norms = {one for one in modules if "norm" in one or one.startswith("ln_")}
        return {name for name in names if name.rpartition(".")[0].rpartition(".")[2] in norms}
    if word == "kept_layers":
        return _of_kept_layers(student)
    plain = layout.plain_model(student)
    one = plain.get_input_embeddings() if word == "embeddings" else plain.get_output_embeddings()
    own = {id(parameter) for parameter in one.parameters()}
    return {name for name, parameter in student.named_parameters() if id(parameter) in own}


def _of_kept_layers(student: PreTrainedModel) -> set[str]:
    """All of the blocks of a hybrid that have an attention."""
    blocks = layout.layers(student)
    kept = [block for block in blocks if "self_attn" in block._modules]
    if len(kept) == len(blocks):
        raise ModelError(
            "freeze 'kept_layers': every block of this student has its attention; the word is of hybrids."
        )
    own = {id(parameter) for block in kept for parameter in block.parameters()}
    return {name for name, parameter in student.named_parameters() if id(parameter) in own}
