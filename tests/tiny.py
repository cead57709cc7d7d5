"""Small real things that tests build on: rows, batches and models of a few thousand parameters."""

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from limbeck.types import Batch, Rows

VOCAB = 29


def generator(seed: int = 0) -> torch.Generator:
    """Randomness that a test owns."""
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Normal numbers of this shape, the same at each call."""
    return torch.randn(*shape, generator=generator(seed), dtype=dtype)


def rows(tokens: int, *, vocab: int = VOCAB, seed: int = 0) -> Rows:
    """One document of tokens that all count. All (tokens,)."""
    return Rows(
        labels=torch.randint(0, vocab, (tokens,), generator=generator(seed)),
        weights=torch.ones(tokens),
        position_ids=torch.arange(tokens),
        document_ids=torch.zeros(tokens, dtype=torch.int64),
    )


def batch(
    size: int = 2,
    time: int = 12,
    *,
    vocab: int = VOCAB,
    documents: tuple[int, ...] | None = None,
    seed: int = 0,
) -> Batch:
    """Random tokens, (size, time); `documents` are the lengths each row is packed of, else one a row.

    A document's last label does not count (weight 0), since it would be the first token of the next.
    """
    lengths = documents or (time,)
    if sum(lengths) != time:
        raise ValueError(f"documents {lengths} do not fill {time} tokens.")
    tokens = torch.randint(0, vocab, (size, time + 1), generator=generator(seed))
    positions = torch.cat([torch.arange(length) for length in lengths])
    ids = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    weights = torch.ones(time)
    weights[torch.tensor(lengths).cumsum(0) - 1] = 0.0
    return Batch(
        input_ids=tokens[:, :-1].contiguous(),
        labels=tokens[:, 1:].contiguous(),
        position_ids=positions.repeat(size, 1),
        document_ids=ids.repeat(size, 1),
        weights=weights.repeat(size, 1),
        label_bytes=torch.full((size, time), 2),
        addresses=tuple(f"row-{seed}-{row}" for row in range(size)),
    )


def every(batch: Batch) -> Rows:
    """All tokens of a batch, also those that do not count: what a plain reference weighs itself."""
    planes = (batch.labels, batch.weights, batch.position_ids, batch.document_ids)
    return Rows(*(plane.flatten() for plane in planes))


def randomised(model: PreTrainedModel, *, seed: int = 0) -> PreTrainedModel:
    """The model in eval mode with every parameter random, so that no norm is 1 and no bias is 0."""
    source = generator(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=source, dtype=torch.float64)
            centre = 1.0 if parameter.ndim == 1 else 0.0
            parameter.copy_(centre * 0.5 + 0.3 * noise)
    return model.eval()


def llama(
    *,
    vocab: int = VOCAB,
    width: int = 16,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    tied: bool = False,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> LlamaForCausalLM:
    """A random Llama of a few thousand parameters, in eval mode."""
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=128,
        tie_word_embeddings=tied,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=None,
    )
    return randomised(LlamaForCausalLM(config).to(dtype), seed=seed)
