"""Mixers of a hybrid that carry a state along the sequence, each packed document for itself.

`DocumentsMixer` is transformers' Bamba mixer with documents; `DiscreteMamba2` is Llamba's, which no architecture of
transformers can express: no activation behind the convolution, no norm before the output, and decays made of the token
alone. Their arithmetic is in models/scan.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.bamba.modeling_bamba import BambaMixer

from limbeck.models import scan
from limbeck.objectives._mixing import precise_of

GATE_OPEN = 1.2784645427610738
"""silu of it is 1: the bias of a gate that lets everything pass."""
_WATCH = "limbeck_flow"


@dataclass(frozen=True)
class Flow:
    """What a mixer makes of its tokens before the state sees them.

    values: (batch, time, heads, head_dim), write, read: (batch, time, groups, state), log_decay: (batch, time, heads).
    scale: (batch, time, heads), what a value is multiplied by on its way into the state, or None for 1. skip: (heads,),
    what of a value passes by. gate: (batch, time, inner).
    """

    values: Tensor
    write: Tensor
    read: Tensor
    log_decay: Tensor
    scale: Tensor | None
    skip: Tensor
    gate: Tensor


Watch = Callable[[Flow], None]


@contextlib.contextmanager
def watched(mixer: nn.Module, watch: Watch) -> Iterator[None]:
    """Tells `watch` what flows through this mixer, while the block runs."""
    watchers = vars(mixer).setdefault(_WATCH, [])
    watchers.append(watch)
    try:
        yield
    finally:
        watchers.remove(watch)


def begins(edges: Tensor, batch: int, time: int) -> Tensor:
    """Where documents begin, of their edges among the flat tokens: bool (batch, time)."""
    found = torch.zeros(batch * time + 1, dtype=torch.bool, device=edges.device)
    found[edges.long()] = True
    return found[:-1].view(batch, time)


def is_edges(mask: Tensor | None) -> bool:
    """Whether what came as a mask is where documents begin (models/attention.py)."""
    return mask is not None and mask.dtype == torch.int32 and mask.ndim == 4


def told(mask: Tensor | None, batch: int, time: int) -> tuple[Tensor | None, Tensor | None]:
    """What a mask says: where documents begin, or where a token is no padding, bool (batch, time); or neither."""
    if mask is None:
        return None, None
    if is_edges(mask):
        return begins(mask.flatten(), batch, time), None
    return None, mask.bool()


def remembered(cache: Any, layer: int, kernel: int) -> tuple[Tensor | None, Tensor | None]:
    """(batch, kernel - 1, channels) and (batch, heads, head_dim, state) of a cache, or None where it begins."""
    if cache is None:
        return None, None
    held = cache.layers[layer]
    before, state = held.conv_states[0], held.recurrent_states[0]
    if before is None:
        return None, None
    return before[..., 1 - kernel :].transpose(1, 2), state


def remember(cache: Any, layer: int, entered: Tensor, state: Tensor, *, kernel: int) -> None:
    """Leaves in a cache what entered the convolution, (batch, time, channels), and the state behind it."""
    if cache is None:
        return
    cache.update_conv_state(entered.transpose(1, 2), layer_idx=layer, conv_kernel_size=kernel)
    cache.update_recurrent_state(state, layer_idx=layer)


def mixed(mixer: nn.Module, flow: Flow, starts: Tensor | None, state: Tensor | None = None) -> Any:
    """(batch, time, inner) that the state says to each token, and the last state."""
    for watch in vars(mixer).get(_WATCH, ()):
        watch(flow)
    values = flow.values if flow.scale is None else flow.values * flow.scale.unsqueeze(-1)
    sides = (values, flow.write, flow.read, flow.log_decay)
    if (
        state is not None and values.shape[1] == 1
    ):  # one token behind a cache, which no document begins
        found, last = scan.step(state, *(side[:, 0] for side in sides))
        found = found.unsqueeze(1)
    else:
        found, last = scan.scan(*sides, begins=starts, state=state)
    found = found + flow.skip.unsqueeze(-1) * flow.values
    return found.flatten(2), last


def through(
    mixer: Any, hidden_states: Tensor, cache: Any, mask: Tensor | None, *, kernel: int
) -> tuple[Tensor, Flow]:
    """(batch, time, inner) that a mixer's state says, from what a cache holds, which then holds what is behind it; and the flow."""
    starts, padding = told(mask, *hidden_states.shape[:2])
    before, state = remembered(cache, mixer.layer_idx, kernel)
    flow, entered = mixer.flow(hidden_states, starts, padding, before)
    said, state = mixed(mixer, flow, starts, state)
    remember(cache, mixer.layer_idx, entered, state, kernel=kernel)
    return said, flow


