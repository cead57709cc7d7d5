"""What is wrong with a target: the error of the head's gradient under each way to keep a distribution, and its bytes.

Teacher: a model over whole rows. Student: the same model that sees 16 tokens only, so that it is worse by a known
thing. The error is that of the gradient of the head's weight, summed over all tokens, relative to the gradient under
the whole distributions. What a mean over draws does not take away is bias.

Near and far: the student's last hidden states are moved towards the teacher's. What was kept of the likeliest errs by
how the student spreads the rest, which comes right as it learns; the noise of draws stays while the gradient fades.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from quality_targets import TEACHER, words
from side_by_side import save
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from limbeck.cache.format import CacheAbout
from limbeck.cache.kinds import KINDS
from limbeck.models import layout, load, place
from limbeck.selection.likeliest import likeliest
from limbeck.selection.resampled import resampled
from limbeck.selection.threshold import threshold
from limbeck.types import Drawn, Sampled, TopK

SEEN = 16


def materials(options: argparse.Namespace) -> tuple[layout.Head, Tensor, Tensor]:
    """The head, and the last hidden states (tokens, width) of teacher and student."""
    if options.quick:
        torch.manual_seed(0)
        shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
        config = LlamaConfig(vocab_size=300, num_attention_heads=2, num_key_value_heads=2, **shape)
        model, rows = LlamaForCausalLM(config).eval(), words(None, 64, 0, 300)
        model.lm_head.weight.data.mul_(100)
    else:
        model = load.load_model(TEACHER, dtype=place.dtype_of("auto", torch.device("cpu")))
        rows = words(options.text, 256, 0, 0)
    batch = rows.batch(range(max(1, options.tokens // rows.length)))
    with torch.no_grad():
        whole = layout.hidden(model, batch)
        inner = layout.trunk(model)
        apart = batch.input_ids.view(-1, SEEN)
        short = inner(input_ids=apart, use_cache=False).last_hidden_state.flatten(0, 1)
    return layout.head(model), whole, short


class Gradients:
    """The head's gradient (vocab, width) under any targets (tokens, vocab), for one student."""

    def __init__(self, head: layout.Head, teacher: Tensor, student: Tensor) -> None:
        self.p = head(teacher).softmax(-1)
        self.q = head(student).softmax(-1)
        self.hidden = student.float()
        self.whole = self.of(self.p)

    def of(self, targets: Tensor) -> Tensor:
        """Of cross-entropy with targets that need not sum to 1."""
        return (targets.sum(-1, keepdim=True) * self.q - targets).t() @ self.hidden

    def error(self, gradient: Tensor) -> float:
        """Relative to the gradient under the whole distributions, in norm."""
        return float((gradient - self.whole).norm() / self.whole.norm())


def of_sampled(found: Sampled, like: Tensor) -> Tensor:
    targets = torch.zeros_like(like)
    targets[found.tokens, found.ids] = found.weights.to(like.dtype)
    return targets


def of_drawn(found: Drawn, like: Tensor, limit: float) -> Tensor:
    """Of the first draw."""
    targets = torch.zeros_like(like)
    tokens = torch.arange(like.shape[0])
    targets[tokens.repeat_interleave(found.heads), found.head_ids] = found.head_logprobs.exp()
    targets[tokens.repeat_interleave(found.tails[0]), found.tail_ids] = limit
    return targets


def of_top(found: TopK, like: Tensor, student: Tensor | None) -> Tensor:
    """The kept ids made to sum to 1; with a student (tokens, vocab), the rest spread as that one spreads it."""
    kept = found.logprobs.exp()
    if student is None:
        return torch.zeros_like(like).scatter_(-1, found.ids, kept / kept.sum(-1, keepdim=True))
    others = student.scatter(-1, found.ids, 0.0)
    spread = others * (1 - kept.sum(-1, keepdim=True)) / others.sum(-1, keepdim=True)
    return spread.scatter_(-1, found.ids, kept)


def size(record: Any, kind: dict[str, Any], tokens: int, vocab: int) -> float:
    """Bytes a token, as they stand in a shard of one row."""
    about = CacheAbout("", "", vocab, tokens, **kind)
    planes = KINDS[about.kind].encode(record, about, np.array([0, tokens]))
    return sum(plane.nbytes for plane in planes.values()) / tokens


