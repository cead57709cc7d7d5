"""`limbeck prepare` makes what `limbeck train` reads, of every text once; stopped, it goes on to the same bytes."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import tiny_folder
import tiny_text

from limbeck import assembly, cli, preparing
from limbeck.data import parts
from limbeck.data.prepare import prepare
from limbeck.errors import DataError, RecipeError

DOOR = """
import resource, sys
from limbeck import cli
from limbeck.data import parts
parts.SMALLEST = 20_000
most = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
sys.argv = ["limbeck", "prepare", *sys.argv[1:]]
cli.main()
"""


def begun(*words, most=1 << 40):
    """The command in a process and a session of its own, with small parts, which writes no file of more bytes."""
    return subprocess.Popen(
        [sys.executable, "-c", DOOR, str(most), *map(str, words)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture
def place(tmp_path):
    """A recipe whose text makes some 40 parts."""
    tiny_folder.written(tmp_path)
    texts = tiny_folder.sentences(7000, seed=3)
    lines = [json.dumps({"text": text}) + "\n" for text in texts]
    (tmp_path / "text/train.jsonl").write_text("".join(lines))
    return tmp_path


def folders(place):
    return sorted(path for path in (place / "prepared").iterdir() if path.suffix != ".parts")


def whole(place):
    """What one process makes of the text to train on at once."""
    text = place / "text"
    return tiny_folder.contents(prepare(tiny_text.tokenizer(), text, place / "whole").folder)


def made(place):
    """The one folder of that text which the command made, and nothing beside it."""
    key = prepare(tiny_text.tokenizer(), place / "text", place / "whole").folder.name
    assert not list((place / "prepared").glob("*.parts"))
    assert not list((place / "prepared").glob(".*"))
    return tiny_folder.contents(place / "prepared" / key)


def test_every_text_of_a_recipe_is_prepared_once_and_found_by_train(tmp_path, capsys, monkeypatch):
    stages = [
        tiny_folder.stage(tmp_path),
        tiny_folder.stage(tmp_path, name="again"),
        tiny_folder.stage(tmp_path, name="talk", source=tiny_folder.talk(tmp_path)),
    ]
    recipe = tiny_folder.recipe(tmp_path, stages=stages)
    monkeypatch.setattr(parts, "SMALLEST", 5000)
    preparing.prepare(recipe, 2)
    said = capsys.readouterr().err
    assert "stages[0].source: " in said
    assert "stages[1].source: " not in said
    assert "evaluate.source: " in said
    assert "tokens/s, by up to 2 processes" in said
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "prepared").rglob("*")}
    assert len(folders(tmp_path)) == 3
    base = assembly.ground(recipe)
    assert assembly.stage_source(base, recipe.stages[0]).rows > 100
    assembly.held_out(base)
    assert stamps == {p: p.stat().st_mtime_ns for p in (tmp_path / "prepared").rglob("*")}
    preparing.prepare(recipe, 2)
    assert capsys.readouterr().err.count("was there already") == 3


def test_a_text_that_is_not_there_is_told_before_another_is_prepared(tmp_path):
    tiny_folder.tree(tmp_path)
    for wrong in (
        {"text": {"path": "nowhere", "length": 8}},
        {"chat": {"path": "nowhere", "length": 8}},
    ):
        stages = [tiny_folder.stage(tmp_path), tiny_folder.stage(tmp_path, name="b", source=wrong)]
        with pytest.raises(DataError, match="nowhere: there is no such file"):
            preparing.prepare(tiny_folder.recipe(tmp_path, stages=stages), 1)
    assert not (tmp_path / "prepared").exists()


def test_the_text_that_is_trained_on_cannot_judge(tmp_path):
    tiny_folder.tree(tmp_path)
    evaluate = {"source": tiny_folder.source(tmp_path)}
    with pytest.raises(RecipeError, match="the text that stage distil trains on"):
        preparing.prepare(tiny_folder.recipe(tmp_path, evaluate=evaluate), 1)


def test_a_recipe_cannot_name_workers(tmp_path, capsys, monkeypatch):
    path = tiny_folder.written(tmp_path)
    monkeypatch.setattr(sys, "argv", ["limbeck", "prepare", str(path), "stages.0.source.text.workers=2"])  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "has no option 'workers'" in capsys.readouterr().err.replace("\n", " ")


def children(process):
    """The processes that it started, while it lives."""
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def number(place):
    return len(list((place / "prepared").glob("*.parts/0*")))


def test_ctrl_c_keeps_what_is_whole_and_leaves_nothing_half(place):
    work = begun(place / "recipe.yaml", "--workers", "2")
    while work.poll() is None and number(place) < 5:
        time.sleep(0.001)
    left = children(work)
    os.killpg(work.pid, signal.SIGINT)
    said = work.communicate()[1]
    assert work.returncode == 75, said
    assert "the same command goes on" in said
    assert "Traceback" not in said
    assert not psutil.wait_procs(left, timeout=60)[1]
    assert number(place) >= 5
    assert not list((place / "prepared").rglob(".partial-*"))
    again = begun(place / "recipe.yaml", "--workers", "2")
    said = again.communicate()[1]
    assert again.returncode == 0, said
    assert made(place) == whole(place)


@pytest.mark.parametrize(
    ("workers", "most", "there"), [(1, 2000, False), (2, 2000, False), (2, 60_000, True)]
)
def test_without_room_it_says_so_and_goes_on_with_the_parts_that_are_whole(
    place, workers, most, there
):
    words = (place / "recipe.yaml", "--workers", workers)
    process = begun(*words, most=most)
    said = process.communicate()[1]
    assert process.returncode == 2, said
    assert "Traceback" not in said
    assert f"{place / 'prepared'}: File too large; " in said
    assert bool(list((place / "prepared").glob("*.parts/0*"))) == there
    again = begun(*words)
    said = again.communicate()[1]
    assert again.returncode == 0, said
    assert ("parts were there already" in said) == there
    assert made(place) == whole(place)
