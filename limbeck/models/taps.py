"""Reads what a model has inside: the output of a module by its name, or what enters an attention.

A tap is the name of a module in the trunk, such as `layers.3`, `layers.3.mlp` or `norm`, never an index into
`hidden_states`, whose last entry is after the final norm. `layers.3` is block 3 in every family, whatever its list of
blocks is called, and `layers.3.entering` is what it is given. A projected layer (models/low_rank.py) also shows its middle, `layers.3.mlp.gate_proj.inner`.
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import ModelError
from limbeck.models import attention, layout, mixers
from limbeck.models.low_rank import NarrowIn, NarrowOut
from limbeck.types import Batch, Heads, Mixing, Wanted

BLOCKS = "layers"
BESIDE = "beside"
"""What a projected layer shows of a teacher's features that it was given."""
ENTERING = "entering"
"""What a block is given, before its own norm."""
_PLACED = re.compile(rf"{BLOCKS}\.(\d+)(\..*)?")


@dataclass
class _Seen:
    """What one forward has shown so far, as the modules gave it."""

    features: dict[str, Any] = field(default_factory=dict)
    heads: dict[str, tuple[Tensor, Tensor, Tensor, float | None]] = field(default_factory=dict)
    flows: dict[str, mixers.Flow] = field(default_factory=dict)


def module(model: nn.Module, tap: str) -> nn.Module:
    """The module that a tap names. Raises ModelError with the nearest names where there is none."""
    return _named(model, _modules(model), tap)


def _named(model: nn.Module, found: Mapping[str, nn.Module], tap: str) -> nn.Module:
    if tap not in found:
        near = difflib.get_close_matches(tap, found, n=3)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ModelError(
            f"{type(layout.plain_model(model)).__name__} has no module '{tap}' in its trunk.{hint} "
            f"Its blocks are {BLOCKS}.0 to {BLOCKS}.{depth(model) - 1}."
        )
    return found[tap]


def depth(model: nn.Module) -> int:
    """How many blocks there are."""
    return len(layout.layers(model))


def matching(model: nn.Module, pattern: str) -> list[str]:
    """The taps that a pattern with one `*` in the place of a block's number stands for, in the order of blocks."""
    head, star, tail = pattern.partition("*")
    if not star or "*" in tail or head != f"{BLOCKS}.":
        raise ModelError(
            f"tap '{pattern}' found; wanted a name such as {BLOCKS}.3.mlp, or {BLOCKS}.*.mlp for that of every block."
        )
    found = [f"{head}{number}{tail}" for number in range(depth(model))]
    known = _modules(model)
    there = [tap for tap in found if tap in known]
    if not there:
        module(model, found[-1])  # says what there is
    return there


def block(tap: str) -> int | None:
    """The number of the block that a tap is in, or None for one outside of the blocks."""
    found = _PLACED.fullmatch(tap)
    return int(found[1]) if found else None


def _modules(model: nn.Module) -> dict[str, nn.Module]:
    """Every module of the trunk by its tap."""
    inner, blocks = layout.trunk(model), layout.layers(model)
    named = dict(inner.named_modules())
    own = next(name for name, one in named.items() if one is blocks)
    renamed = {
        BLOCKS + name.removeprefix(own) if name == own or name.startswith(f"{own}.") else name: one
        for name, one in named.items()
    }
    return {name: one for name, one in renamed.items() if name not in ("", BLOCKS)}


def projecting(model: nn.Module, tap: str) -> NarrowOut:
    """The layer at a tap that can take a teacher's features through its own projection. Raises ModelError at others."""
    found = module(model, tap)
    if not isinstance(found, NarrowOut):
        raise ModelError(
            f"tap '{tap}' is a {type(found).__name__}, which projects nothing; wanted a layer of a low-rank clone that "
            "writes its stream, such as layers.3.mlp.down_proj. Take 'teacher_projected' out, or name such a tap."
        )
    return found


