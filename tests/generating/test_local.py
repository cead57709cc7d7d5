"""A teacher in this process: the same text whoever shares the batch, in any order, after any stop."""

import pytest
import tiny
import tiny_folder
import tiny_generation
import tiny_text
import torch

from limbeck.generating import command, journal
from limbeck.sampling.answers import Drawing
from limbeck.sampling.transformers import _Drawn, write

pytestmark = pytest.mark.usefixtures("handlers")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_folder.teacher(tmp_path_factory.mktemp("local") / "teacher", layers=2))


def written(place, model):
    local = {"model": model, "device": "cpu", "dtype": "float32", "rows": 3, "template": "chatml"}
    return tiny_generation.written(place, "", shape="local", whole={"local": local}, count=7)


def texts(place):
    return {row["id"]: row["response"] for row in tiny_generation.answers(place)}


def test_a_local_teacher_writes_the_same_in_other_batches_and_after_a_loss(tmp_path, model):
    path = written(tmp_path, model)
    assert "7 answered, 0 failed" in tiny_generation.run(path)
    first = texts(tmp_path)
    assert len(set(first.values())) > 3
    book = tmp_path / "out/journal.jsonl"
    lines = book.read_bytes().splitlines(keepends=True)
    book.write_bytes(b"".join(lines[:2]))
    tiny_generation.run(path, "teacher.local.rows=2")
    assert texts(tmp_path) == first


def test_a_local_teacher_hears_a_stop(tmp_path, model, monkeypatch):
    asked = []

    class Soon(command.Stop):
        def __call__(self):
            asked.append(1)
            return len(asked) > 9

    monkeypatch.setattr(command, "Stop", Soon)
    said = tiny_generation.refused(written(tmp_path, model))
    assert said.startswith("Stopped: 3 answered, 0 failed, 4 left")
    assert len(journal.read(tmp_path / "out/journal.jsonl").answers) == 3


def test_draws_follow_the_softmax():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]]).log_softmax(-1)
    drawn = _Drawn(Drawing(0.5, None, 1), [5], torch.device("cpu"))
    counts = torch.zeros(4)
    for _ in range(4000):
        counts[drawn(logits, logits).argmax()] += 1
    # Four standard errors of a share of 4,000 draws are 0.032 at most.
    torch.testing.assert_close(counts / 4000, (logits[0] / 0.5).softmax(-1), atol=0.032, rtol=0)
    kept = _Drawn(Drawing(1.0, 0.6, 1), [5], torch.device("cpu"))(logits, logits)
    assert kept.isfinite().tolist() == [[True, False, False, False]]


def test_temperature_0_takes_the_likeliest():
    model, tokenizer = tiny.llama(vocab=320), tiny_text.tokenizer()
    (one,) = write(model, tokenizer, [("a", [5, 6])], Drawing(0, 1, 4), stop=lambda: False)
    pair = [("b", [5, 6]), ("c", [9, 8, 7])]
    both = write(model, tokenizer, pair, Drawing(0, 1, 4), stop=lambda: False)
    assert both[0].text == one.text
    assert one.tokens_in == 2


def test_an_answer_ends_at_a_text_that_is_no_part_of_it_and_the_rest_is_not_written():
    model, tokenizer = tiny.llama(vocab=320), tiny_text.tokenizer()
    pair, drawing = [("a", [5, 6]), ("b", [9, 8, 7])], Drawing(1.0, None, 40)
    plain = write(model, tokenizer, pair, drawing, stop=lambda: False)
    ends = [answer.text[8:11] for answer in plain]
    steps = []
    ended = write(model, tokenizer, pair, drawing, stop=lambda: bool(steps.append(1)), until=ends)
    for before, after in zip(plain, ended, strict=True):
        first = min(place for end in ends if (place := before.text.find(end)) >= 0)
        assert after.text == before.text[:first]
        assert after.finish == "stop"
    assert len(steps) < 40
