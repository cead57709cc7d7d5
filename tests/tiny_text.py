"""A tokenizer built in code: byte-level BPE with control tokens, a few hundred ids, no network."""

import functools
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SHARED = Path(__file__).parents[2] / "shared" / "data"

PROSE = (
    "The alembic stands over the fire. Wine goes in, spirit comes out, drop by drop.\n"
    "What is heavy stays behind; what is light is kept. 12 measures make 3.\n"
    "def still(wine):\n    return [drop for drop in wine if drop.light]\n"
)


@functools.cache
def _trained(vocab):
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    backend.train_from_iterator([PROSE] * 4, trainer)
    return backend.to_str()


def tokenizer(vocab=320):
    """Ids 0, 1, 2 are <|endoftext|>, <|im_start|>, <|im_end|>; end of text is <|im_end|>."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained(vocab)),
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
    )


def shared(name):
    """A file of real text, or a skip that says so."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{name} is not beside this checkout (../shared/data)")
    return path


def shared_tokenizer(name):
    """A real tokenizer, or a skip that says so."""
    return PreTrainedTokenizerFast.from_pretrained(shared(f"tokenizers/{name}"))
