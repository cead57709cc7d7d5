"""Documents of unequal length: attention of packed rows, and a whole student step packed against padded."""

from __future__ import annotations

import argparse
import os
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from side_by_side import race, ratio, save, seconds
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from limbeck.models import attention, layout, place
from limbeck.types import Batch

HEADS, GROUPS, WIDTH, VOCAB = 9, 3, 64, 49_152  # those of SmolLM2-135M


def lengths(documents: int, *, longest: int, seed: int = 0) -> list[int]:
    """Lognormal: half of them shorter than 200 tokens, one in six longer than 540."""
    source = torch.Generator().manual_seed(seed)
    found = torch.exp(5.3 + torch.randn(documents, generator=source)).round().clamp(8, longest)
    return [int(length) for length in found]


def filling(documents: int, tokens: int) -> list[int]:
    """Lognormal lengths that sum to `tokens`."""
    found = lengths(documents, longest=tokens)
    scaled = [max(1, length * tokens // sum(found)) for length in found]
    scaled[-1] += tokens - sum(scaled)
    return scaled


def one_row(sizes: list[int], vocab: int = VOCAB) -> Batch:
    """Random documents one after the other in a row: (1, tokens); the last token of each guesses nothing."""
    total = sum(sizes)
    tokens = torch.randint(0, vocab, (1, total + 1), generator=torch.Generator().manual_seed(1))
    positions = torch.cat([torch.arange(size) for size in sizes])
    documents = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    weights = torch.ones(1, total)
    weights[0, torch.tensor(sizes).cumsum(0) - 1] = 0
    planes = (positions[None], documents[None], weights, torch.ones(1, total, dtype=torch.int64))
    return Batch(tokens[:, :-1], tokens[:, 1:], *planes, ("row",))


def apart(batch: Batch, sizes: list[int]) -> Batch:
    """The same documents one a row, padded to the longest: (documents, longest)."""
    planes: dict[str, Any] = {
        name: pad_sequence(getattr(batch, name)[0].split(sizes), batch_first=True)
        for name in ("input_ids", "labels", "weights", "label_bytes")
    }
    shape = planes["input_ids"].shape
    positions = torch.arange(shape[1]).expand(shape)
    alike = torch.zeros(shape, dtype=torch.int64)
    rows = tuple(f"row {number}" for number in range(shape[0]))
    return Batch(**planes, position_ids=positions, document_ids=alike, addresses=rows)


def attended(tokens: int, documents: int, dtype: torch.dtype, rounds: int) -> dict[str, Any]:
    """Forward and backward of one layer's attention over one packed row."""
    batch = one_row(filling(documents, tokens))
    source = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(1, heads, tokens, WIDTH, generator=source).to(dtype).requires_grad_()
        for heads in (HEADS, GROUPS, GROUPS)
    )
    slope = torch.randn(1, tokens, HEADS, WIDTH, generator=source).to(dtype)
    found = batch.edges
    mask, module = attention.dense(found, 1, tokens), nn.Module()
    module.num_key_value_groups = HEADS // GROUPS  # type: ignore[assignment]

    def run(given: Tensor | None) -> Tensor:
        output = attention.documents_attention(module, q, k, v, given)[0]
        output.backward(slope)
        return output

    close = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 3e-2, "rtol": 3e-2}
    torch.testing.assert_close(run(attention.as_mask(found)), run(mask), **close)
    times = race(
        {
            "ours": lambda: run(attention.as_mask(found)),
            "dense mask": lambda: run(mask),
            "causal over all": lambda: run(None),
        },
        rounds=rounds,
    )
    return {
        "work": f"attention, {tokens:,} tokens, {documents} documents, {_name(dtype)}",
        **{f"{label} s": seconds(times, label) for label in times},
        "dense / ours": ratio(times, "dense mask", "ours"),
        "causal / ours": ratio(times, "causal over all", "ours"),
    }


def student(layers: int, dtype: torch.dtype, vocab: int) -> PreTrainedModel:
    """A random model of SmolLM2-135M's sizes with fewer layers."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=HEADS * WIDTH,
        intermediate_size=1536,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        num_key_value_heads=GROUPS,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).to(dtype).train()


def stepped(
    sizes: list[int], dtype: torch.dtype, layers: int, vocab: int, rounds: int
) -> dict[str, Any]:
    """Tokens that count per CPU second of a step: forward, cross-entropy, backward, fused AdamW."""
    packed = one_row(sizes, vocab)
    padded = apart(packed, sizes)
    model = student(layers, dtype, vocab)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)

    def loss(batch: Batch) -> Tensor:
        states = batch.pick(layout.hidden(model, batch))
        logits = layout.head(model)(states)
        return functional.cross_entropy(logits, batch.rows.labels, reduction="sum")

    def everywhere(batch: Batch) -> Tensor:
        """As a model's own loss does it: logits of padding too, which the loss then passes over."""
        logits = layout.head(model)(layout.hidden(model, batch))
        labels = batch.labels.masked_fill(batch.weights == 0, -100).flatten()
        return functional.cross_entropy(logits, labels, reduction="sum")

    def step(total: Tensor) -> None:
        (total / packed.counted.numel()).backward()
        optimizer.step()
        optimizer.zero_grad()

    with torch.no_grad():
        torch.testing.assert_close(loss(packed), loss(padded), rtol=1e-3, atol=0)
        torch.testing.assert_close(loss(packed), everywhere(padded), rtol=1e-3, atol=0)
    times = race(
        {
            "packed": lambda: step(loss(packed)),
            "padded, our head": lambda: step(loss(padded)),
            "padded": lambda: step(everywhere(padded)),
        },
        rounds=rounds,
    )
    counted = int(packed.counted.numel())
    return {
        "work": f"step, {layers} layers, {len(sizes)} documents, {counted:,} tokens count, {_name(dtype)}",
        "filled when padded": sum(sizes) / padded.input_ids.numel(),
        **{
            f"{label}, tokens/CPU s": counted / (sum(one.cpu for one in found) / rounds)
            for label, found in times.items()
        },
        "padded / packed": ratio(times, "padded", "packed"),
        "the same, our head": ratio(times, "padded, our head", "packed"),
    }


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, nothing written")
    quick = parser.parse_args().quick
    kinds = (torch.float32, torch.bfloat16)
    tokens, documents, rounds = (256, 4, 1) if quick else (4096, 15, 3)
    rows = [attended(tokens, documents, dtype, rounds) for dtype in kinds]
    save("attention", rows, quick=quick, note="CPU ratios; one layer, forward and backward")
    sizes = lengths(3, longest=64) if quick else lengths(8, longest=1024)
    layers, vocab, rounds = (1, 500, 1) if quick else (5, VOCAB, 1)
    # What a recipe computes in by itself here.
    kinds = kinds if quick else (place.dtype_of("auto", torch.device("cpu")),)
    rows = [stepped(sizes, dtype, layers, vocab, rounds) for dtype in kinds]
    save(
        "packing",
        rows,
        quick=quick,
        note="the same documents in one packed row, and one a row padded to the longest",
    )


if __name__ == "__main__":
    main()
