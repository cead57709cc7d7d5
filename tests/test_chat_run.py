"""A whole run on conversations: recorded, trained with its control, exported and judged on answers alone."""

import re
import subprocess

import pytest
import tiny_folder
import torch

from limbeck import assembly, judging, recorded, run
from limbeck.cache.read import CacheReader
from limbeck.errors import CacheMismatch
from limbeck.sources.chat import chat
from limbeck.training import meter

pytestmark = pytest.mark.usefixtures("handlers")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("talk")


def asked_of(place):
    tiny_folder.tree(place)
    evaluate = {"source": tiny_folder.talk(place, split="held_out"), "rows": 16}
    stage = tiny_folder.stage(place, source=tiny_folder.talk(place), alpha=0.5)
    return tiny_folder.recipe(place, stages=[stage], evaluate=evaluate)


@pytest.fixture(scope="module")
def finished(place):
    asked = asked_of(place)
    run.carry_out(asked)
    return tiny_folder.folder(asked)


def test_a_student_is_nearer_to_its_teacher_on_answers_than_its_control(finished):
    figures = judging.read(finished)["agreement"]
    student, control = (figures[arm]["kl_to_teacher"] for arm in ("student", "control"))
    assert student < 0.7 * control
    assert figures["teacher"]["kl_to_teacher"] == pytest.approx(0, abs=1e-6)


def test_a_control_learns_the_answers(finished):
    bits = judging.read(finished)["bits_per_byte"]
    assert bits["control"]["bits_per_byte"] < 0.8 * bits["teacher"]["bits_per_byte"]


def test_only_tokens_that_count_are_recorded(finished, place):
    asked = asked_of(place)
    base = assembly.ground(asked)
    source = assembly.stage_source(base, asked.stages[0])
    batch = source.batch(range(4))
    reader = CacheReader(recorded.options(asked)["path"])
    counts = batch.weights != 0
    assert reader.read(batch.addresses, counts, [0] * 4).ids.shape[0] == int(counts.sum())
    with pytest.raises(CacheMismatch):
        reader.read(batch.addresses, torch.ones_like(counts), [0] * 4)


def test_a_finished_run_is_there_and_goes_on_to_nothing(finished, place, capsys):
    assert [line["step"] for line in meter.read(finished.log)] == list(
        range(1, tiny_folder.STEPS + 1)
    )
    assert (finished.export / "model.safetensors").is_file()
    run.carry_out(asked_of(place))
    assert "student: stage distil is done" in capsys.readouterr().err


def test_what_was_trained_on_is_what_the_source_gives(place):
    tiny_folder.tree(place)
    options = tiny_folder.talk(place)["chat"]
    base = assembly.ground(asked_of(place))
    source = chat(base.tokenizer, **options)
    assert float((source.batch(range(source.rows)).weights > 0).float().mean()) > 0.1


def test_a_run_writes_nothing_that_looks_like_a_key(finished, place):
    """Invariant 73, of what a run leaves: the commit of the code is the one name of 40 digits that may stand in it."""
    written = [path for path in place.rglob("*") if path.suffix in (".json", ".jsonl", ".yaml", ".md", ".html", ".txt")]  # fmt: skip
    assert {"log.jsonl", "provenance.json"} <= {path.name for path in written}
    found = {
        hit
        for path in written
        for hit in re.findall(r"\b[0-9a-f]{40}\b|\bhf_\w{30,}|\bsk-[\w-]{20,}", path.read_text())
    }
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)  # fmt: skip
    assert found <= {commit.stdout.strip()}
