"""The head of a distillation step as others make it, each as a function of a Case that leaves its gradients there.

All compute the mean forward KL over the tokens, from hidden states and heads of both sides.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from limbeck.models.layout import Head
from limbeck.objectives._buffers import Room
from limbeck.objectives._chunks import chunked
from limbeck.objectives.forward_kl import forward_kl
from limbeck.types import Rows, Signal

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

Runner = Callable[[], Any]


@dataclass
class Case:
    """Hidden states (tokens, width) and heads (vocab, width) of both sides, on a CUDA device where there is one.

    teacher_width: None where the teacher's is the student's.
    """

    tokens: int
    vocab: int
    width: int
    dtype: torch.dtype
    teacher_width: int | None = None
    hidden: Tensor = field(init=False)
    weight: Tensor = field(init=False)
    teacher_hidden: Tensor = field(init=False)
    teacher_weight: Tensor = field(init=False)
    labels: Tensor = field(init=False)

    def __post_init__(self) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        source = torch.Generator(device).manual_seed(0)

        def normal(*shape: int, by: float) -> Tensor:
            found = torch.randn(*shape, generator=source, device=device)
            return (found * by).to(self.dtype)

        theirs = self.teacher_width or self.width
        self.hidden = normal(self.tokens, self.width, by=1.0).requires_grad_()
        self.weight = normal(self.vocab, self.width, by=1.5 / self.width**0.5).requires_grad_()
        self.teacher_hidden = normal(self.tokens, theirs, by=1.0)
        self.teacher_weight = normal(self.vocab, theirs, by=3 / theirs**0.5)
        self.labels = torch.randint(0, self.vocab, (self.tokens,), generator=source, device=device)

    @property
    def name(self) -> str:
        """Such as '49k x 576 bfloat16', or '128k x 2048 / 4096 bfloat16' beside a wider teacher."""
        beside = f" / {self.teacher_width}" if self.teacher_width else ""
        narrow = str(self.dtype).removeprefix("torch.")
        return f"{self.vocab // 1000}k x {self.width}{beside} {narrow}"

    def clear(self) -> None:
        """Forgets the gradients."""
        self.hidden.grad = self.weight.grad = None

    def gradients(self) -> tuple[Tensor, Tensor]:
        """Of the hidden states and the head."""
        assert self.hidden.grad is not None
        assert self.weight.grad is not None
        return self.hidden.grad, self.weight.grad

    def rows(self) -> Rows:
        """Every token counts one."""
        zeros = torch.zeros_like(self.labels)
        return Rows(self.labels, torch.ones_like(zeros, dtype=torch.float32), zeros, zeros)

    def teacher(self) -> Signal:
        """The teacher as Limbeck has it."""
        head = Head(self.teacher_weight, None, 1.0, None, self.vocab)
        return Signal(hidden=self.teacher_hidden, head=head)

    def head(self) -> Head:
        """The student's head as Limbeck has it."""
        return Head(self.weight, None, 1.0, None, self.vocab)


def limbeck(
    case: Case,
    *,
    teacher: Signal | None = None,
    terms: Any = (forward_kl,),
    room: Room | None = None,
    chunk: int | None = None,
) -> Runner:
    """Ours; another teacher or other terms for the sparse kinds. room: None makes the buffers anew in each call."""
    side, rows = teacher or case.teacher(), case.rows()

    def run() -> None:
        case.clear()
        total, _ = chunked(
            case.hidden,
            case.head(),
            side,
            rows,
            terms,
            [1.0 / case.tokens] * len(terms),
            room=room,
            chunk=chunk,
        )
        total.backward()

    return run


