"""A teacher on a server says what the same model says in this process, or says why not."""

import json

import pytest
import score_server
import tiny
import tiny_text
import torch

from limbeck.errors import LimbeckError, ModelError, RecipeError
from limbeck.sampling.scorer import Scores
from limbeck.selection.likeliest import likeliest
from limbeck.teachers.live import Live
from limbeck.teachers.remote import remote
from limbeck.types import Wanted

TOKENIZER = tiny_text.tokenizer()
VOCAB = len(TOKENIZER)
MODEL = tiny.llama(vocab=VOCAB)
EVERYTHING = slice(None)


def asked(served, *, k=5, **options):
    place = Scores(url=served.url, model="tiny", first_wait=0.0, **options)
    return remote(TOKENIZER, server=place, k=k)


def batch():
    found = tiny.batch(3, 12, vocab=VOCAB, documents=(5, 1, 6))
    found.weights[0, :3] = 0  # a document of which the end counts
    found.weights[1, 6:] = 0  # one of which nothing counts
    found.weights[2, 8:] = 0  # one of which the beginning counts
    return found


@pytest.mark.parametrize("protocol", ["vllm", "echo"])
@pytest.mark.parametrize("prompts", [1, 3])
def test_a_served_teacher_says_what_the_live_one_does(protocol, prompts):
    rows = batch()
    live = Live(MODEL).signal(rows, Wanted()).distribution(EVERYTHING)
    wanted = likeliest(live, 5)
    with score_server.scoring(MODEL, TOKENIZER) as served:
        hidden = {} if protocol == "vllm" else {"protocol": "echo"}
        found = asked(served, prompts=prompts, **hidden).signal(rows, Wanted()).topk
        told = [one for body in served.bodies for one in body["prompt"] if len(one) < 10]
    assert torch.equal(found.ids, wanted.ids)
    torch.testing.assert_close(found.logprobs, wanted.logprobs, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.rest, wanted.rest, atol=1e-4, rtol=0)
    assert sorted(len(one) for one in told if isinstance(one, list)) == [3, 5, 5, 5, 6]


def test_all_ids_leave_no_rest():
    rows = tiny.batch(1, 6, vocab=VOCAB)
    with score_server.scoring(MODEL, TOKENIZER, most=VOCAB) as served:
        found = asked(served, k=VOCAB).signal(rows, Wanted()).topk
    assert found.ids.sort(-1).values.tolist() == [list(range(VOCAB))] * 5
    assert (found.rest < -10).all()


def test_rows_in_which_nothing_counts_ask_nobody():
    rows = tiny.batch(2, 6, vocab=VOCAB)
    rows.weights.zero_()
    with score_server.scoring(MODEL, TOKENIZER) as served:
        teacher = asked(served)
        teacher.proof()
        before = len(served.bodies)
        found = teacher.signal(rows, Wanted()).topk
        assert len(served.bodies) == before
    assert found.ids.shape == (0, 5)


def test_requests_go_together_and_no_more_than_allowed():
    rows = tiny.batch(8, 6, vocab=VOCAB)
    with score_server.scoring(MODEL, TOKENIZER) as served:
        teacher = asked(served, prompts=1, concurrency=3)
        teacher.proof()
        served.delay, served.most_at_once = 0.05, 0
        teacher.signal(rows, Wanted())
        assert served.most_at_once == 3


def test_the_server_is_proved_once_and_told_of(capsys):
    with score_server.scoring(MODEL, TOKENIZER) as served:
        teacher = asked(served)
        for seed in (0, 1):
            teacher.signal(tiny.batch(1, 6, vocab=VOCAB, seed=seed), Wanted())
    assert not teacher.proof().tempered
    assert teacher.proof().repeats < 1e-5
    told = capsys.readouterr()
    assert (told.out + told.err).count("tokenizer proved by /tokenize") == 1


