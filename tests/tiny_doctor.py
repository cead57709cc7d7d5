"""A sound place to plant faults in: a teacher that knows its text, the text, and a recipe; and what the doctor finds there."""

import copy
import functools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tiny_folder
import tiny_text
import torch
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

from limbeck.doctor import command
from limbeck.doctor.findings import Finding


@functools.cache
def _taught() -> LlamaForCausalLM:
    """A Llama of width 32 that has read sentences of PROSE for a second, and knows which word follows which letter."""
    tokenizer = tiny_text.tokenizer(tiny_folder.VOCAB)
    ids = [
        i for text in tiny_folder.sentences(300, seed=9) for i in (*tokenizer(text)["input_ids"], 2)
    ]
    rows = torch.tensor(ids[: len(ids) // 32 * 32]).view(-1, 32)
    config = LlamaConfig(
        vocab_size=tiny_folder.VOCAB,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=None,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    adam = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(60):
        part = rows[step * 16 % len(rows) :][:16]
        model(input_ids=part, labels=part).loss.backward()
        adam.step()
        adam.zero_grad()
    return model.eval()


def teacher(folder: Path, *, tokenizer=None) -> Path:
    """The taught teacher as a folder."""
    copy.deepcopy(_taught()).save_pretrained(folder)
    (tokenizer or tiny_text.tokenizer(tiny_folder.VOCAB)).save_pretrained(folder)
    return folder


def sound(place: Path) -> Path:
    """A place in which nothing is wrong."""
    if not (place / "teacher").exists():
        teacher(place / "teacher")
        tiny_folder.corpus(place / "text")
    return place


def stage(place: Path, **changes) -> dict:
    """A stage whose optimizer nobody would wonder at."""
    return tiny_folder.stage(place, **{"optimizer": {"learning_rate": 2e-3}} | changes)


def written(place: Path, **changes) -> Path:
    """The recipe as a file: cached teacher, pruned student, control, evaluation."""
    plain = {"stages": [stage(place)], "control": True}
    tree = tiny_folder.tree(sound(place), **plain | changes)
    path = place / "recipe.yaml"
    path.write_text(
        yaml.safe_dump({key: value for key, value in tree.items() if value is not None})
    )
    return path


def live(place: Path) -> dict:
    """The teacher beside the student."""
    return {"live": {"model": str(place / "teacher")}}


def examined(place: Path, *, weights: bool = False, **changes) -> list[Finding]:
    """What the doctor finds of a recipe with these changes."""
    return command.examined(written(place, **changes), weights=weights)


def bad(found: list[Finding], severity: str = "fault") -> list[Finding]:
    """Those of a severity."""
    return [one for one in found if one.severity == severity]


def said(one: Finding) -> str:
    """All that a finding tells, on one line."""
    return " ".join((one.where, one.found, one.wanted, one.cure, *one.lines))


def config(folder: Path, file: str = "config.json", **changes) -> None:
    """Changes keys of a JSON file of a model's folder."""
    path = folder / file
    told = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(told | changes))


@dataclass(frozen=True)
class Plant:
    """A fault, and who must find it with which words. make: (place, monkeypatch) -> changes to the recipe.

    follows: other checks that may find a fault because of it.
    """

    make: Callable
    check: str
    told: str
    severity: str = "fault"
    follows: tuple[str, ...] = ()
    weights: bool = False


def of(plants: dict[str, Plant], check: str, told: str, **options) -> Callable:
    """Adds what a function plants to a table, under the function's name."""

    def kept(make: Callable) -> Callable:
        plants[make.__name__] = Plant(make, check, told, **options)
        return make

    return kept


def assert_found(place: Path, one: Plant, patch) -> None:
    """The fault is found by name, and no other check finds a fault."""
    changes = one.make(sound(place), patch)
    found = examined(place, weights=one.weights, **changes)
    told = [said(each) for each in bad(found, one.severity) if each.check == one.check]
    assert [text for text in told if re.search(one.told, text)], [
        (each.severity, each.check, said(each)) for each in found if each.severity != "ok"
    ]
    others = [each for each in bad(found) if each.check not in (one.check, *one.follows)]
    assert not others