def ways(
    logits: Tensor, made: Gradients
) -> dict[str, Callable[[Tensor], tuple[Tensor, float, float]]]:
    """From uniforms (100, tokens) to targets, ids and bytes a token, by name."""
    tokens, vocab = logits.shape

    def at(limit: float, uniforms: Tensor) -> tuple[Tensor, float, float]:
        found = threshold(logits, uniforms[:1], threshold=limit)
        ids = (found.head_ids.numel() + found.tail_ids.numel()) / tokens
        taken = size(found, {"kind": "sample", "threshold": limit}, tokens, vocab)
        return of_drawn(found, made.p, limit), ids, taken

    def drawn(samples: int, uniforms: Tensor) -> tuple[Tensor, float, float]:
        found = resampled(logits, uniforms[:samples])
        taken = size(found, {"kind": "rs", "samples": samples}, tokens, vocab)
        return of_sampled(found, made.p), found.ids.numel() / tokens, taken

    def top(k: int, student: Tensor | None, uniforms: Tensor) -> tuple[Tensor, float, float]:
        del uniforms
        found = likeliest(logits, k)
        taken = size(found, {"kind": "topk+rest", "k": k}, tokens, vocab)
        return of_top(found, made.p, student), k, taken

    return {
        **{f"threshold 1/{n}": (lambda u, n=n: at(1 / n, u)) for n in (22, 50, 100)},
        **{f"rs {n}": (lambda u, n=n: drawn(n, u)) for n in (22, 50, 100)},
        **{f"top {k}, renormalised": (lambda u, k=k: top(k, None, u)) for k in (16, 64)},
        **{f"top {k} and rest": (lambda u, k=k: top(k, made.q, u)) for k in (16, 64)},
    }


@torch.no_grad()
def measured(options: argparse.Namespace) -> list[dict[str, Any]]:
    head, teacher, student = materials(options)
    made = Gradients(head, teacher, student)
    logits = head(teacher)
    generator = torch.Generator().manual_seed(0)
    rows = []
    for name, way in ways(logits, made).items():
        draws = 1 if name.startswith("top") else options.draws
        errors, mean = [], torch.zeros_like(made.whole)
        for _ in range(draws):
            shifts = torch.rand(100, len(logits), generator=generator, dtype=torch.float64)
            targets, ids, taken = way(shifts)
            gradient = made.of(targets)
            errors.append(made.error(gradient))
            mean += gradient / draws
        row = {"target": name, "ids/token": ids, "bytes/token": taken}
        rows.append(
            row
            | {"error": sum(errors) / draws, f"of the mean of {options.draws}": made.error(mean)}
        )
    return rows


# How much of the way from the teacher to the student that sees 16 tokens is left.
WAY = (1.0, 0.5, 0.25, 0.1, 0.05, 0.02, 0.01)
COMPARED = ("top 16 and rest", "top 64 and rest", "threshold 1/50", "rs 50")


@torch.no_grad()
def near_and_far(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row a distance: the student's KL, and each target's error of one draw and of the mean of all draws."""
    head, teacher, far = materials(options)
    logits, generator = head(teacher), torch.Generator().manual_seed(0)
    rows = []
    for left in WAY:
        made = Gradients(
            head, teacher, torch.lerp(teacher.float(), far.float(), left).to(far.dtype)
        )
        kl = (made.p * (made.p.clamp(min=1e-30) / made.q.clamp(min=1e-30)).log()).sum(-1).mean()
        row: dict[str, Any] = {"way left": left, "KL": float(kl)}
        for name in COMPARED:
            way = ways(logits, made)[name]
            draws = 1 if name.startswith("top") else options.draws
            mean, errors = torch.zeros_like(made.whole), []
            for _ in range(draws):
                shifts = torch.rand(100, len(logits), generator=generator, dtype=torch.float64)
                gradient = made.of(way(shifts)[0])
                errors.append(made.error(gradient))
                mean += gradient / draws
            row[name] = sum(errors) / draws
            if draws > 1:
                row[f"{name}, mean of {draws}"] = made.error(mean)
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="a tiny random model, to see that it runs"
    )
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--draws", type=int, default=16)
    parser.add_argument("--text", default="../shared/data/wikitext2/valid.raw.txt")
    options = parser.parse_args()
    if options.quick:
        options.tokens, options.draws = 64, 4
    note = f"{options.tokens} tokens"
    save("sampling", measured(options), note=note, quick=options.quick)
    note += "; errors relative to the gradient under the whole distributions"
    save("near_and_far", near_and_far(options), note=note, quick=options.quick)


if __name__ == "__main__":
    main()
