"""A model of smaller width whose every matrix is a projection of a teacher's, and the plain model that it becomes.

Depth, heads, their width, the MLP's width and rotary positions are the teacher's; only the residual stream is narrower.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import PreTrainedModel

from limbeck.errors import ModelError
from limbeck.models import layout
from limbeck.models.low_rank import NarrowEmbedding, NarrowIn, NarrowOut, frozen

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "smollm3")
QUERY, KEY, VALUE, OUT = (f"self_attn.{name}_proj" for name in ("q", "k", "v", "o"))
GATE, UP, DOWN = (f"mlp.{name}_proj" for name in ("gate", "up", "down"))
BEFORE_ATTENTION, BEFORE_MLP = "input_layernorm", "post_attention_layernorm"
"""What these families call the linear layers of a block, and its two norms."""
_QUERY_NORM, _KEY_NORM = "self_attn.q_norm", "self_attn.k_norm"

Unlock = Literal["none", "mlp", "all"]
Linear = NarrowIn | NarrowOut


@dataclass(frozen=True)
class Shape:
    """What a clone is like besides its teacher. shared: one projection for all that read the same norm."""

    width: int
    attention_shared: bool = False
    mlp_shared: bool = False
    tied: bool = True
    eps: float | None = None
    unlock: Unlock = "none"


def check(config: Any, width: int) -> None:
    """Raises where no clone of this width can be made of a teacher with this config."""
    if config.model_type not in FAMILIES:
        raise ModelError(
            f"model_type '{config.model_type}' found; a low-rank clone is made of {', '.join(FAMILIES)}, whose blocks are "
            "norm, attention, norm and a gated MLP. Choose a teacher of one of them."
        )
    if not 0 < width <= config.hidden_size:
        raise ModelError(
            f"a clone of width {width} was asked for; wanted 1 to {config.hidden_size}, the teacher's own."
        )
    try:
        config_of(config, Shape(width)).validate()
    except StrictDataclassError as reason:
        # Said now: a model with this config could be trained, and not be written.
        heads = config.num_attention_heads
        fit = [one for one in (width // heads * heads, -(-width // heads) * heads) if one]
        raise ModelError(
            f"a clone of width {width} was asked for; a {config.model_type} cannot have it ({reason.__cause__ or reason}). "
            f"Wanted a multiple of its {heads} heads, such as {' or '.join(map(str, fit))}."
        ) from reason


def config_of(teacher: Any, shape: Shape) -> Any:
    """The config of the clone: head_dim is said, since it no longer follows from width and heads."""
    config = copy.deepcopy(teacher)
    heads = teacher.to_dict().get("head_dim") or teacher.hidden_size // teacher.num_attention_heads
    config.hidden_size, config.head_dim = shape.width, heads
    config.tie_word_embeddings = bool(teacher.tie_word_embeddings and shape.tied)
    if shape.eps is not None:
        config.rms_norm_eps = shape.eps
    return config


def narrow(teacher: PreTrainedModel, shape: Shape) -> PreTrainedModel:
    """A model of the teacher's family that holds the teacher's tensors; its projections are memory that nothing filled.

    Of a teacher on the meta device it has shapes only.
    """
    check(teacher.config, shape.width)
    config = config_of(teacher.config, shape)
    with torch.device("meta"):
        student = type(teacher)(config)
    trunk, like = layout.trunk(student), next(teacher.parameters())
    wide, size = teacher.config.hidden_size, shape.width

    def drawn(rows: int, columns: int) -> nn.Parameter:
        return nn.Parameter(torch.empty(rows, columns, device=like.device, dtype=like.dtype))

    for mine, theirs in zip(layout.layers(student), layout.layers(teacher), strict=True):
        reads = drawn(wide, size)
        for name in (QUERY, KEY, VALUE):
            _put(mine, theirs, name, reads if shape.attention_shared else drawn(wide, size))
        _put(mine, theirs, OUT, drawn(size, wide))
        reads = drawn(wide, size)
        for name in (GATE, UP):
            _put(mine, theirs, name, reads if shape.mlp_shared else drawn(wide, size))
        _put(mine, theirs, DOWN, drawn(size, wide))
        for name in (BEFORE_ATTENTION, BEFORE_MLP):
            _ones(mine.get_submodule(name), like)
        _copied_norms(mine, theirs)
    _ones(layout.final_norm(student), like)
    _ends(student, teacher, drawn, tied=shape.tied)
    with torch.device(like.device):
        rotary: Any = type(trunk.rotary_emb)
        trunk.rotary_emb = rotary(config=config)
    _unlock(student, shape.unlock)
    student.generation_config = copy.deepcopy(teacher.generation_config)
    _check_filled(student, like)
    return student.eval()


def _put(mine: nn.Module, theirs: nn.Module, name: str, projection: nn.Parameter) -> None:
    """A linear layer of a block, around the teacher's tensors."""
    layer = theirs.get_submodule(name)
    if not isinstance(layer, nn.Linear):
        raise ModelError(
            f"{name} of the teacher is a {type(layer).__name__}; wanted a plain linear layer, of a model that is loaded "
            "in full numbers."
        )
    kind = NarrowOut if name in (OUT, DOWN) else NarrowIn
    made = kind(frozen(layer.weight), projection)
    made.bias = None if layer.bias is None else frozen(layer.bias)
    mine.set_submodule(name, made)


