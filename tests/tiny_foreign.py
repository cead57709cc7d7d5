"""Small caches in the layouts of other tools, made slowly from what is known of those layouts."""

import itertools
import math
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import tiny
import tiny_cache
import tiny_text
import yaml

K = 8


def samples(count=6, *, vocab=320, k=K, seed=0):
    """(ids, kept, logprobs) of samples of different length; at each place the token that comes is kept."""
    source, made = np.random.default_rng(seed), []
    for _ in range(count):
        tokens = int(source.integers(5, 12))
        ids = source.integers(3, vocab, tokens)
        logits = 2 * tiny.randn(tokens, vocab, seed=int(source.integers(1 << 30)))
        logits[np.arange(tokens - 1), ids[1:]] += 8
        top = tiny_cache.top(logits, k)
        made.append((ids, top.ids.numpy(), top.logprobs.numpy()))
    return made


def packed(numbers, bits):
    """Numbers as a text of ones and noughts, cut into bytes."""
    text = "".join(format(int(number), f"0{bits}b") for number in numbers)
    text += "0" * (-len(text) % 8)
    return [int(text[place : place + 8], 2) for place in range(0, len(text), 8)]


def floats(values, dtype):
    """The bytes of numbers of this type."""
    if dtype == "bfloat16":
        return [b for v in values for b in np.float32(v).tobytes()[2:]]
    return list(np.asarray(values, dtype).tobytes())


def coded(logs, config):
    """One token's values as DistillKit writes them: exact ones, a curve, what is left in bins."""
    logs = list(logs)
    if config["delta_encoding"]:
        logs = [logs[0], *(b - a for a, b in itertools.pairwise(logs))]
    exact, rest = logs[: config["exact_k"]], np.array(logs[config["exact_k"] :])
    out = floats(exact, config["exact_dtype"])
    terms = config["polynomial_terms"] or []
    if terms:
        last = max(1, len(rest) - 1) if config.get("normalize_t") else 1
        points = [place / last for place in range(len(rest))]
        named = {"sqrt": math.sqrt, "exp": math.exp}
        curve = np.array([[named[t](p) if t in named else p**t for t in terms] for p in points])
        found = np.linalg.lstsq(curve, rest, rcond=None)[0].astype(config["term_dtype"])
        out += floats(found, config["term_dtype"])
        rest = rest - curve @ found
    begin = 0
    for part in config["residual_bins"]:
        values, bits = rest[begin : begin + part["num_elements"]], part["element_bits"]
        most = 1 if bits == 1 else 2 ** (bits - 1)
        scale = float(np.float32(max(abs(values).max() / most, 1e-12)))
        out += floats([scale], part["scale_dtype"])
        low = 0 if bits == 1 else -most
        whole = [
            min(max(round(v / scale), low), 1 if bits == 1 else most - 1) - low for v in values
        ]
        out += packed(whole, bits)
        begin += part["num_elements"]
    return out


def distillkit(path: Path, made, config, *, last=False):
    """A capture of these samples; `last`: there are values after the last token too."""
    path.mkdir(parents=True)
    (path / "compression_config.yaml").write_text(yaml.safe_dump(config))
    bits = math.ceil(math.log2(config["d"]))
    rows = {"input_ids": [], "compressed_logprobs": [], "bytepacked_indices": []}
    for ids, kept, logs in made:
        end = len(ids) if last else len(ids) - 1
        rows["input_ids"].append(ids.tolist())
        rows["bytepacked_indices"].append([packed(place, bits) for place in kept[:end]])
        rows["compressed_logprobs"].append([coded(place, config) for place in logs[:end]])
    byte_lists = pyarrow.list_(pyarrow.list_(pyarrow.uint8()))
    schema = {
        "input_ids": pyarrow.list_(pyarrow.uint64()),
        "compressed_logprobs": byte_lists,
        "bytepacked_indices": byte_lists,
    }
    half = len(made) // 2
    for number, part in enumerate((slice(half), slice(half, None))):
        table = pyarrow.table({n: pyarrow.array(rows[n][part], t) for n, t in schema.items()})
        pyarrow.parquet.write_table(table, path / f"data_{number}.parquet")


def axolotl_rows(made, *, own=False):
    """Columns of a prepared data set; `own`: places speak of their own token, as older versions wrote."""
    rows = {
        name: []
        for name in ("input_ids", "labels", "target_token_ids", "target_logprobs", "target_mask")
    }
    for ids, kept, logs in made:
        tokens, known = len(ids), np.arange(len(ids)) < len(ids) - 1
        kept, logs = kept.copy(), np.where(known[:, None], logs, -1e9)
        if own:
            kept, logs, known = np.roll(kept, 1, 0), np.roll(logs, 1, 0), np.roll(known, 1)
        rows["input_ids"].append(ids.tolist())
        rows["labels"].append([-100, -100, *ids[2:].tolist()])
        rows["target_token_ids"].append(kept.tolist())
        rows["target_logprobs"].append(logs.tolist())
        rows["target_mask"].append([[int(one)] * kept.shape[1] for one in known])
        assert len(rows["target_mask"][-1]) == tokens
    return rows


def tokenizer():
    """The tokenizer that all these ids are of."""
    return tiny_text.tokenizer()
