"""DistillKit's captured log-probabilities: Parquet files of ids as packed bits and of values as coded bytes.

A row of `bytepacked_indices` is k ids of ceil(log2(d)) bits, the highest bit first. A row of `compressed_logprobs` is
`exact_k` values in `exact_dtype`, then the coefficients of a curve through the others in `term_dtype`, then, for each of
`residual_bins`, a scale and numbers of `element_bits` bits: what is to be added to the curve.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from limbeck.converting.samples import Line, Sample, columns_of, files_of, lines
from limbeck.errors import DataError

CONFIG = "compression_config.yaml"
_CODED = ("input_ids", "compressed_logprobs", "bytepacked_indices")
_RAW = ("input_ids", "token_ids", "top_values")
_DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}
_SPECIAL = {"sqrt": np.sqrt, "exp": np.exp}


def samples(path: Path) -> Iterator[Sample]:
    """The samples of a capture, one after the other."""
    found = columns_of(path)
    if "packed_indices" in found:
        raise DataError(
            f"{path}: DistillKit's older layout (packed_indices, exact_values, coeffs) found. It keeps logits "
            "without what normalises them, so that their probabilities are unknown. Capture again."
        )
    raw = set(_RAW) <= set(found)
    config = {} if raw else _config(path)
    columns = [*(_RAW if raw else _CODED), *(["labels"] if "labels" in found else [])]
    for line in lines(path, columns):
        ids = line.flat("input_ids")
        if raw:
            kept, logs = line.square("token_ids"), line.numbers("top_values")
        else:
            kept, logs = _uncoded(line, config)
        yield _sample(line, ids, kept, logs, line.flat("labels") if "labels" in columns else ids)


def inputs(path: Path) -> list[Path]:
    """The files that say what its samples are."""
    config = _place(path)
    return [*files_of(path), *([config] if config.is_file() else [])]


def _uncoded(line: Line, config: dict[str, Any]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The ids and values of a coded sample: both (tokens, k)."""
    packed, coded = _bytes(line, "bytepacked_indices"), _bytes(line, "compressed_logprobs")
    if not len(packed) and not len(coded):  # of one token: nothing comes after it
        return np.zeros((0, config["k"]), np.int64), np.zeros((0, config["k"]))
    try:
        return unpacked(packed, _bits(config), config["k"]), decoded(coded, config)
    except DataError as reason:
        raise DataError(f"{line.where}: {reason}") from reason


def _bytes(line: Line, column: str) -> NDArray[np.uint8]:
    found = line.square(column)
    if found.size and not 0 <= found.min() <= found.max() <= 255:
        raise line.wrong(column, f"{found.min()} to {found.max()} found; wanted bytes, 0 to 255.")
    return found.astype(np.uint8)


def _sample(
    line: Line,
    ids: NDArray[np.int64],
    kept: NDArray[np.int64],
    logs: NDArray[np.float64],
    labels: NDArray[np.int64],
) -> Sample:
    """The place of a token is that of what was said of the one after it; of the last one nothing may be said."""
    if len(kept) not in (len(ids), len(ids) - 1) or len(logs) != len(kept):
        raise DataError(
            f"{line.where}: a sample of {len(ids)} tokens has ids at {len(kept)} places and values at {len(logs)}; "
            "wanted one for each token, or all but the last. Capture again."
        )
    if kept.shape != logs.shape or len(labels) != len(ids):
        raise DataError(
            f"{line.where}: {kept.shape[1]} ids and {logs.shape[1]} values at each place, {len(ids)} tokens and "
            f"{len(labels)} labels; wanted as many of the one as of the other. Capture again."
        )
    short = len(ids) - len(kept)
    known = np.arange(len(ids)) < len(kept)
    weights = np.append(labels[1:] >= 0, False)[: len(ids)]
    pad = ((0, short), (0, 0))
    kept, logs = np.pad(kept, pad), np.pad(logs, pad)
    return Sample(ids, kept, logs, known, weights.astype(np.float32), line.where)


def _place(path: Path) -> Path:
    """Where the configuration of a capture lies."""
    return (path if path.is_dir() else path.parent) / CONFIG


def _config(path: Path) -> dict[str, Any]:
    place = _place(path)
    if not place.is_file():
        raise DataError(
            f"{place} is missing: it says how the capture was coded. It is what DistillKit calls "
            "logprob_compressor; write it there."
        )
    try:
        found = yaml.safe_load(place.read_bytes())
    except (yaml.YAMLError, RecursionError) as reason:
        raise DataError(f"{place}: not readable as YAML: {reason}") from reason
    found = found.get("logprob_compressor", found) if isinstance(found, dict) else None
    if not isinstance(found, dict) or not {"d", "k", "exact_k"} <= set(found):
        raise DataError(f"{place}: wanted d, k, exact_k and what else says how it was coded.")
    plain: dict[str, Any] = {
        "exact_dtype": "float32",
        "term_dtype": "float32",
        "polynomial_terms": None,
        "residual_bins": [],
        "delta_encoding": True,
        "normalize_t": False,
    }
    whole = plain | found
    _check(place, whole)
    return whole


