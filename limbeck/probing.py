"""What each layer's attention is worth to a teacher that looks things up: what `limbeck probe` tells."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from limbeck import files
from limbeck.errors import RecipeError
from limbeck.models import load, place, probe, retrieval, silence
from limbeck.models.probe import Lost, Probed
from limbeck.models.taps import BLOCKS
from limbeck.provenance import versions

_SHOWN = 10
_USED = ("torch", "transformers")


@dataclass(frozen=True)
class Asked:
    """A probe that is asked for. heads: whether each head is silenced too, and not whole layers only."""

    model: str
    pairs: int = 10
    prompts: int = 200
    seed: int = 0
    heads: bool = True
    device: str = "auto"
    dtype: str = "float32"


def show(asked: Asked, to: Path | None = None) -> None:
    """Probes a model, prints its layers by how much they are needed, and writes all of it to a JSON file."""
    console = Console()
    device = place.device_of(asked.device)
    dtype = place.dtype_of(asked.dtype, device)
    if to is not None and not to.parent.is_dir():
        raise RecipeError(f"probe: there is no folder {to.parent} for --json. Make it first.")
    # What cannot be probed is refused before a weight is read.
    silence.attentions(load.build_on_meta(load.load_config(asked.model)))
    tokenizer = load.load_tokenizer(asked.model)
    retrieval.requests(tokenizer, retrieval.dictionaries(asked.prompts, asked.pairs, asked.seed))
    model = load.load_model(asked.model, dtype=dtype).to(device)
    found = probe.probe(
        model,
        tokenizer,
        prompts=asked.prompts,
        pairs=asked.pairs,
        seed=asked.seed,
        heads=asked.heads,
    )
    _say(
        console,
        f"{asked.model} finds {found.accuracy:.1%} of {asked.prompts:,} values among {asked.pairs} (guessing: "
        f"{1 / asked.pairs:.1%}), at {found.logprob:.4f} nats.",
    )
    console.print(_of_layers(found))
    if found.heads:
        console.print(_of_heads(found))
    _say(console, _how(found))
    if to is not None:
        files.write_json(to, plain(asked, found))
        _say(console, f"{to} is written.")


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False)


def _how(found: Probed) -> str:
    """What the figures are, and what a high one need not mean."""
    said = (
        "nats: how much the right value's log-probability among its dictionary's values falls when the layer's "
        "attention, or one head, is silenced, with its standard error over prompts. Below zero, silence helps. A model "
        "may break without a first layer, whatever it is asked"
    )
    if not found.heads:
        return f"{said}: only heads, silenced one by one, tell that apart (--heads)."
    return f"{said}: then its heads, silenced one by one, cost little. By their sum: {', '.join(map(str, found.ranked_by_heads()))}."


def _of_layers(found: Probed) -> Table:
    """A row a layer, the most needed first."""
    table = Table("rank", "layer", "nats lost", "accuracy lost", title="Layers without attention")
    if found.heads:
        table.add_column("nats, sum of its heads")
    for rank, layer in enumerate(found.ranked(), 1):
        lost, summed = found.layers[layer], found.of_heads(layer)
        row = [str(rank), f"{BLOCKS}.{layer}", *_cells(lost)]
        table.add_row(*row, *([f"{summed.logprob:.4f}"] if summed else []))
    return table


def _of_heads(found: Probed) -> Table:
    """The heads that are needed most."""
    table = Table("rank", "layer", "head", "nats lost", "accuracy lost", title="Heads, each alone")
    for rank, (layer, head) in enumerate(found.ranked_heads()[:_SHOWN], 1):
        table.add_row(str(rank), f"{BLOCKS}.{layer}", str(head), *_cells(found.heads[layer, head]))
    return table


def _cells(lost: Lost) -> list[str]:
    return [f"{lost.logprob:.4f} ± {lost.error:.4f}", f"{lost.accuracy:.1%}"]


def plain(asked: Asked, found: Probed) -> dict[str, Any]:
    """All of it for programs, layers and heads with the most needed first. What is lost is in nats and shares."""
    layers = []
    for layer in found.ranked():
        summed = found.of_heads(layer)
        one: dict[str, Any] = {"layer": layer, **asdict(found.layers[layer])}
        layers.append(one | ({"of_heads": asdict(summed)} if summed else {}))
    return {
        "settings": asdict(asked),
        "fingerprint": load.fingerprint(asked.model),
        "versions": versions(_USED),
        "baseline": {
            "accuracy": found.accuracy,
            "logprob": found.logprob,
            "chance": 1 / asked.pairs,
        },
        "ranked": found.ranked(),
        "ranked_by_heads": found.ranked_by_heads(),
        "layers": layers,
        "heads": [
            {"layer": layer, "head": head, **asdict(found.heads[layer, head])}
            for layer, head in found.ranked_heads()
        ],
    }