def products(case: Case, chunk: int, *, kept: bool = False) -> Runner:
    """The four matrix products alone, in chunks, their logits into buffers that exist.

    kept: the head's gradient too is laid where the last one was; else it is made anew, as every peer makes it.
    """
    shape = (min(chunk, case.tokens), case.vocab)
    mine, theirs = (case.hidden.new_empty(shape, requires_grad=False) for _ in range(2))
    old = torch.empty_like(case.weight) if kept else None

    @torch.no_grad()
    def run() -> None:
        case.clear()
        by_weight = torch.zeros_like(case.weight) if old is None else old
        by_hidden = torch.empty_like(case.hidden)
        for start in range(0, case.tokens, chunk):
            part = slice(start, min(start + chunk, case.tokens))
            size = part.stop - start
            torch.mm(case.hidden[part], case.weight.T, out=mine[:size])
            torch.mm(case.teacher_hidden[part], case.teacher_weight.T, out=theirs[:size])
            torch.mm(mine[:size], case.weight, out=by_hidden[part])
            if kept and start == 0:
                torch.mm(mine[:size].T, case.hidden[part], out=by_weight)
            else:
                by_weight.addmm_(mine[:size].T, case.hidden[part])
        case.hidden.grad, case.weight.grad = by_hidden, by_weight

    return run


def liger(case: Case, chunk: int, *, compiled: bool, beta: float = 0.0) -> Runner:
    """Liger-Kernel's chunked Jensen-Shannon loss; at beta 0, forward KL there."""
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    loss = LigerFusedLinearJSDLoss(
        weight_hard_loss=0.0, weight_soft_loss=1.0, beta=beta, chunk_size=chunk, compiled=compiled
    )

    def run() -> None:
        case.clear()
        loss(
            case.hidden, case.weight, case.teacher_hidden, case.teacher_weight, case.labels
        ).backward()

    return run


def liger_triton(case: Case, *, beta: float = 0.0) -> Runner:
    """Liger-Kernel's fused linear Jensen-Shannon divergence in Triton; on CUDA only."""
    from liger_kernel.transformers.fused_linear_jsd import LigerFusedLinearJSD

    loss = LigerFusedLinearJSD(jsd_beta=beta)

    def run() -> None:
        case.clear()
        loss(
            case.hidden, case.weight, case.teacher_hidden, case.teacher_weight, case.labels
        ).backward()

    return run


def liger_labels(case: Case) -> Runner:
    """Liger-Kernel's fused linear cross-entropy in Triton, a head without a teacher; on CUDA only."""
    from liger_kernel.transformers.fused_linear_cross_entropy import (
        LigerFusedLinearCrossEntropyLoss,
    )

    loss = LigerFusedLinearCrossEntropyLoss()

    def run() -> None:
        case.clear()
        loss(case.weight, case.hidden, case.labels).backward()

    return run


def trl_kernel(case: Case, *, beta: float = 0.0) -> Runner:
    """TRL's tiled divergence, which its DistillationTrainer takes; on a CPU its torch path."""
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    def run() -> None:
        case.clear()
        each, _ = ChunkedDivergenceFunction.apply(
            case.hidden, case.weight, None, case.teacher_hidden, case.teacher_weight, None, beta
        )
        each.mean().backward()

    return run


def trl_gkd(case: Case) -> Runner:
    """TRL's GKD: the logits of both sides whole."""
    loss = gkd_loss()

    def run() -> None:
        case.clear()
        with torch.no_grad():
            theirs = case.teacher_hidden @ case.teacher_weight.T
        mine = case.hidden @ case.weight.T
        loss(mine[None], theirs[None], labels=case.labels[None], beta=0.0).backward()

    return run


def gkd_loss() -> Any:
    """TRL's generalized_jsd_loss."""
    with _quiet():
        from trl.experimental.gkd.gkd_trainer import GKDTrainer
    return GKDTrainer.generalized_jsd_loss


def plain(case: Case) -> Runner:
    """Plain PyTorch: whole logits, float32 log-softmax, kl_div."""

    def run() -> None:
        case.clear()
        with torch.no_grad():
            theirs = (case.teacher_hidden @ case.teacher_weight.T).float().log_softmax(-1)
        mine = (case.hidden @ case.weight.T).float().log_softmax(-1)
        loss = torch.nn.functional.kl_div(mine, theirs, reduction="sum", log_target=True)
        (loss / case.tokens).backward()

    return run


def installed(*names: str) -> bool:
    """Whether these can be imported; the peers are an extra."""
    import importlib.util

    return all(importlib.util.find_spec(name) is not None for name in names)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