def _ones(norm: nn.Module, like: Tensor) -> None:
    width: int = norm.weight.shape[0]  # type: ignore[index,assignment]
    norm.weight = nn.Parameter(torch.ones(width, device=like.device, dtype=like.dtype))


def _copied_norms(mine: nn.Module, theirs: nn.Module) -> None:
    """Norms of queries and keys are as wide as a head, which is the teacher's."""
    known = dict(theirs.named_modules())
    for name in (_QUERY_NORM, _KEY_NORM):
        if name in known:
            mine.get_submodule(name).weight = frozen(known[name].weight)  # type: ignore[arg-type]


def _ends(student: PreTrainedModel, teacher: PreTrainedModel, drawn: Any, *, tied: bool) -> None:
    """Table and head. Tied in the teacher, they hold one and the same tensor of it."""
    table, head = teacher.get_input_embeddings().weight, teacher.get_output_embeddings()
    wide, size = teacher.config.hidden_size, student.config.hidden_size
    first = NarrowEmbedding(frozen(table), drawn(wide, size))
    weight = first.frozen if head.weight is table else frozen(head.weight)
    last = NarrowIn(weight, first.projection if tied else drawn(wide, size))
    last.bias = None if head.bias is None else frozen(head.bias)
    student.set_input_embeddings(first)
    student.set_output_embeddings(last)


def _unlock(student: PreTrainedModel, what: Unlock) -> None:
    """Gives matrices a dense part of their own that starts at zero, the same for table and head where these are tied."""
    if what == "none":
        return

    def zeros(rows: int, columns: int, like: Tensor) -> nn.Parameter:
        return nn.Parameter(torch.zeros(rows, columns, device=like.device, dtype=like.dtype))

    for name, module in layout.layers(student).named_modules():
        if isinstance(module, Linear) and (what == "all" or ".mlp." in name):
            rows, columns = module.frozen.shape
            if isinstance(module, NarrowIn):
                columns = module.projection.shape[1]
            else:
                rows = module.projection.shape[0]
            module.delta = zeros(rows, columns, module.projection)
    if what == "all":
        first, last = ends(student)
        first.delta = zeros(first.frozen.shape[0], first.projection.shape[1], first.projection)
        tied = student.config.tie_word_embeddings
        last.delta = first.delta if tied else nn.Parameter(torch.zeros_like(first.delta))


def _check_filled(student: PreTrainedModel, like: Tensor) -> None:
    """A parameter that was not thought of would stay a shape without numbers."""
    left = [name for name, one in student.named_parameters() if one.is_meta != like.is_meta]
    left += [name for name, one in student.named_buffers() if one.is_meta != like.is_meta]
    if left:
        raise ModelError(
            f"{type(student).__name__}: {left[0]} is not made of the teacher's; wanted a model of "
            f"{', '.join(FAMILIES)} as transformers builds it."
        )


def ends(student: PreTrainedModel) -> tuple[NarrowEmbedding, NarrowIn]:
    """The table and the head of a clone."""
    first, last = student.get_input_embeddings(), student.get_output_embeddings()
    assert isinstance(first, NarrowEmbedding)
    assert isinstance(last, NarrowIn)
    return first, last


def products(student: nn.Module, *, one_block: bool) -> int:
    """Numbers of the weights that a forward makes of their factors and keeps for backward: of all blocks or one, and the head."""
    made = [one for one in student.modules() if isinstance(one, Linear)]
    if not made:
        return 0
    layers = layout.layers(student)
    blocks = [[one for one in block.modules() if isinstance(one, Linear)] for block in layers]
    inside = {id(one) for block in blocks for one in block}
    outside = [one for one in made if id(one) not in inside]
    counted = blocks[:1] if one_block else blocks
    return sum(one.size for block in [*counted, outside] for one in block)


def teachers_own(student: nn.Module) -> int:
    """How many parameters of a clone are frozen tensors of its teacher; of another model, none."""
    kinds = NarrowIn | NarrowOut | NarrowEmbedding
    found = {id(one.frozen): one.frozen for one in student.modules() if isinstance(one, kinds)}
    return sum(one.numel() for one in found.values())


@torch.no_grad()
def merged(student: PreTrainedModel) -> PreTrainedModel:
    """The same model with plain layers, in place; table and head are one where the config ties them."""
    first, last = ends(student)
    for name, module in list(student.named_modules()):
        if isinstance(module, Linear) and module is not last:
            student.set_submodule(name, module.plain())
    table = first.plain(getattr(student.config, "pad_token_id", None))
    if student.config.tie_word_embeddings:
        head = nn.Linear(table.embedding_dim, table.num_embeddings, bias=False, device="meta")
        head.weight = table.weight
    else:
        head = last.plain()
    student.set_input_embeddings(table)
    student.set_output_embeddings(head)
    return student.requires_grad_(True)
