"""A recipe: one frozen tree that says everything about a run. Reads no model and needs no torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from limbeck.measurement import Benchmarks, Card, Evaluate, Speed, Telemetry, Watch
from limbeck.spelling import (
    Budget,
    Frozen,
    Link,
    Linked,
    Part,
    Projector,
    Ramp,
    Scheduled,
    Term,
    value_at,
)
from limbeck.stage import Optimizer, Stage

__all__ = [
    "Benchmarks",
    "Budget",
    "Card",
    "Checkpoints",
    "Compute",
    "Evaluate",
    "Export",
    "Frozen",
    "Link",
    "Linked",
    "Optimizer",
    "Part",
    "Projector",
    "Ramp",
    "Recipe",
    "Scheduled",
    "Speed",
    "Stage",
    "Telemetry",
    "Term",
    "Watch",
    "value_at",
]


class Checkpoints(Frozen):
    """When work is made safe. The newest verified checkpoint is never removed."""

    every: int = Field(
        default=50,
        gt=0,
        description="optimizer steps between checkpoints; there is one at the end and one at a stop, too",
    )
    keep_last: int = Field(default=2, gt=0, description="how many of the newest stay")
    keep_best: int = Field(
        default=0,
        ge=0,
        description="how many of the best stay, by cross-entropy on `evaluate.source` or by `watch.best`",
    )
    held_out_rows: int = Field(
        default=16,
        gt=0,
        description="rows that judge which one is best; those behind the rows of `evaluate`",
    )


class Compute(Frozen):
    """Where and how it is computed. `auto`: CUDA if there is one; bfloat16 where it is fast."""

    device: str = Field(default="auto", description="`auto`, `cpu`, `cuda` or `cuda:1`")
    dtype: Literal["auto", "float32", "bfloat16", "float64"] = Field(
        default="auto",
        description="what is computed with; the trained parameters are float32, or float64 with float64",
    )
    activation_checkpointing: bool = Field(
        default=False, description="keeps less for the backward pass and computes it twice"
    )
    keep_freed_memory: bool = Field(
        default=True,
        description="on a CPU, keeps what a step frees for the next; false needs a third less memory and a fifth more time",
    )
    compile: bool = Field(
        default=False,
        description="compiles each block (torch.compile): the student's in stages whose terms do not look inside, a live or recorded teacher's where none does. Seconds at the start, faster steps and recordings after; other last bits",
    )
    chunk: int | None = Field(
        default=None,
        gt=0,
        description="tokens that hold logits at one time; null takes what suits the device",
    )
    threads: int | None = Field(
        default=None,
        gt=0,
        description="CPU threads; null leaves it to PyTorch. Another number changes the last bits",
    )


class Export(Frozen):
    """How the student leaves the house."""

    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="of the exported parameters"
    )
    checkpoint: Literal["last", "best"] = Field(
        default="last", description="which of the last stage; `best` needs checkpoints.keep_best"
    )
    max_difference: float = Field(
        default=1e-4,
        gt=0,
        description="largest allowed difference of float32 logits after loading the export again",
    )


class Recipe(Frozen):
    """A whole run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="names the run's folder")
    seed: int = Field(
        default=0,
        ge=0,
        lt=2**63,
        description="of the order of rows, of random weights and of dropout",
    )
    teacher: Part | None = Field(
        default=None, description="who is learned from; null for plain training"
    )
    student: Part = Field(description="who learns; may be left out where `students` are given")
    students: tuple[Part, ...] = Field(
        default=(),
        description="several who learn side by side, so that one live teacher speaks for all; each becomes a run "
        "of its own in `students/` of this run's folder",
    )
    tokenizer: str | None = Field(
        default=None,
        description="folder or hub name, where it is not the teacher's (or else the student's)",
    )
    stages: tuple[Stage, ...] = Field(
        min_length=1,
        description="one after the other; a stage may say `extends: NAME` of an earlier one",
    )
    control: bool = Field(
        default=False,
        description="also trains the same student on the same rows with cross-entropy alone",
    )
    compute: Compute = Field(default=Compute(), description="where and how it is computed")
    checkpoints: Checkpoints = Field(default=Checkpoints(), description="when work is made safe")
    export: Export = Field(default=Export(), description="how the student leaves")
    evaluate: Evaluate | None = Field(
        default=None, description="what is measured at the end; null for nothing"
    )
    watch: Watch | None = Field(
        default=None,
        description="what is looked at on held-out rows while it trains; null for nothing",
    )
    log_every: int = Field(
        default=1, gt=0, description="optimizer steps between lines of log.jsonl"
    )
    track: tuple[Part, ...] = Field(
        default=(), description="who else is told every line of the log, such as `[tensorboard]`"
    )
    telemetry: Telemetry = Field(
        default=Telemetry(), description="what is measured of the machine while a run works"
    )
    card: Card = Field(
        default=Card(), description="what the model card says that nobody can measure"
    )
    resume: str = Field(
        default="auto",
        description="`auto` (the newest checkpoint that verifies), `none`, or a checkpoint's path",
    )
    runs: str = Field(default="runs", description="the folder of all runs")

    @model_validator(mode="before")
    @classmethod
    def _first_of_several(cls, values: Any) -> Any:
        """`student` is the first of `students`, where only those are given."""
        if isinstance(values, dict) and values.get("students") and values.get("student") is None:
            several = values["students"]
            if isinstance(several, list | tuple):
                return values | {"student": several[0]}
        return values

    @property
    def each(self) -> tuple[Recipe, ...]:
        """The runs of one student that this recipe stands for: itself, or one for each of its students."""
        if not self.students:
            return (self,)
        inside = f"{self.runs}/{self.name}/students"
        return tuple(
            self.model_copy(
                update={
                    "name": f"{number}-{part.name.rpartition('.')[2]}",
                    "student": part,
                    "students": (),
                    "runs": inside,
                }
            )
            for number, part in enumerate(self.students, start=1)
        )

    @model_validator(mode="after")
    def _sound(self) -> Recipe:
        if self.students and self.student != self.students[0]:
            raise ValueError("give 'student' or 'students', not both.")
        if self.students and self.resume not in ("auto", "none"):
            raise ValueError("resume: a checkpoint is of one student; with 'students' say auto.")
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ValueError(f"stages: a name stands twice in {names}.")
        if self.export.checkpoint == "best" and not self.checkpoints.keep_best:
            raise ValueError("export.checkpoint 'best' needs checkpoints.keep_best of 1 or more.")
        if self.checkpoints.keep_best and self.evaluate is None:
            raise ValueError("checkpoints.keep_best needs evaluate.source, to judge which is best.")
        if self.watch is not None and self.evaluate is None:
            raise ValueError("watch needs evaluate.source, whose rows are looked at.")
        return self
