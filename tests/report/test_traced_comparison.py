"""Every figure in a comparison is that of its own runs and keys: table, charts and file; a wrong one is seen."""

import pytest
import tiny_compared
from tiny_compared import Own

from limbeck.contrasting import contrast
from limbeck.report import contrast as drawn
from limbeck.report.entries import Entry

SURE, BESIDE, WHISKER = drawn._sure, drawn._beside, drawn._whisker


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    place = tmp_path_factory.mktemp("compared")
    kinds = (("kl-0", 0, "forward_kl"), ("kl-1", 1, "forward_kl"), ("other", 0, "reverse_kl"))
    return [
        tiny_compared.folder(place, name, seed=seed, objective=objective, whose=number)
        for number, (name, seed, objective) in enumerate(kinds)
    ]


@pytest.fixture(scope="module")
def own(runs):
    return [
        Own("kl", "student", runs[:2]),
        Own("other", "student", runs[2:]),
        Own("control of kl", "control", runs),
        Own("teacher", "teacher", runs),
    ]


def test_every_figure_is_that_of_its_own_runs(runs, own):
    tiny_compared.check(drawn.html(contrast(runs)), own)


def test_the_file_for_programs_says_the_same(runs, own):
    for told, wanted in zip(drawn.plain(contrast(runs)), tiny_compared.plain(own), strict=True):
        for key, value in wanted.items():
            if key not in ("intervals", "difference_from_first"):
                assert told[key] == (pytest.approx(value) if isinstance(value, float) else value)
                continue
            assert told[key].keys() == value.keys()
            for figure, ends in value.items():
                assert told[key][figure] == pytest.approx(ends, abs=1e-9)


def sign_turned(difference, *, paired):
    return BESIDE(difference, paired=paired).translate(str.maketrans("+-", "-+"))


def whiskers_swapped(value, ends):
    whisker = WHISKER(value, ends)
    return whisker | {"array": whisker["arrayminus"], "arrayminus": whisker["array"]}


WRONG = {
    "the first seed for all": (Entry, "value", lambda self, *figure: self.each(*figure)[0]),
    "KL in the column of bits": (drawn, "_sure", lambda one, _: SURE(one, drawn.KL)),
    "a difference the other way round": (drawn, "_beside", sign_turned),
    "whiskers the other way round": (drawn, "_whisker", whiskers_swapped),
    "a gap of nobody": (drawn, "_gap", lambda _: "50.0%"),
    "all beaten by nobody": (drawn, "unbeaten", lambda points: list(range(len(points)))),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_wrong_figure_is_seen(runs, own, monkeypatch, wrong):
    monkeypatch.setattr(*wrong)
    with pytest.raises(AssertionError):
        tiny_compared.check(drawn.html(contrast(runs)), own)
