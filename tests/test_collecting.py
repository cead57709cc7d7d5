"""Corpora are streamed into shards: the same bytes whether it was stopped or not, by score, split, and with nothing silently lost."""

import gzip
import json
import os
import random
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import tiny_hub
import tiny_text
from typer.testing import CliRunner

from limbeck import cli, collecting, files
from limbeck.collecting import Wanted, collect
from limbeck.errors import DataError, LimbeckError
from limbeck.folder import beside, locked
from limbeck.sources.chat import chat
from limbeck.sources.text import text

pytest.importorskip("datasets")


def rows(count=230):
    draw = random.Random(0)
    found = [
        {"text": f"{n}: " + " ".join(draw.choices(tiny_text.PROSE.split(), k=20)), "id": str(n), "int_score": n % 5, "dump": "x"}
        for n in range(count)
    ]  # fmt: skip
    found[7]["text"], found[9]["text"] = "", None
    return found


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hub"))
    origin = tmp_path / "origin"
    origin.mkdir()
    whole = rows()
    for number, begin in enumerate((0, 100, 200)):
        lines = [json.dumps(row) + "\n" for row in whole[begin : begin + 100]]
        (origin / f"part-{number}.jsonl").write_text("".join(lines))
    return tmp_path


def asked(here, **changes):
    told = {"samples": 40, "least": 2, "held_out": 0.1, "place": str(here / "origin")}
    return Wanted("fineweb-edu", **told | changes)


def written(folder):
    return {
        side: [
            json.loads(line)
            for path in sorted((folder / side).glob("*"))
            for line in gzip.decompress(path.read_bytes()).splitlines()
        ]
        for side in collecting.SIDES
    }


def test_rows_of_the_least_score_are_kept_once_in_order_and_split_by_content(place, capsys):
    folder = collect(asked(place), place / "corpus")
    found = written(folder)
    wanted = [row["id"] for row in rows() if row["int_score"] >= 2 and row["text"]]
    train, held_out = ([row["id"] for row in found[side]] for side in collecting.SIDES)
    assert sorted(train + held_out, key=int) == wanted
    assert train == sorted(train, key=int)
    assert 5 < len(held_out) < 30
    assert set(found["train"][0]) == {"text", "id", "int_score"}
    about = files.verify(folder).about
    assert (about["read"], about["kept"], about["empty"]) == (230, len(wanted), 2)
    assert "2 held no text" in capsys.readouterr().err
    assert collect(asked(place), folder) == folder


def test_a_stopped_collection_goes_on_to_the_same_bytes(place, monkeypatch):
    whole = collect(asked(place), place / "whole")
    writes, true = [], files.write_bytes

    def killed(path, data):
        writes.append(path)
        if len(writes) in (2, 5):
            raise KeyboardInterrupt
        true(path, data)

    monkeypatch.setattr(files, "write_bytes", killed)
    stops = 0
    while True:
        try:
            collect(asked(place), place / "stopped")
            break
        except KeyboardInterrupt:
            stops += 1
    assert stops == 2
    names = [path.relative_to(whole) for path in sorted(whole.rglob("*.gz"))]
    assert len(names) >= 6
    for name in names:
        assert (whole / name).read_bytes() == (place / "stopped" / name).read_bytes()
    assert files.verify(place / "stopped").about["kept"] == files.verify(whole).about["kept"]


COLLECTED = """
import sys
from pathlib import Path
from limbeck.collecting import Wanted, collect
collect(Wanted("fineweb-edu", samples=1, least=2, held_out=0.1, place=sys.argv[1]), Path(sys.argv[2]))
"""


def shards(folder):
    return len(list(folder.rglob("shard-*")))


def test_a_killed_collection_loses_no_row_and_reads_none_twice(place):
    """SIGKILL behind a shard, wherever the next one stands; the last kills come when nearly all is there."""
    whole = collect(asked(place, samples=1), place / "whole")
    every, target, kills = shards(whole), place / "killed", 0
    command = [sys.executable, "-c", COLLECTED, str(place / "origin"), str(target)]
    for wanted in (1, every // 3, every // 2, every - 1, every):
        work = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while work.poll() is None and shards(target) < wanted:
            time.sleep(0.001)
        kills += work.poll() is None
        work.kill()
        work.wait()
    assert kills >= 3
    collect(asked(place, samples=1), target)
    assert written(target) == written(whole)
    counts = [files.verify(one).about for one in (target, whole)]
    assert counts[0] == counts[1]


def test_what_was_all_written_but_not_sealed_is_sealed(place, monkeypatch):
    def killed(folder, about):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files, "seal", killed)
        with pytest.raises(KeyboardInterrupt):
            collect(asked(place, shards=2), place / "corpus")
    assert files.verify(collect(asked(place, shards=2), place / "corpus")).about["kept"] == 80