class DocumentsMixer(BambaMixer):  # type: ignore[misc]
    """Bamba's mixer, which takes documents' edges in the place of a mask, and reads by the scan of models/scan.py.

    Where a cache keeps its past, to take tokens back, it is transformers' own. States are float32, as the kernels'.
    """

    def forward(
        self,
        hidden_states: Tensor,
        cache_params: Any = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """(batch, time, width) of (batch, time, width); goes on from what a cache holds, and leaves it there.

        attention_mask: edges of documents, or (batch, time), 0 for padding on the left, or None.
        """
        if cache_params is not None and cache_params.is_recording_past(self.layer_idx):
            found: Tensor = super().forward(hidden_states, cache_params, attention_mask, **kwargs)
            return found
        said, flow = through(
            self, hidden_states, cache_params, attention_mask, kernel=self.conv_kernel_size
        )
        output: Tensor = self.out_proj(self.norm(said, flow.gate).to(hidden_states.dtype))
        return output

    def flow(
        self,
        hidden_states: Tensor,
        starts: Tensor | None,
        padding: Tensor | None = None,
        before: Tensor | None = None,
    ) -> tuple[Flow, Tensor]:
        """What enters the state, of (batch, time, width), and the convolution: (batch, time, channels).

        padding: bool (batch, time), false where a token is none: it writes nothing, and the state does not decay.
        """
        batch, time, _ = hidden_states.shape
        gate, entered, step = self.in_proj(hidden_states).split(
            [self.intermediate_size, self.conv_dim, self.num_heads], -1
        )
        if padding is not None:
            entered = entered * padding.unsqueeze(-1)
        weight = self.conv1d.weight.squeeze(1)
        inside = scan.convolve(entered, weight, self.conv1d.bias, begins=starts, before=before)
        groups = self.n_groups * self.ssm_state_size
        values, write, read = self.act(inside).split([self.intermediate_size, groups, groups], -1)
        precise = precise_of(hidden_states)
        step = functional.softplus((step + self.dt_bias.to(step.dtype)).to(precise))
        step = step.clamp(*self.time_step_limit)
        if padding is not None:
            step = step * padding.unsqueeze(-1)
        shape = (batch, time, self.n_groups, self.ssm_state_size)
        found = Flow(
            values=values.view(batch, time, self.num_heads, self.head_dim).to(precise),
            write=write.view(shape),
            read=read.view(shape),
            log_decay=-torch.exp(self.A_log.to(precise)) * step,
            scale=step,
            skip=self.D.to(precise),
            gate=gate,
        )
        return found, entered


def with_documents(model: nn.Module) -> None:
    """Has the Bamba mixers of a model take documents' edges. Parameters and files are the same."""
    for module in model.modules():
        if type(module) is BambaMixer:
            module.__class__ = DocumentsMixer


class DiscreteMamba2(nn.Module):
    """Llamba's mixer: S_t = a_t S_(t-1) + x_t B_t^T, y_t = S_t C_t + D x_t, a_t = sigmoid(-a_raw) (Bick et al., 2025).

    out = out_proj(y * silu(z + z_bias)) with x, B, C behind a causal convolution without activation. Names and order of
    parameters are those of the published checkpoints.
    """

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.heads, self.head_dim = config.mamba_n_heads, config.mamba_d_head
        self.groups, self.state = config.mamba_n_groups, config.mamba_d_state
        self.inner = self.heads * self.head_dim
        self.channels = self.inner + 2 * self.groups * self.state
        self.kernel, self.chunk = config.mamba_d_conv, config.mamba_chunk_size
        self.in_proj = nn.Linear(
            config.hidden_size, self.channels + self.inner + self.heads, bias=False
        )
        self.z_bias = nn.Parameter(torch.zeros(self.inner))
        self.conv1d = nn.Conv1d(
            self.channels, self.channels, self.kernel, groups=self.channels, padding=self.kernel - 1
        )
        self.D = nn.Parameter(torch.ones(self.heads))
        self.out_proj = nn.Linear(self.inner, config.hidden_size, bias=False)

    def forward(
        self,
        hidden_states: Tensor,
        cache_params: Any = None,
        attention_mask: Tensor | None = None,
        **others: Any,  # noqa: ARG002 (transformers' words)
    ) -> Tensor:
        """(batch, time, width) of (batch, time, width); goes on from what a cache holds, and leaves it there.

        attention_mask: edges of documents, or (batch, time), 0 for padding on the left, or None.
        """
        said, flow = through(self, hidden_states, cache_params, attention_mask, kernel=self.kernel)
        gate = functional.silu(flow.gate + self.z_bias)
        output: Tensor = self.out_proj(said.to(hidden_states.dtype) * gate)
        return output

    def flow(
        self,
        hidden_states: Tensor,
        starts: Tensor | None,
        padding: Tensor | None = None,
        before: Tensor | None = None,
    ) -> tuple[Flow, Tensor]:
        """What enters the state, of (batch, time, width), and the convolution: (batch, time, channels).

        padding: bool (batch, time), false where a token is none: it writes nothing, and the state does not decay.
        """
        batch, time, _ = hidden_states.shape
        inside, gate, decay = self.in_proj(hidden_states).split(
            [self.channels, self.inner, self.heads], -1
        )
        if padding is not None:
            inside = inside * padding.unsqueeze(-1)
        entered, weight = inside, self.conv1d.weight.squeeze(1)
        inside = scan.convolve(inside, weight, self.conv1d.bias, begins=starts, before=before)
        values, write, read = torch.split(
            inside, [self.inner, self.groups * self.state, self.groups * self.state], -1
        )
        precise = precise_of(hidden_states)
        log_decay = functional.logsigmoid(-decay.to(precise))
        if padding is not None:
            values = values * padding.unsqueeze(-1)
            log_decay = log_decay * padding.unsqueeze(-1)
        shape = (batch, time, self.groups, self.state)
        found = Flow(
            # In these, so that what the state says and what passes by are rounded once, as a sum.
            values=values.view(batch, time, self.heads, self.head_dim).to(precise),
            write=write.view(shape),
            read=read.view(shape),
            log_decay=log_decay,
            scale=None,
            skip=self.D.to(precise),
            gate=gate,
        )
        return found, entered
