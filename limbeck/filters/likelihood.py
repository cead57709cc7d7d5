"""Likelihood: answers that a model finds hard to believe, or says by heart."""

import math
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from limbeck.data.prompted import Prompter
from limbeck.errors import DataError, LimbeckError
from limbeck.evaluation._likelihood import loglikelihoods
from limbeck.filters._rows import Row
from limbeck.models.load import load_config, load_model, load_tokenizer
from limbeck.models.place import device_of, dtype_of


def likelihood(
    rows: Sequence[Row],
    *,
    model: str,
    revision: str | None = None,
    most: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None,
    least: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None,
    template: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
) -> list[str]:
    """A reason for each row whose answer costs the model more than `most` nats a token after its prompt, or fewer than `least`.

    model: a folder, or a name on the hub; the teacher itself where it has weights, or any other. The end of the answer is not
    counted. Raises LimbeckError where neither limit is given.
    """
    if most is None and least is None:
        raise LimbeckError("filter 'likelihood': wanted 'most' or 'least', nats a token.")
    if not rows:
        load_config(model, revision=revision)
        return []
    tokenizer = load_tokenizer(model, revision=revision)
    with Prompter(tokenizer, template) as prompter:
        asked = [prompter.ids(row["prompt"], row.get("system")) for row in rows]
    answers = [tokenizer(row["response"], add_special_tokens=False, split_special_tokens=True).input_ids for row in rows]  # fmt: skip
    told = [
        (number, ids, answer)
        for number, (ids, answer) in enumerate(zip(asked, answers, strict=True))
        if not isinstance(ids, DataError) and answer
    ]
    place = device_of(device)
    reader = load_model(model, revision=revision, dtype=dtype_of(dtype, place)).to(place)
    found = loglikelihoods(reader, [(ids, answer) for _, ids, answer in told])
    reasons = [str(ids) if isinstance(ids, DataError) else "" for ids in asked]
    for (number, _, answer), (total, _) in zip(told, found, strict=True):
        reasons[number] = _reason(-total / len(answer), most, least)
    return reasons


def _reason(nats: float, most: float | None, least: float | None) -> str:
    if not math.isfinite(nats):
        return "of no finite likelihood"
    if most is not None and nats > most:
        return f"{nats:.2f} nats a token, more than {most:g}"
    if least is not None and nats < least:
        return f"{nats:.2f} nats a token, fewer than {least:g}"
    return ""