def test_conversations_are_collected_and_read(place):
    talk = [
        {"conversations": [{"from": "human", "value": f"What is {n}?"}, {"from": "gpt", "value": "Wine."}], "source": "x", "id": 3}
        for n in range(60)
    ]  # fmt: skip
    talk.append({"conversations": [], "source": "x", "id": 4})
    there = place / "talk"
    there.mkdir()
    (there / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in talk))
    folder = collect(Wanted("openhermes", held_out=0.2, place=str(there)), place / "hermes")
    assert files.verify(folder).about["empty"] == 1
    told = {"tokenizer": tiny_text.tokenizer(), "length": 64, "seed": 0, "template": "chatml"}
    kept = [
        chat(path=str(folder), split=side, prepared=str(place / "prepared"), **told).rows
        for side in collecting.SIDES
    ]
    assert kept[0] > kept[1] > 0


def test_no_more_shards_are_written_than_were_asked_for(place):
    folder = collect(asked(place, shards=2, compressed=False, held_out=0.0), place / "two")
    assert [path.name for path in sorted((folder / "train").iterdir())] == [
        "shard-00000.jsonl", "shard-00001.jsonl",
    ]  # fmt: skip
    assert files.verify(folder).about["kept"] == 80


def test_parquet_is_read_as_well(place):
    import pyarrow as pa
    import pyarrow.parquet as pq

    there = place / "parquet"
    there.mkdir()
    pq.write_table(pa.Table.from_pylist(rows()), there / "one.parquet", row_group_size=50)
    one = collect(asked(place, place=str(there)), place / "one")
    assert written(one) == written(collect(asked(place), place / "other"))


def test_a_student_reads_what_was_collected(place):
    folder = collect(asked(place, compressed=True), place / "corpus")
    told = {
        "tokenizer": tiny_text.tokenizer(),
        "length": 16,
        "seed": 0,
        "prepared": str(place / "prepared"),
    }
    train, held_out = (text(path=str(folder), split=side, **told) for side in collecting.SIDES)
    assert train.rows > 3 * held_out.rows > 0


def test_what_cannot_be_gone_on_with_is_refused(place, monkeypatch):
    folder = collect(asked(place), place / "corpus")
    with pytest.raises(DataError, match=r"was begun with least 2, now it is 3"):
        collect(asked(place, least=3), folder)
    with pytest.raises(DataError, match="none of 230 rows was kept"):
        collect(asked(place, least=9), place / "none")
    for told, wrong in (
        ({"subset": "CC-MAIN-2014-49"}, "--subset"),
        ({"corpus": "openhermes"}, "--score"),
    ):
        with pytest.raises(DataError, match=wrong):
            collect(replace(asked(place), **told), place / "unheeded")
    (place / "mine").mkdir()
    (place / "mine/notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"holds notes\.txt, which is no shard"):
        collect(asked(place), place / "mine")
    with (
        locked(place / "busy", beside(place / "busy"), "Wait."),
        pytest.raises(LimbeckError, match="in use by another"),
    ):
        collect(asked(place), place / "busy")
    with pytest.raises(DataError, match="nowhere"):
        collect(asked(place, place=str(place / "nowhere.jsonl")), place / "absent")


def test_the_command_collects_and_a_dry_run_tells_the_size(place, handlers):
    told = [
        "fetch",
        "fineweb-edu",
        "--source",
        str(place / "origin"),
        "--to",
        str(place / "corpus"),
    ]
    door = CliRunner()
    dry = door.invoke(cli.app, [*told, "--dry-run"])
    size = sum(path.stat().st_size for path in (place / "origin").iterdir())
    assert f"{size:,} bytes at the source" in dry.output
    assert not (place / "corpus").exists()
    done = door.invoke(cli.app, [*told, "--samples", "100", "--score", "4"])
    assert done.exit_code == 0, done.output
    wanted = sum(row["int_score"] >= 4 and bool(row["text"]) for row in rows())
    assert files.verify(place / "corpus").about["kept"] == wanted
    refused = door.invoke(cli.app, ["fetch", "python-docs", "--samples", "5"])
    assert "takes --to alone" in str(refused.exception)


def tried(hub, *more, **environment):
    """The status of a dry run in a process of its own, which is told of the Hub by its environment, and what it said."""
    command = [sys.executable, "-m", "limbeck", "fetch", "fineweb-edu", "--dry-run", *more]
    told = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(command, env={**os.environ, **told, **environment}, capture_output=True)
    return done.returncode, " ".join((done.stdout + done.stderr).decode().split())


def test_a_dry_run_tells_the_bytes_of_a_subset_or_why_not():
    held = {"data/CC-MAIN-2014-49/0.parquet": b"x" * 70, "sample/10BT/0.parquet": b"x" * 30}
    name = collecting.CORPORA["fineweb-edu"].name
    with tiny_hub.serving(held | {"README.md": b"r"}, name=name) as hub:
        assert "70 bytes at the source" in tried(hub)[1]
        assert "30 bytes at the source" in tried(hub, "--subset", "sample-10BT")[1]
        for more, reason in (({}, "none of its 3 files"), ({"HF_HUB_OFFLINE": "1"}, "check the network")):  # fmt: skip
            status, said = tried(hub, "--subset", "CC-MAIN-2014-94", **more)
            assert status == 2
            assert reason in said
            assert "Traceback" not in said
