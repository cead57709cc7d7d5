"""Loads an exported folder in a process of its own and compares logits: python -m limbeck.models.reload."""

from __future__ import annotations

import json
import sys

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


@torch.no_grad()
def difference(folder: str, question: str) -> float:
    """The largest difference between the folder's logits and those stored beside the ids."""
    asked = load_file(question)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    found = model(asked["ids"], use_cache=False).logits.float()  # (batch, time, vocab)
    return float((found - asked["logits"]).abs().max())


if __name__ == "__main__":
    sys.stdout.write(json.dumps({"difference": difference(sys.argv[1], sys.argv[2])}) + "\n")
