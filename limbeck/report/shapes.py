"""What a run's files hold, as far as a report reads them."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired

from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from limbeck.checked import Number, Whole

AGAIN = "Remove the file, and run 'limbeck evaluate' again."
"""What to do about a file of an evaluation that holds something else."""
Figures = dict[str, Number]
Interval = Annotated[list[Number], Field(min_length=3, max_length=3)]
"""[value, low, high]"""


class Early(TypedDict):
    """Of a stage that ended before its budget was used."""

    of: Whole
    why: str


class Look(TypedDict):
    """What was seen of held-out rows."""

    measures: dict[str, dict[str, Any]]
    terms: dict[str, Any]


class LogLine(TypedDict):
    """A line of log.jsonl."""

    stage: str
    step: Whole
    tokens: Whole
    tokens_per_second: NotRequired[Number]
    terms: NotRequired[dict[str, Any]]
    held_out: NotRequired[Look]
    ended_early: NotRequired[Early]


class Telemetry(TypedDict):
    """Of a recipe."""

    every_seconds: NotRequired[Number | None]
    price_per_hour: NotRequired[Number | None]
    currency: NotRequired[str]


class Recipe(TypedDict):
    """recipe.yaml, complete as a run keeps it."""

    seed: NotRequired[Whole]
    telemetry: NotRequired[Telemetry | None]
    stages: NotRequired[list[dict[str, Any]]]


class Spent(TypedDict):
    """Of one text that a teacher wrote."""

    spent: Number


class Hardware(TypedDict):
    """Of the machine."""

    gpus: NotRequired[list[str]]


class Provenance(TypedDict):
    """provenance.json."""

    prints: NotRequired[dict[str, Any]]
    hardware: NotRequired[Hardware]
    text_spent: NotRequired[list[Spent]]


class Judged(TypedDict):
    """Figures by model, which every table of them has."""

    measure: str
    command: str
    models: dict[str, Figures]


class Measured(Judged):
    """A measure on held-out rows, with how sure its figures are."""

    source: Any
    rows: Whole
    length: Whole
    intervals: NotRequired[dict[str, dict[str, Interval]]]
    differences: NotRequired[dict[str, dict[str, Interval]]]
    gap_recovered: NotRequired[Figures]
    gap_intervals: NotRequired[dict[str, Interval]]
    row_sums: NotRequired[dict[str, dict[str, list[Number]]]]
    rows_of: NotRequired[list[str]]


class Difference(TypedDict):
    """Between student and control."""

    difference: Number
    stderr: Number | None


class Benchmark(Judged):
    """A task of lm-eval."""

    questions: Whole
    few_shot: Whole | None
    higher_is_better: dict[str, bool]
    student_against_control: dict[str, Difference]
    gap_recovered: dict[str, Number | None]


class Size(TypedDict):
    """How fast one model reads and writes at one size."""

    length: Whole
    batch: Whole
    model: str
    prefill_tokens_per_second: Number
    first_token_seconds: Number
    decode_tokens_per_second: Annotated[Number, Field(gt=0)]
    state_bytes: Number
    peak_bytes: Number | None


class Rounds(TypedDict):
    """How speed was measured."""

    rounds: Whole
    new_tokens: Whole


class Speed(TypedDict):
    """generation.json."""

    command: str
    dtype: str
    asked: Rounds
    sizes: list[Size]


class Samples(TypedDict):
    """samples.json: what each model writes behind some words."""

    prompt: str
    models: dict[str, str]


def _rows(told: Measured) -> Measured:
    of = told.get("rows_of")
    for sums in told.get("row_sums", {}).values():
        if of is None or any(len(each) != len(of) for each in sums.values()):
            raise ValueError("sums in 'row_sums' of each of 'rows_of'")
    return told


MeasuredRows = Annotated[Measured, AfterValidator(_rows)]


class Token(TypedDict):
    """A held-out token as each model saw it."""

    text: str
    kl: Figures
    said: Figures
    likeliest: dict[str, list[tuple[str, Number]]]


def _said(one: Token) -> Token:
    if not set(one["likeliest"]) <= set(one["said"]):
        raise ValueError("in 'said' each model of 'likeliest'")
    return one


class Tokens(TypedDict):
    """tokens.json."""

    tokens: list[Annotated[Token, AfterValidator(_said)]]


class Layer(TypedDict):
    """A student's blocks beside the teacher's: how alike, and which of the teacher's each is paired with."""

    name: str
    paired: list[Whole]
    cka: list[list[Number]]


def _paired(one: Layer) -> Layer:
    places = enumerate(one["paired"])
    if not all(0 <= at < len(row) for (_, at), row in zip(places, one["cka"], strict=False)):
        raise ValueError("a column of 'cka' for each of 'paired'")
    if len(one["cka"]) != len(one["paired"]):
        raise ValueError("a row of 'cka' for each of 'paired'")
    return one


class Layers(TypedDict):
    """layers.json."""

    students: list[Annotated[Layer, AfterValidator(_paired)]]
