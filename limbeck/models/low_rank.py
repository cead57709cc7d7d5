"""Layers whose weights are low-rank projections of a wider model's: only the projections are trained, and merged at last.

wide is the teacher's width, narrow the student's. A frozen matrix of the teacher's and a projection are two parameters
of one module, so that sharding, checkpoints and the optimizer see both by their names. Several modules may hold one
and the same projection. Where a middle tensor is wanted, `inner` shows it (models/taps.py).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear


def frozen(tensor: Tensor) -> nn.Parameter:
    """The same tensor as a parameter that is never trained."""
    return nn.Parameter(tensor.detach(), requires_grad=False)


def apart_is_cheaper(tokens: int, other: int, wide: int, narrow: int, *, shown: bool) -> bool:
    """Whether two thin products for each token cost less than making the weight (other, narrow) first.

    Counted over forward and backward: apart, the frozen matrix needs no gradient and the projection three products;
    the weight costs its own product twice and is then a plain layer of three. shown: the inner product is made anyway.
    """
    apart = tokens * (2 * other * wide + (0 if shown else 3 * wide * narrow))
    return apart < tokens * 3 * other * narrow + 2 * other * wide * narrow


class NarrowIn(nn.Module):
    """Reads the narrow stream: weight = frozen (out, wide) @ projection (wide, narrow) + delta; the bias is the teacher's.

    delta: (out, narrow), starts at zero: what a projection cannot reach. inner shows (..., wide).
    """

    def __init__(self, weight: nn.Parameter, projection: nn.Parameter) -> None:
        super().__init__()
        self.frozen, self.projection = weight, projection
        self.bias: nn.Parameter | None = None
        self.delta: nn.Parameter | None = None
        self.inner, self.shown = nn.Identity(), False

    @property
    def size(self) -> int:
        """Numbers of the weight."""
        return self.frozen.shape[0] * self.projection.shape[1]

    @property
    def weight(self) -> Tensor:
        """(out, narrow), computed now, with a graph to what is trained."""
        made = self.frozen @ self.projection
        return made if self.delta is None else made + self.delta

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., narrow) to (..., out)."""
        tokens, (wide, narrow) = hidden.numel() // hidden.shape[-1], self.projection.shape
        apart = self.delta is None and apart_is_cheaper(
            tokens, self.frozen.shape[0], wide, narrow, shown=self.shown
        )
        if not (apart or self.shown):
            return linear(hidden, self.weight, self.bias)
        middle = self.inner(linear(hidden, self.projection))
        if apart:
            return linear(middle, self.frozen, self.bias)
        return linear(hidden, self.weight, self.bias)

    def plain(self) -> nn.Linear:
        """An ordinary layer of the same weight, merged in at least float32."""
        made = _precise(self.frozen) @ _precise(self.projection)
        return _linear(made, self.delta, None if self.bias is None else _precise(self.bias))


class NarrowOut(nn.Module):
    """Writes the narrow stream: weight = projection (narrow, wide) @ frozen (wide, in) + delta; the bias goes through it.

    delta: (narrow, in), starts at zero. inner shows (..., wide). given: what a teacher has at the same place,
    (tokens, wide); beside then shows it through the projection, (tokens, narrow), with a gradient to it. Made in this
    forward, since sharding frees the projection after it.
    """

    def __init__(self, weight: nn.Parameter, projection: nn.Parameter) -> None:
        super().__init__()
        self.frozen, self.projection = weight, projection
        self.bias: nn.Parameter | None = None
        self.delta: nn.Parameter | None = None
        self.inner, self.shown = nn.Identity(), False
        self.beside = nn.Identity()
        self.given: Tensor | None = None

    @property
    def size(self) -> int:
        """Numbers of the weight."""
        return self.projection.shape[0] * self.frozen.shape[1]

    @property
    def weight(self) -> Tensor:
        """(narrow, in), computed now, with a graph to what is trained."""
        made = self.projection @ self.frozen
        return made if self.delta is None else made + self.delta

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., in) to (..., narrow)."""
        if self.given is not None:
            self.beside(linear(self.given.to(self.projection.dtype), self.projection))
        tokens, (narrow, wide) = hidden.numel() // hidden.shape[-1], self.projection.shape
        apart = self.delta is None and apart_is_cheaper(
            tokens, self.frozen.shape[1], wide, narrow, shown=self.shown
        )
        if apart or self.shown:
            middle = self.inner(linear(hidden, self.frozen, self.bias))
            if apart:
                return linear(middle, self.projection)
        bias = None if self.bias is None else self.projection @ self.bias
        return linear(hidden, self.weight, bias)

    def plain(self) -> nn.Linear:
        """An ordinary layer of the same weight, merged in at least float32."""
        projection = _precise(self.projection)
        bias = None if self.bias is None else projection @ _precise(self.bias)
        return _linear(projection @ _precise(self.frozen), self.delta, bias)


class NarrowEmbedding(nn.Module):
    """Rows of the teacher's table (vocab, wide), projected (wide, narrow) after they are gathered; and a delta (vocab, narrow)."""

    def __init__(self, table: nn.Parameter, projection: nn.Parameter) -> None:
        super().__init__()
        self.frozen, self.projection = table, projection
        self.delta: nn.Parameter | None = None

    def forward(self, ids: Tensor) -> Tensor:
        """(batch, time) to (batch, time, narrow)."""
        found = embedding(ids, self.frozen) @ self.projection
        return found if self.delta is None else found + embedding(ids, self.delta)

    def plain(self, padding: int | None) -> nn.Embedding:
        """An ordinary table of the same rows, merged in at least float32."""
        rows, width = self.frozen.shape[0], self.projection.shape[1]
        found = nn.Embedding(rows, width, padding_idx=padding, device="meta")
        made = _precise(self.frozen) @ _precise(self.projection)
        found.weight = nn.Parameter(made if self.delta is None else made + _precise(self.delta))
        return found


def _precise(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _linear(weight: Tensor, delta: Tensor | None, bias: Tensor | None) -> nn.Linear:
    rows, width = weight.shape
    found = nn.Linear(width, rows, bias=False, device="meta")
    found.weight = nn.Parameter(weight if delta is None else weight + _precise(delta))
    found.bias = None if bias is None else nn.Parameter(bias)  # type: ignore[assignment]
    return found