def test_a_server_whose_scores_follow_the_temperature_is_asked_at_one():
    rows = tiny.batch(1, 6, vocab=VOCAB)
    wanted = likeliest(Live(MODEL).signal(rows, Wanted()).distribution(EVERYTHING), 5)
    with score_server.scoring(MODEL, TOKENIZER, tempered=True) as served:
        teacher = asked(served)
        found = teacher.signal(rows, Wanted()).topk
    assert teacher.proof().tempered
    torch.testing.assert_close(found.logprobs, wanted.logprobs, atol=1e-5, rtol=0)


def test_without_tokenize_the_spelling_of_tokens_proves_the_tokenizer():
    with score_server.scoring(MODEL, TOKENIZER, hidden={"/tokenize"}) as served:
        assert "the spelling of" in asked(served).proof().words


def test_a_server_that_shows_nothing_of_its_tokenizer_is_refused():
    with (
        score_server.scoring(MODEL, TOKENIZER, hidden={"/tokenize"}) as served,
        pytest.raises(ModelError, match="cannot be found out"),
    ):
        asked(served, protocol="echo").proof()


@pytest.mark.parametrize("hidden", [(), {"/tokenize"}])
def test_another_tokenizer_is_refused_before_anything_is_learned(hidden):
    other = tiny_text.tokenizer(400)
    model = tiny.llama(vocab=400)
    if hidden:
        other.decode = lambda ids: "".join(chr(97 + one % 26) for one in ids)
    with (
        score_server.scoring(model, other, hidden=hidden) as served,
        pytest.raises(ModelError, match=r"other tokens of|spells a token"),
    ):
        asked(served).signal(tiny.batch(1, 6, vocab=VOCAB), Wanted())


def test_more_scores_than_the_server_tells_are_refused_with_its_words():
    with (
        score_server.scoring(MODEL, TOKENIZER, most=4) as served,
        pytest.raises(ModelError, match=r"max allowed, 4.*--max-logprobs"),
    ):
        asked(served).proof()


def lowered(answer):
    for choice in answer.get("choices", ()):
        for one in filter(None, choice["prompt_logprobs"]):
            for score in one.values():
                score["logprob"] /= 10
    return answer


def test_scores_that_are_no_probabilities_are_refused():
    with score_server.scoring(MODEL, TOKENIZER) as served:
        served.changed = lowered
        with pytest.raises(ModelError, match="no probabilities"):
            asked(served).proof()


def test_scores_that_are_none_any_more_are_refused_after_the_proof_too():
    with score_server.scoring(MODEL, TOKENIZER) as served:
        teacher = asked(served)
        teacher.proof()
        served.changed = lowered
        with pytest.raises(ModelError, match="no probabilities"):
            teacher.signal(batch(), Wanted())


def moved(answer):
    """As of a server that puts a token of its own before each prompt, in the echo of which the last falls off."""
    for choice in answer["choices"]:
        told = choice["logprobs"]["top_logprobs"]
        told.insert(1, {f"token_id:{n}": -3.0 for n in range(300, 306)})
    return answer


def exchanged(answer):
    """As of a server that answers in another order than it says."""
    choices = answer["choices"]
    return answer | {
        "choices": [a | {"index": b["index"]} for a, b in zip(choices, choices[::-1], strict=True)]
    }


@pytest.mark.parametrize(("protocol", "how"), [("echo", moved), ("vllm", exchanged)])
def test_scores_of_another_text_are_refused(protocol, how):
    rows = tiny.batch(2, 12, vocab=VOCAB)
    with score_server.scoring(MODEL, TOKENIZER) as served:
        teacher = asked(served, tries=1, protocol=protocol)
        if protocol == "vllm":
            teacher.proof()
        served.changed = lambda answer: how(answer) if "choices" in answer else answer
        with pytest.raises(ModelError, match="scores of another text, or moved"):
            teacher.signal(rows, Wanted())


BROKEN = {
    "no choices": lambda answer: answer | {"choices": "none"},
    "too few": lambda answer: answer | {"choices": answer["choices"][1:]},
    "twice the same": lambda answer: answer | {"choices": answer["choices"][:1] * 2},
    "short": lambda answer: answer | {"choices": [cut(one) for one in answer["choices"]]},
    "above 0": lambda answer: json.loads(json.dumps(answer).replace('"logprob": -', '"logprob": ')),
}


