"""The filter by likelihood says of each answer what one forward pass of the model says."""

import pytest
import tiny_folder
import tiny_text
import torch

from limbeck.data.prompted import Prompter
from limbeck.errors import LimbeckError
from limbeck.filters.likelihood import likelihood
from limbeck.models import load

ROWS = [
    {"id": str(n), "prompt": prompt, "response": response}
    for n, (prompt, response) in enumerate(
        [("Wine goes in", "and spirit comes out"), ("Wine goes in", "zq zq zq"), ("Why?", "Wine. Wine."), ("Why?", "a")]
    )
]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_folder.teacher(tmp_path_factory.mktemp("likely") / "teacher", layers=2))


def nats(model):
    """Of each answer, by a plain forward pass in float64."""
    tokenizer, reader = tiny_text.tokenizer(), load.load_model(model).double()
    found = []
    with Prompter(tokenizer, "chatml") as prompter:
        for row in ROWS:
            before = prompter.ids(row["prompt"])
            answer = tokenizer(row["response"], add_special_tokens=False).input_ids
            with torch.no_grad():
                said = reader(torch.tensor([before + answer])).logits[0].log_softmax(-1)
            told = said[len(before) - 1 : -1][torch.arange(len(answer)), torch.tensor(answer)]
            found.append(float(-told.mean()))
    return found


def test_answers_on_the_wrong_side_of_a_limit_are_left_out_with_their_nats(model):
    told = {"model": model, "template": "chatml", "device": "cpu", "dtype": "float32"}
    each = nats(model)
    low, high = sorted(each)[0], sorted(each)[-1]
    for limits, wanted in (
        ({"most": (sorted(each)[-2] + high) / 2}, [value == high for value in each]),
        ({"least": (low + sorted(each)[1]) / 2}, [value == low for value in each]),
        ({"most": high + 1, "least": 0.0}, [False] * 4),
    ):
        found = likelihood(ROWS, **told, **limits)
        assert [bool(reason) for reason in found] == wanted
        for reason, value in zip(found, each, strict=True):
            assert not reason or reason.startswith(f"{value:.2f} nats a token")


def test_it_is_refused_without_a_limit_or_a_model_before_anything_is_loaded(model, tmp_path):
    with pytest.raises(LimbeckError, match="'most' or 'least'"):
        likelihood([], model=model)
    with pytest.raises(LimbeckError, match="nowhere"):
        likelihood([], model=str(tmp_path / "nowhere"), most=3.0)
    assert likelihood([], model=model, most=3.0) == []
