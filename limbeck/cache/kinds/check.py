"""A record is fit to be written, or an error says why it is not."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from limbeck.cache.codec import Plane
from limbeck.errors import CacheMismatch, NonFinite


def plain(tensor: Tensor) -> Plane:
    """The numbers of a tensor on the CPU; bfloat16, which numpy lacks, as float32."""
    found = tensor.detach().cpu()
    found = found.float() if found.is_floating_point() and found.itemsize == 2 else found
    return found.numpy()


def shaped(name: str, values: Plane, wanted: tuple[int, ...]) -> None:
    """Refuses another shape."""
    if values.shape != wanted:
        raise CacheMismatch(
            f"{name} {values.shape} found; wanted {wanted}, as much as is recorded."
        )


def ids(name: str, values: Plane, vocab: int) -> None:
    """Refuses an id that the tokenizer does not have: a narrow integer wraps without a word."""
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    if low < 0 or high >= vocab:
        # 70,000 would become 4,464 in 16 bits.
        raise CacheMismatch(
            f"{name} from {low:,} to {high:,}; wanted 0 to {vocab - 1:,}. "
            "The teacher knows ids that the tokenizer does not."
        )


def once(name: str, values: Plane, tokens: Plane, vocab: int) -> None:
    """Refuses an id twice in one token; values, tokens: (kept,)."""
    _different(name, np.sort(tokens.astype(np.int64) * vocab + values))


def once_a_row(name: str, values: Plane) -> None:
    """Refuses an id twice in a row of (tokens, k)."""
    _different(name, np.sort(values.astype(np.int32), -1))


def _different(name: str, values: Plane) -> None:
    if bool((values[..., 1:] == values[..., :-1]).any()):
        raise CacheMismatch(f"{name}: an id stands twice in one token.")


def counts(name: str, values: Plane, most: int, kept: int) -> None:
    """Refuses counts beyond a byte or that do not sum to what is kept."""
    if values.size and (int(values.min()) < 0 or int(values.max()) > min(most, 255)):
        raise CacheMismatch(
            f"{name} from {int(values.min())} to {int(values.max())}; wanted 0 to {min(most, 255)}."
        )
    if int(values.sum()) != kept:
        raise CacheMismatch(f"{name} sum to {int(values.sum()):,}; {kept:,} ids were given.")


def logs(name: str, values: Plane, least: float = -np.inf) -> None:
    """Refuses what is no log-probability; a rounding above 0 is possible, a probability of 1.001 is not."""
    if bool(np.isnan(values).any()) or bool((values > 1e-3).any()):
        raise NonFinite(f"{name} has a NaN or a probability above 1; nothing written.")
    if bool((values < least).any()):
        raise CacheMismatch(
            f"{name} down to {float(values.min()):.4f}; wanted {least:.4f}, the log of the threshold, "
            "or more: it was recorded with another threshold."
        )


def finite(name: str, values: Plane) -> None:
    """Refuses a NaN or an infinity."""
    if not bool(np.isfinite(values).all()):
        raise NonFinite(f"{name} has a NaN or an infinity; nothing written.")


def entropy(values: Any) -> Plane:
    """Entropies (tokens,) that are known, finite and not below 0 but for rounding."""
    if values is None:
        raise CacheMismatch("the entropy of the teacher's distribution is not known; it is needed.")
    found = plain(values)
    finite("entropy", found)
    if bool((found < -1e-3).any()):
        raise NonFinite(f"entropy {float(found.min())} found, which none can be; nothing written.")
    return found