def signal(
    model: nn.Module, batch: Batch, wanted: Wanted, given: Mapping[str, Tensor] | None = None
) -> tuple[Tensor, dict[str, Tensor], dict[str, Heads | Mixing]]:
    """One forward: last hidden states (tokens, width), features {tap: (tokens, width)}, {tap: Heads or Mixing}.

    Of every token of the batch, also those that do not count. given: what a teacher has, (some, wide), for a projected
    layer to take through its projection; comes back as the feature `<tap>.beside` (some, width). Where activation
    checkpointing runs a block again, nobody listens any more.
    """
    _check_switched(model, wanted.heads)
    beside = {f"{tap}.{BESIDE}": tensor for tap, tensor in (given or {}).items()}
    with listening(model, [*wanted.features, *beside], wanted.heads, given) as seen:
        out, flat = layout.forward(model, batch)
    features = {tap: _vectors(tap, seen.features, flat) for tap in wanted.features}
    features |= {tap: seen.features[tap] for tap in beside}
    heads = {tap: _heads(tap, seen, flat, batch) for tap in wanted.heads}
    return flat(out), features, heads


@contextlib.contextmanager
def listening(
    model: nn.Module,
    features: Sequence[str],
    heads: Sequence[str],
    given: Mapping[str, Tensor] | None = None,
) -> Iterator[_Seen]:
    """Gathers what the taps show while the block runs."""
    seen, found = _Seen(), _modules(model)
    _tell(found, features, given or {})
    if heads:
        mixers.with_documents(model)  # Bamba's own, as a file brings it, shows nothing
    with contextlib.ExitStack() as stack:
        for tap in features:
            block_, dot, entering = tap.rpartition(".")
            if dot and entering == ENTERING:
                one = _named(model, found, block_)
                hook = one.register_forward_pre_hook(_takes(seen, tap), with_kwargs=True)
            else:
                hook = _named(model, found, tap).register_forward_hook(_keeps(seen, tap))
            stack.callback(hook.remove)
        for tap in heads:
            for inner in _named(model, found, tap).modules():
                stack.enter_context(attention.watched(inner, _holds(seen, tap)))
                if isinstance(inner, mixers.DocumentsMixer | mixers.DiscreteMamba2):
                    stack.enter_context(mixers.watched(inner, _flows(seen, tap)))
        yield seen


def _tell(
    found: Mapping[str, nn.Module], features: Sequence[str], given: Mapping[str, Tensor]
) -> None:
    """Has projected layers make what this forward wants to see in them, and no more.

    What they are told holds until the next forward: activation checkpointing runs a block again, and must find the
    same tensors made.
    """
    listened = set(features)
    for tap, one in found.items():
        if isinstance(one, NarrowIn | NarrowOut):
            one.shown = f"{tap}.inner" in listened
        if isinstance(one, NarrowOut):
            one.given = given.get(tap)


def _keeps(seen: _Seen, tap: str) -> Callable[..., None]:
    def keep(_: nn.Module, __: Any, output: Any) -> None:
        seen.features[tap] = output[0] if isinstance(output, tuple) else output

    return keep


