"""What teacher and student write after the same words, always taking the likeliest token."""

from __future__ import annotations

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase


@torch.no_grad()
def greedy(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, tokens: int
) -> str:
    """The prompt's continuation, up to `tokens` tokens, without the prompt."""
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False).input_ids
    ids = ids.to(next(model.parameters()).device)
    asked = GenerationConfig(
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id or 0,
    )
    written = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=asked)
    text: str = tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)
    return text