def cut(choice):
    return choice | {"prompt_logprobs": choice["prompt_logprobs"][:-1]}


@pytest.mark.parametrize("how", BROKEN)
def test_answers_that_are_none_are_refused(how):
    rows = tiny.batch(2, 6, vocab=VOCAB)
    with score_server.scoring(MODEL, TOKENIZER) as served:
        teacher = asked(served, tries=2)
        teacher.proof()
        served.changed = BROKEN[how]
        with pytest.raises(ModelError, match="that is no answer"):
            teacher.signal(rows, Wanted())


def test_a_server_in_trouble_is_asked_again():
    rows = tiny.batch(2, 6, vocab=VOCAB)
    wanted = likeliest(Live(MODEL).signal(rows, Wanted()).distribution(EVERYTHING), 5)
    faults = {3: (503, "busy"), 4: (429, "slowly"), 5: (500, "oh")}
    with score_server.scoring(MODEL, TOKENIZER, faults=faults) as served:
        found = asked(served).signal(rows, Wanted()).topk
        assert served.asked["completions"] == 7
    assert torch.equal(found.ids, wanted.ids)


def test_a_server_that_stays_in_trouble_ends_it_with_its_words():
    faults = dict.fromkeys(range(100), (500, "out of memory"))
    with (
        score_server.scoring(MODEL, TOKENIZER, faults=faults) as served,
        pytest.raises(ModelError, match=r"status 500.*out of memory.*same command"),
    ):
        asked(served, tries=3).proof()


def test_what_is_inside_a_model_is_not_served():
    with score_server.scoring(MODEL, TOKENIZER) as served:
        teacher = asked(served)
        with pytest.raises(RecipeError, match=r"layers\.0"):
            teacher.signal(batch(), Wanted(features=("layers.0",)))
        assert teacher.signal(batch(), Wanted(distribution=False)).topk is None
        assert not served.bodies


def test_a_key_is_taken_from_the_environment_and_in_no_message(monkeypatch):
    canary = "canary-7d1f0a"
    monkeypatch.setenv("THE_KEY", canary)
    faults = dict.fromkeys(range(9), (401, f"who is {canary}"))
    with score_server.scoring(MODEL, TOKENIZER, faults=faults) as served:
        with pytest.raises(LimbeckError) as told:
            asked(served, key="THE_KEY").proof()
        assert served.headers[0]["Authorization"] == f"Bearer {canary}"
    assert canary not in str(told.value)
    assert "[THE_KEY]" in str(told.value)


@pytest.mark.parametrize("before", [1960, 1985, 99_990])
def test_no_half_of_a_key_is_left_where_words_are_cut(monkeypatch, before):
    """The server pads the key with spaces, which are taken out of what it said."""
    monkeypatch.setenv("THE_KEY", "canary-7d1f0a-" * 4)
    faults = dict.fromkeys(range(9), (401, " " * before + "canary-7d1f0a-" * 4))
    with (
        score_server.scoring(MODEL, TOKENIZER, faults=faults) as served,
        pytest.raises(LimbeckError) as told,
    ):
        asked(served, key="THE_KEY").proof()
    assert "canary" not in str(told.value)


def test_no_half_of_a_key_is_left_of_a_name_that_is_no_id(monkeypatch):
    monkeypatch.setenv("THE_KEY", "canary-7d1f0a-" * 4)

    def named(answer):
        raw = json.dumps(answer).replace('"1": {', f'"{"x" * 25}{"canary-7d1f0a-" * 4}": {{')
        return json.loads(raw)

    with score_server.scoring(MODEL, TOKENIZER, most=VOCAB) as served:
        served.changed = named
        with pytest.raises(ModelError, match="wanted those of an id") as told:
            asked(served, key="THE_KEY", k=VOCAB, tries=1).proof()
    assert "canary" not in str(told.value)


def test_no_key_goes_over_plain_http_to_another_machine():
    place = Scores(url="http://10.1.2.3/v1", model="x", key="THE_KEY", plain_http=True)
    with pytest.raises(RecipeError, match="no key is sent"):
        remote(TOKENIZER, server=place)