def _check(place: Path, config: dict[str, Any]) -> None:
    """Refuses a configuration that no capture can have been coded with."""
    terms, bins = config["polynomial_terms"], config["residual_bins"]
    _must(place, config, "d", _whole(config["d"], 2), "a whole number of 2 or more")
    _must(place, config, "k", _whole(config["k"], 1, config["d"]), "a whole number of 1 to d")
    fits = _whole(config["exact_k"], 0, config["k"])
    _must(place, config, "exact_k", fits, "a whole number of 0 to k")
    for name in ("exact_dtype", "term_dtype"):
        _must(place, config, name, _float(config[name]), f"one of {', '.join(_DTYPES)}")
    for name in ("delta_encoding", "normalize_t"):
        _must(place, config, name, isinstance(config[name], bool), "true or false")
    fits = terms is None or (isinstance(terms, list) and all(map(_term, terms)))
    known = f"numbers from 0, {', '.join(_SPECIAL)}"
    _must(place, config, "polynomial_terms", fits, f"a list of {known}, or null")
    fits = isinstance(bins, list) and all(map(_bin, bins))
    fits = fits and sum(b["num_elements"] for b in bins) <= config["k"] - config["exact_k"]
    keys = "scale_dtype, element_bits (1 to 32) and num_elements"
    _must(place, config, "residual_bins", fits, f"a list of {keys}, of k - exact_k numbers at most")


def _must(place: Path, config: dict[str, Any], name: str, fits: bool, wanted: str) -> None:
    if not fits:
        raise DataError(
            f"{place}: {name} {config[name]!r} found; wanted {wanted}. "
            "Write there what DistillKit calls logprob_compressor."
        )


def _whole(value: Any, least: int, most: int = 1 << 31) -> bool:
    return type(value) is int and least <= value <= most


def _float(value: Any) -> bool:
    return isinstance(value, str) and value in _DTYPES


def _term(value: Any) -> bool:
    return (
        value in _SPECIAL if isinstance(value, str) else type(value) in (int, float) and value >= 0
    )


def _bin(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and _float(value.get("scale_dtype"))
        and _whole(value.get("element_bits"), 1, 32)
        and _whole(value.get("num_elements"), 1)
    )


def _bits(config: dict[str, Any]) -> int:
    return math.ceil(math.log2(config["d"]))


def unpacked(packed: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.int64]:
    """Whole numbers of so many bits, the highest first: (tokens, bytes) -> (tokens, count)."""
    wanted = -(-bits * count // 8)
    if len(packed) and packed.shape[1] != wanted:
        raise DataError(
            f"{packed.shape[1]} bytes found where {count} numbers of {bits} bits take {wanted}: the capture was coded "
            f"otherwise than {CONFIG} says. Correct d, k or residual_bins there."
        )
    ones = np.unpackbits(packed.astype(np.uint8), axis=1, count=bits * count)
    values = ones.reshape(len(packed), count, bits) @ (1 << np.arange(bits, dtype=np.int64)[::-1])
    return np.asarray(values, dtype=np.int64)


def decoded(coded: NDArray[np.uint8], config: dict[str, Any]) -> NDArray[np.float64]:
    """The k values of each token: bytes (tokens, bytes) -> float64 (tokens, k)."""
    parts = _Bytes(torch.from_numpy(coded.astype(np.uint8)))
    exact, rest = (
        parts.floats(config["exact_k"], config["exact_dtype"]),
        config["k"] - config["exact_k"],
    )
    curve = np.zeros((len(coded), rest))
    terms = config["polynomial_terms"] or []
    if terms:
        coefficients = parts.floats(len(terms), config["term_dtype"])
        curve = coefficients @ _terms(terms, rest, normalised=config["normalize_t"])
    begin = 0
    for part in config["residual_bins"]:
        scale, bits = parts.floats(1, part["scale_dtype"]), part["element_bits"]
        numbers = parts.whole(part["num_elements"], bits).astype(np.float64)
        # One bit is a sign; of more the highest is.
        numbers = 2 * numbers - 1 if bits == 1 else numbers - 2.0 ** (bits - 1)
        curve[:, begin : begin + part["num_elements"]] += numbers * scale
        begin += part["num_elements"]
    parts.end()
    values = np.concatenate([exact, curve], axis=1)
    return np.cumsum(values, axis=1) if config["delta_encoding"] else values


def _terms(terms: list[Any], count: int, *, normalised: bool) -> NDArray[np.float64]:
    """The terms of the curve at each of its points: (terms, points)."""
    points = np.linspace(0, 1, count) if normalised else np.arange(count, dtype=np.float64)
    return np.stack([_SPECIAL[t](points) if isinstance(t, str) else points**t for t in terms])


class _Bytes:
    """Takes numbers from the front of (tokens, bytes)."""

    def __init__(self, left: torch.Tensor) -> None:
        self.left = left

    def _take(self, size: int) -> torch.Tensor:
        if size > self.left.shape[1]:
            raise DataError(
                f"{self.left.shape[1]} bytes are left of a token where {size} are wanted: the capture was coded "
                f"otherwise than {CONFIG} says."
            )
        # A copy, since numbers may begin at any byte.
        found, self.left = self.left[:, :size], self.left[:, size:]
        return found.clone(memory_format=torch.contiguous_format)

    def floats(self, count: int, dtype: str) -> NDArray[np.float64]:
        """So many numbers of this type: (tokens, count)."""
        kind = _DTYPES[dtype]
        if not count:
            return np.zeros((len(self.left), 0))
        return np.asarray(self._take(count * kind.itemsize).view(kind).double().numpy())

    def whole(self, count: int, bits: int) -> NDArray[np.int64]:
        """So many whole numbers of so many bits: (tokens, count)."""
        return unpacked(self._take(-(-count * bits // 8)).numpy(), bits, count)

    def end(self) -> None:
        """Refuses bytes that nothing takes."""
        if self.left.shape[1]:
            raise DataError(
                f"{self.left.shape[1]} bytes of a token are left over: the capture was coded otherwise than "
                f"{CONFIG} says."
            )
