"""What a template does to one row is named or set aside with that row; what is said stays text, whatever it looks like."""

import json
import re

import pytest
import tiny_chat
from hostile_talks import LAST, PLAIN, TALKS, WHOLE, branching

from limbeck.data.controls import Controls, Said
from limbeck.data.inputs import ROWS, inputs
from limbeck.data.records import records
from limbeck.data.renderer import Renderer
from limbeck.data.sieve import Sieve
from limbeck.data.talks import Reading, Speech, Talks, Writer
from limbeck.data.templates import template_of
from limbeck.data.tokenize import largest_id
from limbeck.errors import DataError, LimbeckError

pytestmark = pytest.mark.timeout(120)
TOKENIZER = tiny_chat.tokenizer(branching())


@pytest.fixture(scope="module")
def renderer():
    """One process for all of these rows: a hostile row must leave it fit for the next."""
    with Renderer(template_of(TOKENIZER, None, {}, "2024-07-26")) as made:
        yield made


def read(renderer, path, sieve):
    """The rows of a file as the chat source reads them, encoded: (where, tokens) of each."""
    speech = Speech("tiny", Controls(TOKENIZER), largest_id(TOKENIZER), renderer.template)
    kept = Kept()
    with Writer(speech) as writer:
        writer._renderer = renderer
        rows = records(inputs(path, kinds=ROWS), sieve, split="train")
        Talks(speech, writer, Reading(100_000, 2), sieve, kept).take(rows, dict, 1)
    return kept.rows


class Kept:
    """Rows one by one, in the place of files: [(line, what is said)]."""

    def __init__(self):
        self.rows = []

    def put(self, found, block, weights):
        (one,) = block
        self.rows.append((one.record.line, Said(found.ids, found.sizes, weights)))


def first(aside):
    told = json.loads(aside.quarantine.read_text().splitlines()[0])
    return "{file}:{line}: {reason}".format(**told)


def answers(tokens):
    """The texts of the runs of tokens that count."""
    found, before = [], 0.0
    for number, weight in zip(tokens.ids.tolist(), tokens.weights.tolist(), strict=True):
        if weight and not before:
            found.append([])
        if weight:
            found[-1].append(number)
        before = weight
    return [TOKENIZER.decode(run) for run in found]


@pytest.fixture(scope="module")
def neighbours(renderer, tmp_path_factory):
    """The tokens of the two rows beside each case, when they are alone."""
    path = tiny_chat.written(tmp_path_factory.mktemp("alone") / "a.jsonl", PLAIN, LAST)
    return [(one.ids.tolist(), one.weights.tolist()) for _, one in read(renderer, path, Sieve())]


@pytest.mark.parametrize("talk", TALKS, ids=lambda talk: talk.name)
def test_a_hostile_talk_is_refused_or_learned_and_its_neighbours_stay(
    tmp_path, renderer, neighbours, talk
):
    path = tiny_chat.written(tmp_path / "rows.jsonl", PLAIN, talk.row, LAST)
    aside = Sieve(tmp_path / "aside.jsonl")
    found = read(renderer, path, aside)
    aside.close()
    assert [line for line, _ in found] == ([1, 3] if talk.reason else [1, 2, 3])
    stay = [(one.ids.tolist(), one.weights.tolist()) for line, one in found if line != 2]
    assert stay == neighbours
    assert len(found) + aside.quarantined == 3
    if talk.reason:
        told = first(aside)
        assert re.search(f"^{re.escape(path)}:2: (?s:.*)({talk.reason})", told), told
        assert len(told) < 1_000
        with pytest.raises(DataError, match=f"^{re.escape(path)}:2: (?s:.*)({talk.reason})"):
            read(renderer, path, Sieve())
    else:
        (tokens,) = (one for line, one in found if line == 2)
        assert answers(tokens) == [f"{one}<|im_end|>" for one in talk.answers]
        controls = set(tiny_chat.TOKENIZER.all_special_ids) | {1, 2}
        turns = sum(number == 1 for number in tokens.ids)
        assert turns == sum(number == 2 for number in tokens.ids), "as many ends as beginnings"
        assert set(tokens.ids.tolist()) & controls == {1, 2}


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("hostile", ["stop", "quarantine"])
def test_a_template_that_is_of_no_use_ends_the_work(tmp_path, name, hostile):
    text, reason = WHOLE[name]
    with pytest.raises(LimbeckError, match=f"(?s)({reason})") as caught:
        tiny_chat.source(tmp_path, tokenizer=tiny_chat.tokenizer(text), hostile=hostile)
    assert len(str(caught.value)) < 2_000


@pytest.mark.parametrize(
    ("loop", "told"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "running"),
        ("{% for a in range(99999) %}{% for b in range(99999) %}aaaaaaaa{% endfor %}{% endfor %}", "running|MemoryError|wrote"),
        ("{{ (messages[0].role * 9999999) | list | sort | join | length }}", "running|MemoryError|wrote"),
        # jinja computes what is constant while it reads the template.
        ("{{ 10 ** (10 ** 10) }}", "running|MemoryError"),
    ],
    ids=["nothing", "words", "work", "constants"],
)  # fmt: skip
def test_a_template_without_end_is_ended(tmp_path, monkeypatch, loop, told):
    """Under `quarantine`, which goes on wherever it can."""
    monkeypatch.setitem(Renderer.__init__.__kwdefaults__, "seconds", 0.5)
    text = "{% if messages[0].content == 'What is kept?' %}" + loop + "{% endif %}" + tiny_chat.CHATML  # fmt: skip
    with pytest.raises(LimbeckError, match=rf"rows\.jsonl:1: (?s:.*)({told})"):
        tiny_chat.source(
            tmp_path, tiny_chat.TALKS[:1], tiny_chat.tokenizer(text), hostile="quarantine"
        )
