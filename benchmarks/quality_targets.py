"""What quality.py trains on: a teacher's hidden states of two texts, and targets made of them as a cache would."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from limbeck import files
from limbeck.cache.format import CacheAbout
from limbeck.cache.kinds import KINDS
from limbeck.cache.planes import Piece
from limbeck.data.loader import PackedSource
from limbeck.data.pack import Stream
from limbeck.keeping import Keeper
from limbeck.models import layout, load, place
from limbeck.sources.text import text
from limbeck.types import Batch, Sampled, Signal, Source, Wanted

TEACHER = "models/SmolLM2-135M-Instruct"


@dataclass(frozen=True)
class Sizes:
    """What all arms of a run have in common."""

    steps: int
    tokens: int
    length: int
    layers: int
    heldout: int
    rate: float = 5e-4

    @property
    def rows(self) -> int:
        """Rows of a step."""
        return max(1, self.tokens // self.length)

    @property
    def heldout_rows(self) -> int:
        """Rows that students are judged on."""
        return max(1, self.heldout // self.length)


@dataclass
class Ground:
    """Teacher and text, and the teacher's hidden states (length, width) of each row that was asked for, by address."""

    teacher: PreTrainedModel
    vocab: int
    path: str | None
    heldout: Source
    sizes: Sizes
    store: Path | None
    hidden: dict[str, Tensor] = field(default_factory=dict)
    stored: int = 0

    def __post_init__(self) -> None:
        if self.store is not None and self.store.exists():
            self.hidden = load_file(self.store)
            self.stored = len(self.hidden)

    def source(self, seed: int) -> PackedSource:
        """The rows that are trained on, in the order of a seed."""
        return words(self.path, self.sizes.length, seed, self.vocab)

    @property
    def head(self) -> layout.Head:
        """The teacher's."""
        return layout.head(self.teacher, vocab=self.vocab)

    def states(self, batch: Batch) -> Tensor:
        """Hidden states (counted, width): computed when a row is first asked for."""
        if not set(batch.addresses) <= set(self.hidden):
            with torch.no_grad():
                found = layout.hidden(self.teacher, batch).view(*batch.input_ids.shape, -1)
            self.hidden |= {
                name: row.clone() for name, row in zip(batch.addresses, found, strict=True)
            }
        rows = torch.stack([self.hidden[address] for address in batch.addresses])
        return batch.pick(rows.flatten(0, 1))

    def keep(self) -> None:
        """Writes down what was computed, for the next process."""
        if self.store is not None and len(self.hidden) > self.stored:
            self.store.parent.mkdir(parents=True, exist_ok=True)
            save_file(self.hidden, self.store)
            self.stored = len(self.hidden)


@dataclass
class Target:
    """A teacher that says what a cache of these settings would, and counts its bytes."""

    ground: Ground
    settings: dict[str, Any] | None
    seed: int
    bytes: int = 0
    tokens: int = 0
    ids: int = 0
    keeper: Keeper | None = field(default=None, init=False)

    def signal(self, batch: Batch, wanted: Wanted) -> Signal:
        """What the cache says, having been encoded and decoded."""
        del wanted
        whole = Signal(hidden=self.ground.states(batch), head=self.ground.head)
        if self.settings is None:
            return whole
        about = CacheAbout("", "", self.ground.vocab, self.ground.sizes.length, **self.settings)
        self.keeper = self.keeper or Keeper(about, chunk=256)
        # Other draws for another seed: they belong to an address.
        names = tuple(files.digest(f"{self.seed} {name}".encode())[:32] for name in batch.addresses)
        record = self.keeper.keep(whole, replace(batch, addresses=names))
        counts = (batch.weights != 0).sum(1).numpy()
        begins = np.concatenate([np.zeros(1, np.int64), counts.cumsum()])
        planes = KINDS[about.kind].encode(record, about, begins)
        pieces = [
            Piece(planes, row, int(begins[row]), int(begins[row + 1]), None, 0)
            for row in range(len(counts))
        ]
        said = KINDS[about.kind].decode(pieces, about)
        self.bytes += sum(plane.nbytes for plane in planes.values())
        self.tokens += int(begins[-1])
        self.ids += said.ids.numel()
        return Signal(sampled=said) if isinstance(said, Sampled) else Signal(topk=said)


def words(path: str | None, length: int, seed: int, vocab: int) -> PackedSource:
    """Rows of a text; of random words in a few orders where none is named."""
    if path is not None:
        tokenizer = load.load_tokenizer(TEACHER)
        return text(
            tokenizer,
            path=path,
            length=length,
            split_at="^ = [^=]+ = $" if "wikitext" in path else None,
            separator="<|endoftext|>",
            seed=seed,
        )
    generator = np.random.default_rng(0)
    ids = np.concatenate([generator.permutation(vocab - 1) for _ in range(40)])
    starts = np.arange(0, len(ids) + 1, vocab - 1)
    return PackedSource(Stream(ids, np.ones_like(ids), starts, vocab - 1), length, seed=seed)


def ground(options: argparse.Namespace, sizes: Sizes) -> Ground:
    """What all arms stand on; hidden states that were computed before are read."""
    dtype = place.dtype_of("auto", torch.device("cpu"))
    if options.quick:
        torch.manual_seed(0)
        shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3}
        config = LlamaConfig(vocab_size=211, num_attention_heads=2, num_key_value_heads=2, **shape)
        teacher, vocab, path = LlamaForCausalLM(config).eval(), 211, None
        heldout: Source = words(None, sizes.length, 9, vocab)
        identity = "quick"
    else:
        teacher = load.load_model(TEACHER, dtype=dtype)
        vocab, path = len(load.load_tokenizer(TEACHER)), options.text
        heldout = words(options.heldout, sizes.length, 0, vocab)
        identity = f"{load.fingerprint(TEACHER)} {options.text} {options.heldout} {sizes.length}"
    store = Path(options.work) / f"states-{files.digest(identity.encode())[:16]}.safetensors"
    return Ground(teacher, vocab, path, heldout, sizes, None if options.quick else store)