def _takes(seen: _Seen, tap: str) -> Callable[..., None]:
    def take(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        seen.features[tap] = given[0] if given else named["hidden_states"]

    return take


def _flows(seen: _Seen, tap: str) -> mixers.Watch:
    def flow(found: mixers.Flow) -> None:
        seen.flows[tap] = found

    return flow


def _holds(seen: _Seen, tap: str) -> attention.Watch:
    def hold(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> None:
        if tap in seen.heads:
            raise ModelError(
                f"tap '{tap}' holds several attentions; name one of them, such as '{tap}.0.self_attn'."
            )
        seen.heads[tap] = query, key, value, scale

    return hold


def _vectors(tap: str, seen: dict[str, Any], flat: Callable[[Tensor], Tensor]) -> Tensor:
    """What a module gave, one vector a token: (tokens, width)."""
    found = seen.get(tap)
    if not isinstance(found, Tensor) or found.ndim != 3:
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ModelError(
            f"tap '{tap}' gives {shape}; wanted (batch, time, width), one vector a token. Choose another module."
        )
    return flat(found)


def _check_switched(model: nn.Module, heads: Sequence[str]) -> None:
    if heads and not attention.switch(layout.plain_model(model)):
        raise ModelError(
            f"{type(layout.plain_model(model)).__name__}: its attention at {heads[0]} is wanted, and it does not "
            "run sdpa, through which queries and keys are seen. Load it with attn_implementation 'sdpa'."
        )


def _entered(tap: str, seen: _Seen) -> tuple[Tensor, Tensor, Tensor, float | None]:
    """Query, key, value and scale of the attention at a tap."""
    if tap not in seen.heads:
        raise ModelError(
            f"tap '{tap}': no attention was seen there. Name a block, such as {BLOCKS}.3, or its attention."
        )
    return seen.heads[tap]


def _heads(tap: str, seen: _Seen, flat: Callable[[Tensor], Tensor], batch: Batch) -> Heads | Mixing:
    if tap in seen.flows:
        flow = seen.flows[tap]
        by = None if flow.scale is None else flat(flow.scale)
        each = (flat(flow.write), flat(flow.read), flat(flow.log_decay))
        return Mixing(*each, by, flow.skip, batch.edges)
    query, key, value, scale = _entered(tap, seen)
    query, key, value = (flat(each.transpose(1, 2)) for each in (query, key, value))
    return Heads(
        query, key, value, batch.edges, query.shape[-1] ** -0.5 if scale is None else scale
    )


def widths(model: nn.Module, features: Sequence[str]) -> dict[str, int]:
    """Channels at each tap, found by a forward of two rows, also of a model that has shapes and no weights."""
    seen = _tried(model, features, ())
    found = {}
    for tap in features:
        shape = tuple(_vectors(tap, seen.features, lambda x: x).shape)
        if shape[:2] != (2, 3):  # such as rotary positions, which all rows share
            raise ModelError(
                f"tap '{tap}' gives {shape} of 2 rows of 3 tokens; wanted one vector a token. Choose another module."
            )
        found[tap] = shape[2]
    return found


def check_heads(model: nn.Module, heads: Sequence[str]) -> None:
    """Refuses a tap in which no attention runs, or several do; the model may have shapes and no weights."""
    _check_switched(model, heads)
    seen = _tried(model, (), heads)
    for tap in heads:
        _entered(tap, seen)


def check_mixing(model: nn.Module, places: Sequence[str]) -> dict[str, int]:
    """How many heads the mixer at each tap has. Refuses a tap without one; the model may have shapes and no weights."""
    seen = _tried(model, (), places)
    for tap in places:
        if tap not in seen.flows:
            raise ModelError(
                f"tap '{tap}': no mixer that carries a state was seen there. Name a block of a hybrid that has one, or "
                f"all: {BLOCKS}.*.mamba."
            )
    return {tap: seen.flows[tap].log_decay.shape[-1] for tap in places}


@torch.no_grad()
def _tried(model: nn.Module, features: Sequence[str], heads: Sequence[str]) -> _Seen:
    """What taps show in a forward of two rows of three tokens."""
    first = next(layout.trunk(model).parameters())
    ids = torch.zeros(2, 3, dtype=torch.int64, device=first.device)
    if first.is_meta:  # grouped products of experts know no other dtype there
        layout.trunk(model).to(torch.bfloat16)
    was = model.training
    # A mask of its own: to make one, transformers looks at numbers, and a model of shapes has none.
    mask = torch.ones(2, 1, 3, 3, dtype=torch.bool, device=first.device)
    try:
        with listening(model.eval(), features, heads) as seen:
            layout.trunk(model)(input_ids=ids, attention_mask=mask, use_cache=False)
    except (ValueError, TypeError, IndexError, RuntimeError) as reason:
        name = type(layout.plain_model(model)).__name__
        raise ModelError(
            f"{name}: taps cannot be read: its forward takes no mask of one row's tokens ({reason}). Leave out terms with 'at'."
        ) from reason
    finally:
        model.train(was)
    return seen
