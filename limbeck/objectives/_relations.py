"""Relations among a few units, by the Gram matrix: no tensor of (units, units, width) exists.

Units are centred first and computed in float64: a large common component, or one unit far from all others, would cancel
digits of the Gram identity, which float32 does not have to spare; they are few. Nothing has a square root at 0, whose slope is infinite: the diagonal is left out, duplicates are clamped.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

# Squared distances below so many roundings of the mean one are rounding themselves: these units are one.
_ROUNDINGS = 8
# Entries of a chunk of angles on one side: 4 million are 32 MB in float64.
_ENTRIES = 1 << 22


def centred(units: Tensor) -> Tensor:
    """Units (units, width) less their mean, in float64."""
    precise = units.double()
    return precise - precise.mean(0)


def squares(units: Tensor) -> tuple[Tensor, Tensor]:
    """The Gram matrix of centred units and their squared distances: (units, units) twice, the latter never below 0."""
    gram = units @ units.T
    own = gram.diagonal()
    return gram, (own[:, None] + own[None, :] - 2 * gram).clamp(min=0)


def others(matrix: Tensor) -> Tensor:
    """Each row without its diagonal entry: (units, units) -> (units, units - 1)."""
    count = matrix.shape[0]
    return matrix.flatten()[1:].view(count - 1, count + 1)[:, :-1].reshape(count, count - 1)


def distances(units: Tensor) -> Tensor:
    """Distance of each unit to each other one, over the mean of those above 0: (units, units - 1).

    The mean is not detached: nothing flows that only scales all units.
    """
    _, squared = squares(centred(units))
    apart = others(squared)
    seen = _apart(apart, apart)
    # where twice: the slope of the root is taken of kept entries only.
    root = torch.where(seen, apart, 1.0).sqrt()
    found = torch.where(seen, root, 0.0)
    return found / (found.sum() / seen.sum().clamp(min=1)).clamp(min=torch.finfo(found.dtype).tiny)


def _apart(some: Tensor, every: Tensor) -> Tensor:
    """Which of some squared distances are more than the rounding of all of them."""
    least = _ROUNDINGS * torch.finfo(every.dtype).eps * every.detach().mean()
    return some.detach() > least


def angles(units: Tensor, vertices: slice) -> Tensor:
    """Cosine of the angle at each vertex between every two others: (vertices, units, units), 0 where two are one."""
    gram, squared = squares(centred(units))
    own = gram.diagonal()[vertices, None, None]
    across = gram[vertices]  # (vertices, units)
    inner = gram[None] - across[:, :, None] - across[:, None, :] + own
    apart = squared[vertices]
    seen = _apart(apart, squared)
    inverse = torch.where(seen, torch.where(seen, apart, 1.0).rsqrt(), 0.0)
    return inner * inverse[:, :, None] * inverse[:, None, :]


def angle_gaps(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean over two different others of Huber(cos - cos) at each vertex: (units,).

    Vertices are taken a chunk at a time and computed again in the backward pass, so that memory is a few times
    (chunk, units, units) and never (units, units, units).
    """
    count = student.shape[0]
    size = max(1, _ENTRIES // (count * count))

    def some(mine: Tensor, start: int) -> Tensor:
        part = slice(start, min(start + size, count))
        with torch.no_grad():
            wanted = angles(teacher, part)
        gap = huber(angles(mine, part) - wanted)
        # An angle between a unit and itself is 1 on both sides, and 0 at the vertex: their gaps are 0 but for rounding.
        return (gap.sum((1, 2)) - gap.diagonal(dim1=1, dim2=2).sum(-1)) / (
            (count - 1) * (count - 2)
        )

    return torch.cat([again(some, student, start) for start in range(0, count, size)])


def again(function: Callable[..., Tensor], *given: object) -> Tensor:
    """A function whose inner tensors are not kept for the backward pass but computed again."""
    found: Tensor = checkpoint(function, *given, use_reentrant=False, preserve_rng_state=False)
    return found


def huber(gap: Tensor) -> Tensor:
    """Half the square up to 1, linear beyond."""
    return functional.huber_loss(gap, torch.zeros_like(gap), reduction="none", delta=1.0)
