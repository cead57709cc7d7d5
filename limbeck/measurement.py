"""What is measured of a run: while it trains, at its end, by benchmarks, and of the machine; and what its card says. Changes no weight but by `patience`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from limbeck.spelling import Budget, Frozen, Part


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
        default=None,
        ge=0,
        lt=2**32,  # numpy's limit
        description="chooses the examples, and what `samples` draws; null for lm-eval's own seeds",
    )
    bootstrap: int = Field(
        default=100_000,
        ge=0,
        description="resamples for the errors of figures that are no means; 0 for no errors",
    )
    allow_code: bool = Field(
        default=False,
        description="whether programs that a model wrote may be run on this machine, locked in; `humaneval` and `mbpp` "
        "are refused without it",
    )
    isolation: Literal["namespaces", "syscalls"] = Field(
        default="namespaces",
        description="how they are locked in: in Linux namespaces, where nothing of the machine is seen, or, weaker, by a "
        "filter of system calls alone, where they can read what you can read",
    )
    samples: int | None = Field(
        default=None,
        gt=0,
        description="answers to each question of `humaneval` and `mbpp`, drawn at temperature 0.2, for pass@k; null for "
        "one greedy answer",
    )


class Speed(Frozen):
    """How fast models read prompts and write behind them, turn by turn, and what memory that takes."""

    lengths: tuple[Annotated[int, Field(gt=0)], ...] = Field(
        default=(512,), min_length=1, description="tokens of a prompt"
    )
    batches: tuple[Annotated[int, Field(gt=0)], ...] = Field(
        default=(1,), min_length=1, description="prompts at a time; each with every length"
    )
    new_tokens: int = Field(default=32, gt=0, description="tokens that are written behind it")
    rounds: int = Field(default=3, gt=0, description="turns of each model; medians are told")


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
    speed: Speed | None = Field(
        default=None, description="how fast they write is measured at these sizes; null for not"
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
    price_per_hour: float | None = Field(
        default=None,
        ge=0,
        description="what an hour of this machine costs, for the report; null where nobody counts",
    )
    currency: str = Field(
        default="USD", pattern=r"^[A-Z]{3}$", description="of that price, in three letters"
    )


class Card(Frozen):
    """What the model card says that nobody can measure."""

    license: str | None = Field(
        default=None,
        pattern=r"^[a-z0-9][a-z0-9.+-]*$",
        description="of the student, as the Hub spells it, such as `apache-2.0`; null takes that of the model whose weights it began with, where its folder tells",
    )
    language: tuple[Annotated[str, Field(pattern=r"^[a-z]{2,3}$|^code$|^multilingual$")], ...] = (
        Field(default=(), description="of the text, in ISO 639-1, such as `[en, de]`")
    )
    datasets: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*(/[\w.-]+)?$")], ...] = Field(
        default=(),
        description="names on the Hub of the text; those that sources name are found without",
    )
    notes: str | None = Field(
        default=None,
        description="a paragraph of your own: what it is for, and what it is not good at",
    )

    @field_validator("notes")
    @classmethod
    def _closed(cls, notes: str | None) -> str | None:
        fences = sum(line.lstrip().startswith("```") for line in (notes or "").splitlines())
        if fences % 2:
            raise ValueError("a fence of ``` is not closed; it would swallow the rest of the card.")
        return notes
