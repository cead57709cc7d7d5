"""Filters that compare: with other answers, and with what benchmarks ask."""

import json
import random

import pytest

from limbeck.errors import LimbeckError
from limbeck.filters.decontamination import decontamination
from limbeck.filters.duplicates import duplicates

WORDS = [f"word{number}" for number in range(500)]


def rows(*texts, **beside):
    return [{"id": str(n), "prompt": "Go on.", "response": text} | beside for n, text in enumerate(texts)]  # fmt: skip


def text(seed, count=200):
    return " ".join(random.Random(seed).choices(WORDS, k=count))


def changed(given, every):
    """The same text with every so many words exchanged."""
    return " ".join("other" if n % every == every - 1 else word for n, word in enumerate(given.split()))  # fmt: skip


def test_the_same_words_are_the_same_answer_and_the_first_one_stays():
    found = duplicates(rows("One, two.", "one  TWO", "two one", "One two!"), near=None)
    assert found == ["", "the words of 0", "", "the words of 0"]


def test_nearly_the_same_words_are_found_as_their_overlap_says():
    """Of runs of five words a change in every hundredth word spoils about a twentieth, in every tenth half."""
    one = text(1)
    found = duplicates(rows(one, text(2), changed(one, 100), changed(one, 10)), near=0.8)
    assert found == ["", "", "nearly the words of 0", ""]
    assert duplicates(rows(one, changed(one, 10)), near=0.2)[1] == "nearly the words of 0"


def test_what_is_left_out_draws_nothing_after_it():
    """A chain of small changes ends where it is far from the first, not where each is near the one before."""
    chain = [text(3)]
    for start in range(12):
        words = chain[-1].split()
        words[start * 16] = "other"
        chain.append(" ".join(words))
    found = duplicates(rows(*chain), near=0.8)
    assert set(found[:3]) == {"", "nearly the words of 0"}
    assert any(said == "" for said in found[1:])


def test_duplicates_of_three_thousand_are_found_in_any_order():
    made = [text(n, 60) for n in range(1500)]
    both = [*made, *made]
    random.Random(0).shuffle(both)
    found = duplicates(rows(*both))
    assert sum(not said for said in found) == 1500


@pytest.fixture
def benchmark(tmp_path):
    question = "Which of these four metals melts at the lowest temperature under pressure of one atmosphere, mercury or not?"
    lines = [
        {"question": question, "choices": {"text": ["lead", "a short answer with exactly nine words in it"]}},
        {"question": "Why?", "answer": 3},
    ]  # fmt: skip
    place = tmp_path / "benchmark"
    (place / "test").mkdir(parents=True)
    (place / "test/part.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return place, question


def test_a_question_of_a_benchmark_is_found_in_prompt_and_answer(benchmark):
    place, question = benchmark
    quoted = f"They asked: {question.upper().replace(',', ' -')} Nobody knew."
    found = decontamination(
        [
            *rows(quoted, "A short answer, with exactly nine words in it!", "Why? Because."),
            {"id": "3", "prompt": question, "response": "Mercury."},
        ],
        against=(str(place),),
    )
    assert found[0].startswith("13 words of ")
    assert "which of these four metals" in found[0]
    assert found[1].startswith("9 words of ")
    assert found[2] == ""
    assert found[3].startswith("13 words of ")


def test_twelve_words_of_a_long_question_are_no_contamination(benchmark):
    place, question = benchmark
    twelve = " ".join(question.split()[2:14])
    assert decontamination(rows(twelve), against=(str(place),)) == [""]
    assert decontamination(rows(twelve), against=(str(place),), words=12) != [""]


def test_a_benchmark_that_is_not_there_or_says_nothing_is_refused(tmp_path):
    with pytest.raises(LimbeckError, match="nowhere"):
        decontamination([], against=(str(tmp_path / "nowhere.jsonl"),))
    (tmp_path / "short.jsonl").write_text('{"question": "Why?"}\n')
    with pytest.raises(LimbeckError, match="has 8 words"):
        decontamination([], against=(str(tmp_path / "short.jsonl"),))
