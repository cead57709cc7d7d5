"""What step.py races on: a teacher, rows of text, students, and one step of each loop."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import peers
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from limbeck import files
from limbeck.cache.format import CacheAbout
from limbeck.cache.read import CacheReader
from limbeck.data.loader import PackedSource
from limbeck.data.pack import Stream
from limbeck.data.tokenize import encode
from limbeck.models import layout, load, place
from limbeck.objectives._buffers import Room
from limbeck.objectives.cross_entropy import cross_entropy
from limbeck.objectives.forward_kl import forward_kl
from limbeck.recipe import Stage
from limbeck.recording import record
from limbeck.students.pruned import pruned
from limbeck.students.scratch import known_config
from limbeck.teachers.cached import Cached
from limbeck.teachers.live import Live
from limbeck.training import loop, optim, parallel
from limbeck.training.meter import Log
from limbeck.training.step import Step
from limbeck.types import Materials, Teacher

TEACHER = Path("models/SmolLM2-135M-Instruct")
DOCS = Path(__file__).parents[1] / "docs"
CONFIGS = Path(__file__).parents[1] / "recipes/configs"
ROWS = 4
STEPS = 8
# The spread of a teacher's logits, so that its distributions are as wide as those of real ones: entropy 3 to 4 nats.
SPREAD = 4.0


@dataclass(frozen=True)
class Ours:
    """A step of our own loop; `forget` lets go of the buffers that it keeps for the next one."""

    run: Callable[[], Any]
    forget: Callable[[], None]

    def __call__(self) -> None:
        """One step."""
        self.run()


def device() -> torch.device:
    """The CUDA device where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def written(length: int) -> PackedSource:
    """Rows of our own docs, as far as they go, then from the start."""
    tokenizer = load.load_tokenizer(str(TEACHER))
    found = encode(tokenizer, [path.read_text() for path in sorted(DOCS.rglob("*.md"))])
    starts = np.cumsum([0, *(len(ids) for ids, _ in found)])
    ids, sizes = (np.concatenate(planes) for planes in zip(*found, strict=True))
    return PackedSource(Stream(ids, sizes, starts, tokenizer.eos_token_id), length)


def drawn(vocab: int, length: int, rows: int) -> PackedSource:
    """Rows of documents of random words, drawn as words are: few often, most seldom."""
    source = np.random.default_rng(0)
    tokens = rows * (length + 1)
    ids = (source.zipf(1.3, tokens) % (vocab - 1)).astype(np.int64)
    starts = np.append(np.arange(0, tokens, 2 * length), tokens)
    return PackedSource(Stream(ids, np.ones_like(ids), starts, vocab - 1), length)


def sized(name: str, dtype: torch.dtype) -> PreTrainedModel:
    """Random weights at the sizes of a config, made on the device; its logits spread as a trained model's do."""
    sizes = dict(files.read_json(CONFIGS / f"{name}.json"))
    if device().type != "cuda":
        sizes |= {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8}
        sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 5000}
    config = known_config(sizes)
    torch.manual_seed(0)
    with torch.device(device()):
        made: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
    spread = layout.head(made).weight.float().std() * config.hidden_size**0.5
    with torch.no_grad():
        layout.final_norm(made).weight.fill_(SPREAD / float(spread))
    return made


def ground(*, quick: bool) -> Ground:
    """SmolLM2-135M-Instruct, of which a student keeps a third, and rows of our docs. quick: tiny and random."""
    torch.manual_seed(0)
    if not quick:
        masters = load.load_model(str(TEACHER))
        return Ground(masters, copy.deepcopy(masters), written(512), ROWS)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 6}
    shape = LlamaConfig(vocab_size=5000, num_attention_heads=2, num_key_value_heads=2, **sizes)
    masters = LlamaForCausalLM(shape)
    return Ground(masters, copy.deepcopy(masters), drawn(5000, 32, STEPS * ROWS), ROWS)


