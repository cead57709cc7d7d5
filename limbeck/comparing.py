"""Which blocks of student and teacher are alike, on a few rows of text: what `limbeck show --layers` tells."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from limbeck import assembly, files, linking
from limbeck.errors import RecipeError
from limbeck.models import likeness, place
from limbeck.models.taps import BLOCKS
from limbeck.recipe import Recipe
from limbeck.students.pruned import LOOKED_AT
from limbeck.types import Batch, Source

# Tokens that count of each row, evenly spaced: of all blocks of both models they are held at one time.
_MOST = 512
_LIKEST = 3
_ACROSS = 5


@dataclass(frozen=True)
class Looked:
    """What a model's blocks do on a few rows. importance: float64 (layers,); outputs: (tokens, width) each."""

    importance: Tensor
    outputs: list[Tensor]


@dataclass(frozen=True)
class Alike:
    """A student beside the teacher. cka: float64 (its blocks, the teacher's)."""

    name: str
    looked: Looked
    cka: Tensor

    @property
    def paired(self) -> list[int]:
        """The teacher's block that `at: all` compares each block with."""
        mine, theirs = self.cka.shape
        return [linking.opposite(block, mine, theirs) for block in range(mine)]


@torch.no_grad()
def look(model: nn.Module, source: Source, rows: int) -> Looked:
    """Looks at a model's blocks: importance of all tokens that count, outputs of some of each row."""
    device = next(model.parameters()).device
    turns, outputs = [], []
    for row in range(rows):
        batch = source.batch([row]).to(device)
        turned, found = likeness.blocks(model, batch)
        some = _some(batch)
        turns.append(turned.cpu())
        outputs.append([vectors.index_select(0, some) for vectors in found])
    return Looked(
        torch.cat(turns, 1).mean(1), [torch.cat(each) for each in zip(*outputs, strict=True)]
    )


def _some(batch: Batch) -> Tensor:
    """Which of a row's tokens that count are looked at: int64 (some,), evenly spaced."""
    count = batch.counted.numel()
    few = min(count, _MOST)
    return torch.arange(few, device=batch.counted.device) * count // max(1, few)


def show(recipe: Recipe, to: Path | None = None) -> None:
    """Prints how alike the blocks of teacher and student are before training, and writes all of it to a JSON file.

    Loads both models, one after the other.
    """
    model = assembly.teacher_model(recipe)
    if model is None:
        raise RecipeError(
            "show --layers: no teacher model is named, so there are no blocks to compare with. Give the teacher's 'model'."
        )
    assembly.settle(recipe)
    base, console, stage = assembly.ground(recipe), Console(), recipe.stages[0]
    source = assembly.stage_source(base, stage)
    rows = min(LOOKED_AT, source.rows)
    where = stage.source.options.get("path", stage.source.name)
    text = f"{rows} rows of {source.length:,} tokens of stage {stage.name}'s text ({where})"
    _say(console, f"Loads {model.name} and the student as it begins, and looks at {text}.")
    loaded = assembly.load_teacher(base)
    assert loaded is not None
    teacher = look(loaded, source, rows)
    del loaded
    console.print(_of_teacher(model.name, teacher))
    students = []
    for one in recipe.each:
        gc.collect()  # models refer to themselves: one would stand beside the next
        mine = assembly.beside(base, one) if recipe.students else base
        began = place.cast(assembly.student(mine), base.dtype).to(base.device)
        student = look(began.eval(), source, rows)
        found = Alike(one.name, student, likeness.cka(student.outputs, teacher.outputs))
        console.print(_of_student(found))
        students.append(found)
    _say(console, _how(teacher, students))
    if to is not None:
        files.write_json(to, _plain(text, model.name, teacher, students))
        _say(console, f"{to} is written.")


def of_models(models: Mapping[str, nn.Module], source: Source, rows: int) -> dict[str, Any]:
    """How alike the blocks of trained students and of their teacher are, on the first rows, for programs."""
    teacher = look(models["teacher"], source, rows)
    students = []
    for name, model in models.items():
        if name != "teacher":
            looked = look(model, source, rows)
            students.append(Alike(name, looked, likeness.cka(looked.outputs, teacher.outputs)))
    text = f"the first {rows} held-out rows of {source.length:,} tokens"
    return _plain(text, "teacher", teacher, students)


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False)


def _how(teacher: Looked, students: list[Alike]) -> str:
    """What the figures are, and what they are not."""
    tokens, widest = teacher.outputs[0].shape
    widest = max(widest, *(one.looked.outputs[0].shape[1] for one in students))
    said = (
        "importance: 1 - cos(block input, block output), the mean over tokens that count (Men et al., 2024). "
        f"CKA: linear, the plain (biased) estimate over {tokens:,} of them (Kornblith et al., 2019)"
    )
    few = (
        f"; with fewer tokens than channels ({widest:,}) it is too high" if tokens < widest else ""
    )
    return f"{said}{few}."


def _of_teacher(name: str, looked: Looked) -> Table:
    """The importance of each block, a few beside each other."""
    table = Table(title=f"{name}: block importance", show_header=False)
    cells = [
        f"{BLOCKS}.{number} {value:.4f}" for number, value in enumerate(looked.importance.tolist())
    ]
    for start in range(0, len(cells), _ACROSS):
        table.add_row(*cells[start : start + _ACROSS])
    return table


def _of_student(found: Alike) -> Table:
    """A row a block: its importance, its counterpart under `at: all`, and the teacher's blocks that are most like it."""
    table = Table(
        "block",
        "importance",
        "at: all",
        "CKA",
        "likest",
        title=f"{found.name}: the student's blocks",
    )
    for number, (row, paired) in enumerate(zip(found.cka, found.paired, strict=True)):
        values, which = row.topk(min(_LIKEST, row.shape[0]))
        pairs = zip(which.tolist(), values.tolist(), strict=True)
        table.add_row(
            f"{BLOCKS}.{number}",
            f"{found.looked.importance[number]:.4f}",
            f"{BLOCKS}.{paired}",
            f"{row[paired]:.3f}",
            ", ".join(f"{BLOCKS}.{block} {value:.3f}" for block, value in pairs),
        )
    return table


def _plain(text: str, name: str, teacher: Looked, students: list[Alike]) -> dict[str, Any]:
    """All of it for programs: cka[i][j] is of the student's block i and the teacher's block j."""
    return {
        "text": text,
        "tokens": teacher.outputs[0].shape[0],
        "teacher": {"name": name, "importance": teacher.importance.tolist()},
        "students": [
            {
                "name": one.name,
                "importance": one.looked.importance.tolist(),
                "paired": one.paired,
                "cka": one.cka.tolist(),
            }
            for one in students
        ],
    }
