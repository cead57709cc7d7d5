"""How good a student in training is on text that nobody was trained on."""

from __future__ import annotations

import torch

from limbeck.objectives.cross_entropy import cross_entropy
from limbeck.training import parallel
from limbeck.training.step import Step
from limbeck.types import Source


@torch.no_grad()
def loss(step: Step, source: Source, rows: range, world: parallel.World) -> float:
    """Cross-entropy in nats per token over these rows of held-out text, the same on every rank."""
    step.eval()
    nats, weight = 0.0, 0.0
    for row in rows:
        batch = source.batch([row]).to(world.device)
        _, sums = step(batch, None, [cross_entropy], [1.0])
        nats += float(sums[0])
        weight += float(batch.weights.sum())
    step.train()
    parallel.give_back(step)
    return nats / max(weight, 1e-12)
