"""A run whose teacher is on a server: asked live and recorded, it learns what a run with the same teacher here does."""

import contextlib
import time

import pytest
import score_server
import tiny_folder
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from limbeck import fitting, loading, run
from limbeck.cache.read import CacheReader
from limbeck.errors import CacheMismatch, Interrupted, LimbeckError, ModelError, RecipeError

EVALUATE = {"measures": ["bits_per_byte"]}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    found = tmp_path_factory.mktemp("served")
    tiny_folder.tree(found)
    return found


@contextlib.contextmanager
def serving(place, **options):
    model = AutoModelForCausalLM.from_pretrained(place / "teacher", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(place / "teacher")
    with score_server.scoring(model, tokenizer, most=32, **options) as served:
        yield served


def where(served, **changes):
    return {"url": served.url, "model": "tiny", "first_wait": 0, **changes}


def recipe(place, name, teacher, **changes):
    plain = {
        "teacher": teacher,
        "tokenizer": str(place / "teacher"),
        "student": {"pretrained": {"model": str(place / "student")}},
        "evaluate": None,
    }
    if not (place / "student").exists():
        tiny_folder.teacher(place / "student", layers=2, seed=5)
    return tiny_folder.short(place, name, **plain | changes)


def weights(place, name, teacher):
    return tiny_folder.weights(tiny_folder.trained(recipe(place, name, teacher)), 4)


def test_recorded_and_live_a_served_teacher_teaches_what_it_does_here(place):
    kept = {"kind": "topk+rest", "k": 32, "values": "float32"}
    here = {"model": str(place / "teacher"), "path": str(place / "cache-here"), **kept}
    wanted = weights(place, "here", {"cached": here})
    with serving(place) as served:
        live = weights(place, "live", {"remote": {"server": where(served), "k": 32}})
        there = {"server": where(served), "path": str(place / "cache-served"), **kept}
        asked = recipe(place, "recorded", {"cached": there})
        run.record(asked, rank=0, world=1)
        before = served.asked["completions"]
        recorded = weights(place, "recorded", {"cached": there})
        assert served.asked["completions"] == before
    for name, mine in wanted.items():
        torch.testing.assert_close(live[name], mine, atol=2e-5, rtol=0)
        torch.testing.assert_close(recorded[name], mine, atol=2e-5, rtol=0)
    about = CacheReader(place / "cache-served").about
    assert (about.teacher_name, about.kind, about.k) == ("tiny", "topk+rest", 32)
    rows = recipe(place, "other", {"cached": there | {"server": where(served, model="another")}})
    with pytest.raises(CacheMismatch, match="teacher"):
        tiny_folder.trained(rows)


def test_a_recording_that_a_server_broke_off_goes_on_behind_what_is_whole(place):
    kept = {"kind": "topk+rest", "k": 8, "path": str(place / "cache-broken")}
    # Three requests prove the server; the recording is of 16 rows, one document or two a request.
    with serving(place, faults=dict.fromkeys(range(6, 100), (500, "gone"))) as served:
        there = {"server": where(served, tries=2, prompts=1), **kept}
        with pytest.raises(ModelError, match=r"gone.*same command"):
            run.record(recipe(place, "broken", {"cached": there}), rank=0, world=1)
    with serving(place) as served:
        there = {"server": where(served), **kept}
        run.record(recipe(place, "broken", {"cached": there}), rank=0, world=1)
    assert len(CacheReader(place / "cache-broken")) == 16


@pytest.mark.parametrize("kind", ["remote", "cached"])
def test_a_server_that_has_one_wait_for_an_hour_is_not_waited_for_once_asked_to_stop(place, kind):
    # Three requests prove the server; every later one is answered with what is tried again, a minute after.
    with serving(place, faults=dict.fromkeys(range(9, 1000), (503, "later"))) as served:
        server = where(served, prompts=1, concurrency=1, first_wait=60, tries=50)
        plain = {"path": str(place / "cache-stopped"), "kind": "topk+rest"}
        told = {kind: {"server": server, "k": 8} | (plain if kind == "cached" else {})}
        asked, began = recipe(place, f"stopped-{kind}", told), time.monotonic()
        with pytest.raises(Interrupted, match=r"[Ss]topped.*same command goes on"):
            tiny_folder.trained(asked, stop=lambda: served.asked["completions"] > 9)
        assert time.monotonic() - began < 25
        served.faults.clear()
        went_on = tiny_folder.weights(tiny_folder.trained(asked), 4)
        beside = {kind: told[kind] | ({"path": str(place / "beside")} if kind == "cached" else {})}
        wanted = weights(place, f"beside-{kind}", beside)
    assert all(torch.equal(went_on[name], mine) for name, mine in wanted.items())


REFUSED = {
    "kind": ({"cached": {"kind": "sample"}}, "tells the likeliest ids alone"),
    "both": ({"cached": {"kind": "topk+rest", "model": "x"}}, "both given"),
    "http": ({"remote": {"server": {"url": "http://10.0.0.9/v1"}}}, "shows prompts and key"),
    "a key": ({"remote": {"server": {"key": "sk-0123456789"}}}, "name of an environment variable"),
    "url": ({"remote": {"server": {"url": "ftp://x"}}}, r"wanted http\(s\)"),
    "word": ({"remote": {"server": {"modell": "x"}}}, "no key 'modell' here"),
    "k": ({"remote": {"k": 0}}, "greater than 0"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_go_together_is_refused_before_anybody_is_asked(place, what):
    changes, told = REFUSED[what]
    ((name, given),) = changes.items()
    server = {"url": "http://127.0.0.1:9/v1", "model": "tiny"} | given.get("server", {})
    plain = {"path": "never"} if name == "cached" else {}
    with pytest.raises(RecipeError, match=told) as reason:
        recipe(place, "refused", {name: plain | given | {"server": server}})
    assert "0123456789" not in str(reason.value)
    assert "teacher" in str(reason.value)


def test_what_is_inside_a_served_teacher_cannot_be_compared(place):
    linked = {"feature_mse": {"at": "layers.0"}}
    stage = tiny_folder.stage(place, budget="4 steps", objective=["forward_kl", linked])
    teacher = {"remote": {"server": {"url": "http://127.0.0.1:9/v1", "model": "tiny"}}}
    with pytest.raises(RecipeError, match="a server shows nothing of it"):
        recipe(place, "inside", teacher, stages=[stage])


def test_a_served_teacher_has_no_weights_to_be_judged_with(place):
    teacher = {"remote": {"server": {"url": "http://127.0.0.1:9/v1", "model": "tiny"}}}
    evaluate = {"source": tiny_folder.source(place, split="held_out"), "rows": 4}
    with pytest.raises(RecipeError, match="bits_per_byte"):
        recipe(place, "judged", teacher, evaluate=evaluate)
    found = recipe(place, "judged", teacher, evaluate=evaluate | EVALUATE)
    assert loading.dump(fitting.check(found))


def test_nobody_there_is_told_with_the_address(place):
    server = {"url": "http://127.0.0.1:9/v1", "model": "tiny", "tries": 2, "first_wait": 0}
    with pytest.raises(LimbeckError, match=r"127\.0\.0\.1:9.*no connection"):
        tiny_folder.trained(recipe(place, "nobody", {"remote": {"server": server}}))