class Ground:
    """Teacher, rows and students. A student keeps one of `every` layers of the masters; `rows` make a step."""

    def __init__(
        self,
        masters: PreTrainedModel,
        teacher: PreTrainedModel,
        source: PackedSource,
        rows: int,
        steps: int = STEPS,
    ) -> None:
        self.every, self.steps = 3, steps
        self.device = device()
        self.dtype = place.dtype_of("auto", self.device)
        self.masters = masters
        self.teacher = teacher.to(self.device, self.dtype).eval()
        self.vocab, self.length = masters.config.vocab_size, source.length
        self.source, self.rows = source, rows

    @property
    def tokens(self) -> int:
        """Of a step."""
        return self.rows * self.length

    def student(self, *, twice: bool = False, compiled: bool = False) -> PreTrainedModel:
        """One of every few of the teacher's layers, float32. twice: with its activations computed twice."""
        depth = self.masters.config.num_hidden_layers
        kept = list(range(0, depth, self.every))
        materials = Materials(teacher=lambda: self.masters, load=lambda *_: self.masters)
        made: PreTrainedModel = pruned(materials, layers=kept)
        if twice:
            made.gradient_checkpointing_enable({"use_reentrant": False})
        for layer in layout.layers(made) if compiled else ():
            layer.compile()
        return made.to(self.device).train()

    def ours(
        self,
        teacher: Teacher | None,
        folder: Path,
        *,
        twice: bool = False,
        students: int = 1,
        compiled: bool = False,
    ) -> Ours:
        """One step of Limbeck's own loop; without a teacher, cross-entropy. twice: activations computed twice."""
        each = [self.student(twice=twice, compiled=compiled) for _ in range(students)]
        jobs = [self._job(teacher, folder, student) for student in each]
        for job in jobs:
            job.ahead = jobs[0].ahead

        def run() -> None:
            loop.one_step(jobs)
            for job in jobs:
                job.adam.zero_grad(set_to_none=True)

        def forget() -> None:
            for job in jobs:
                job.step_module._room = Room()

        return Ours(run, forget)

    def _job(self, teacher: Teacher | None, folder: Path, student: PreTrainedModel) -> loop.Loop:
        """A student of its own in our loop."""
        objective = "forward_kl" if teacher else "cross_entropy"
        stage = Stage(
            name="only",
            source="text",
            objective=[objective],
            budget=f"{self.steps} steps",
            rows_per_step=self.rows,
            micro_rows=self.rows,
        )
        world = parallel.start(self.device)
        step = Step(student, vocab=self.vocab)
        parallel.shard(step, layout.layers(student), world, self.dtype)
        return loop.Loop(
            step_module=step,
            adam=optim.adamw(step, stage.optimizer),
            source=self.source,
            stage=stage,
            functions=[forward_kl if teacher else cross_entropy],
            teacher=teacher,
            world=world,
            seed=0,
            save=lambda *_: None,
            log=Log(folder / "log.jsonl", resumed_at=0, stage="only", writes=False),
            stop=lambda: False,
            checkpoint_every=self.steps,
        )

    def cached(self, folder: Path) -> Cached:
        """The teacher's answers on all rows, recorded at threshold 1/50."""
        about = CacheAbout(
            teacher="0" * 64, tokenizer="0" * 64, vocab=self.vocab, length=self.length
        )
        record(
            Live(self.teacher),
            self.source,
            range(self.steps * self.rows),
            folder,
            about,
            device=self.device,
        )
        return Cached(CacheReader(folder))

    def theirs(self, kind: str, *, autocast: bool, compiled: bool = False) -> Callable[[], Any]:
        """One step of a plain loop: 'gkd' with TRL's loss on whole logits, or 'cross-entropy' of transformers."""
        student = self.student(compiled=compiled)
        if not autocast:
            student = student.to(self.dtype)
        adam = torch.optim.AdamW(student.parameters(), lr=3e-4, fused=True)
        loss = peers.gkd_loss() if kind == "gkd" else None
        at = iter(range(0, 10**9, self.rows))

        def run() -> None:
            first = next(at)
            batch = self.source.batch(range(first, first + self.rows)).to(self.device)
            ids = batch.input_ids
            with torch.autocast(self.device.type, self.dtype, enabled=autocast):
                if loss is None:
                    value = student(ids, labels=ids, use_cache=False).loss
                else:
                    with torch.no_grad():
                        theirs = self.teacher(ids, use_cache=False).logits
                    mine = student(ids, use_cache=False).logits
                    value = loss(mine, theirs, labels=batch.labels, beta=0.0)
            value.backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            adam.step()
            adam.zero_grad(set_to_none=True)

        return run
