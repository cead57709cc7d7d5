"""A recipe: one frozen tree that says everything about a run. Reads no model and needs no torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

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


class Watch(Frozen):
    """What is looked at while a stage trains, on held-out rows. The run's weights are the same without it."""

    every: Budget = Field(
        default=Budget(amount=50, unit="steps"),
        description="between looks: `50 steps` or `100k tokens`; there is one at the end of a stage, too, and at every "
        "checkpoint where checkpoints.keep_best judges them",
    )
    rows: int | None = Field(
        default=None,
        gt=0,
        description="held-out rows behind those of `evaluate`; null takes checkpoints.held_out_rows",
    )
    measures: tuple[Part, ...] = Field(
        default=(Part(name="bits_per_byte"), Part(name="agreement")),
        description="what is measured besides cross-entropy and the stage's own terms",
    )
    best: str = Field(
        default="cross_entropy",
        description="the figure by which checkpoints.keep_best, export.checkpoint `best` and patience choose: "
        "`cross_entropy`, `loss`, or one of a measure, such as `bits_per_byte`, `kl_to_teacher`, `top_1_agreement`",
    )
    patience: int | None = Field(
        default=None,
        gt=0,
        description="looks one after the other without a better figure, after which the stage ends early; null: never",
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
        description="compiles each block (torch.compile) in stages whose terms do not look inside: seconds at the start, faster steps after; other last bits",
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


class Benchmarks(Frozen):
    """Questions of lm-evaluation-harness, put to the models of a run."""

    tasks: tuple[str, ...] = Field(
        min_length=1,
        description="names of tasks, or of groups: `lrc9` are the nine of Low-Rank Clone",
    )
    without: tuple[str, ...] = Field(
        default=(), description="tasks of a group that are left out; its average says so"
    )
    data: str | None = Field(
        default=None,
        description="the folder that holds the rows of each task; null has lm-eval take its own from the Hub",
    )
    models: tuple[Literal["teacher", "before", "student", "control"], ...] = Field(
        default=("teacher", "before", "student", "control"),
        min_length=1,
        description="who is asked; `before` is the student as it begins",
    )
    few_shot: int | None = Field(
        default=None, ge=0, description="examples before each question; null for each task's own"
    )
    limit: int | None = Field(
        default=None,
        gt=0,
        description="the first questions of each task, and of each subject of mmlu; null for all",
    )
    seed: int | None = Field(
        default=None, ge=0, description="chooses the examples; null for lm-eval's own seeds"
    )
    bootstrap: int = Field(
        default=100_000,
        ge=0,
        description="resamples for the errors of figures that are no means; 0 for no errors",
    )


class Evaluate(Frozen):
    """What is measured at the end, on text that nobody was trained on."""

    source: Part = Field(description="the held-out text; read in its own order")
    rows: int = Field(default=64, gt=0, description="rows that are measured")
    measures: tuple[Part, ...] = Field(
        default=(Part(name="bits_per_byte"), Part(name="agreement")), description="what is measured"
    )
    prompt: str | None = Field(
        default=None, description="words that each model goes on from, greedily; null for no sample"
    )
    sample_tokens: int = Field(default=48, gt=0, description="tokens of that sample")
    benchmarks: Benchmarks | None = Field(
        default=None, description="what is asked besides; null for nothing"
    )


class Telemetry(Frozen):
    """What is measured of the machine while a run works; it changes no result."""

    every_seconds: float | None = Field(
        default=2.0, gt=0, description="between two lines of telemetry.jsonl; null for none"
    )
    peak_teraflops: float | None = Field(
        default=None,
        gt=0,
        description="a second, of one device in the dtype of `compute`, for model FLOPs utilisation; null takes what is known of well-known GPUs in bfloat16",
    )


class Recipe(Frozen):
    """A whole run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="names the run's folder")
    seed: int = Field(
        default=0, ge=0, description="of the order of rows, of random weights and of dropout"
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
