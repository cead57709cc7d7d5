"""A model that looks values up with two known heads and nothing else, and a tokenizer of whole words."""

import functools

import tiny
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, SmolLM3Config, SmolLM3ForCausalLM

from limbeck.models.nouns import NOUNS

GATHER, AGGREGATE = (1, 0), (3, 1)
"""(layer, head): every token brings along the one two places before it; the question finds whom brought its word."""
_WORDS = [
    "[unk]",
    "Memorize",
    "the",
    "following",
    "dictionary",
    "The",
    "value",
    "of",
    "key",
    "is",
    ":",
    "'",
    "\n",
]
_WIDTH = 64  # of a head, and of what stands for a token
_THETA = 10_000.0


@functools.cache
def tokenizer():
    """Words, numbers of two digits and marks, each one id; spaces are none."""
    words = [*_WORDS, *NOUNS, *map(str, range(10, 100))]
    vocab = {word: number for number, word in enumerate(dict.fromkeys(words))}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="[unk]"))
    cuts = [(" ", "removed"), (r"\n|[:']", "isolated")]
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(sign), how) for sign, how in cuts]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[unk]")


def model(layers=5):
    """Its stream holds a token's code, that of the token two before, what was found, and a one."""
    vocab = len(tokenizer())
    config = SmolLM3Config(
        vocab_size=vocab,
        hidden_size=3 * _WIDTH + 1,
        intermediate_size=8,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=_WIDTH,
        no_rope_layers=[int(layer != AGGREGATE[0]) for layer in range(layers)],
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": _THETA},
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    found, source = SmolLM3ForCausalLM(config), tiny.generator()
    codes = torch.randint(0, 2, (vocab, _WIDTH), generator=source) * 2.0 - 1.0
    codes /= _WIDTH**0.5
    with torch.no_grad():
        for parameter in found.parameters():
            if parameter.ndim > 1:  # all else does next to nothing
                parameter.copy_(0.002 * torch.randn(parameter.shape, generator=source))
        found.model.embed_tokens.weight.zero_()
        found.model.embed_tokens.weight[:, :_WIDTH] = codes
        found.model.embed_tokens.weight[:, -1] = 1.0
        found.lm_head.weight.zero_()
        found.lm_head.weight[:, 2 * _WIDTH : 3 * _WIDTH] = 2 * codes
        _gather(found.model.layers[GATHER[0]].self_attn)
        _aggregate(found.model.layers[AGGREGATE[0]].self_attn)
    return found.eval()


def _gather(attention):
    """Query and key are constants, turned so that their rotary angles meet two places apart."""
    mine = slice(GATHER[1] * _WIDTH, (GATHER[1] + 1) * _WIDTH)
    half = _WIDTH // 2
    angles = -2 * _THETA ** (-torch.arange(half) / half)
    attention.q_proj.weight[mine, -1] = 2 * torch.cat([angles.cos(), angles.sin()])
    attention.k_proj.weight[mine, -1] = 2 * torch.cat([torch.ones(half), torch.zeros(half)])
    attention.v_proj.weight[mine, :_WIDTH] = 0.1 * torch.eye(_WIDTH)
    attention.o_proj.weight[_WIDTH : 2 * _WIDTH, mine] = torch.eye(_WIDTH)


def _aggregate(attention):
    """Query and key are what was brought along, so that the question meets the number behind its word."""
    mine = slice(AGGREGATE[1] * _WIDTH, (AGGREGATE[1] + 1) * _WIDTH)
    attention.q_proj.weight[mine, _WIDTH : 2 * _WIDTH] = 3 * torch.eye(_WIDTH)
    attention.k_proj.weight[mine, _WIDTH : 2 * _WIDTH] = 3 * torch.eye(_WIDTH)
    attention.v_proj.weight[mine, :_WIDTH] = 0.1 * torch.eye(_WIDTH)
    attention.o_proj.weight[2 * _WIDTH : 3 * _WIDTH, mine] = torch.eye(_WIDTH)
