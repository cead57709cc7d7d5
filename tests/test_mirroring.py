"""A repository is mirrored by patterns, at one commit, through kills, and every file is checked."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
import tiny_hub

from limbeck import files
from limbeck.errors import Damaged

CODE = "import sys; from limbeck import cli; cli.main()"
FILES = {
    "README.md": b"# Texts\n",
    "data/a/0.parquet": bytes(range(256)) * 400,
    "data/a/1.parquet": bytes(reversed(range(256))) * 300,
    "data/b/0.parquet": b"b" * 50_000,
    "odd [1] name.txt": b"odd",
}
LARGE = [name for name in FILES if name.endswith(".parquet")]


def started(hub, place, *more, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", CODE, "mirror", tiny_hub.NAME, "--to", str(place / "mirror"), *more],
        env={
            **os.environ,
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(place / "hf"),
            "HF_HUB_OFFLINE": "0",
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def mirrored(hub, place, *more, **environment):
    """The status, and what was said."""
    process = started(hub, place, *more, **environment)
    said = process.communicate()[0].decode()
    return process.returncode, " ".join(said.split())


def fetched(hub, place, *more):
    status, said = mirrored(hub, place, *more)
    assert status == 0, said
    return said


def held(place):
    folder = place / "mirror"
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    return {
        name: path.read_bytes()
        for name, path in found.items()
        if path.is_file() and name != files.MANIFEST
    }


def test_all_of_a_repository_is_there_once_and_found_again(tmp_path):
    with tiny_hub.serving(FILES, large=LARGE) as hub:
        assert fetched(hub, tmp_path)
        assert held(tmp_path) == FILES
        about = files.verify(tmp_path / "mirror").about
        assert (about["commit"], about["mirror"]["name"]) == (tiny_hub.COMMITS[0], tiny_hub.NAME)
        sent = dict(hub.sent)
        assert fetched(hub, tmp_path)
        assert hub.sent == sent
        assert not [path for path in tmp_path.iterdir() if ".mirror.mirror" in path.name]


def test_patterns_choose_and_a_dry_run_fetches_nothing(tmp_path):
    with tiny_hub.serving(FILES, large=LARGE) as hub:
        chosen = ("--include", "*.parquet", "--exclude", "data/b/*")
        status, said = mirrored(hub, tmp_path, *chosen, "--dry-run")
        assert (status, hub.sent) == (0, {})
        assert f"2 files, {sum(len(FILES[f'data/a/{n}.parquet']) for n in (0, 1)):,} bytes" in said
        assert fetched(hub, tmp_path, *chosen)
        assert set(held(tmp_path)) == {"data/a/0.parquet", "data/a/1.parquet"}
        status, said = mirrored(hub, tmp_path, "--include", "README.md")
        assert status == 2
        assert "Give another folder with --to" in said
        status, said = mirrored(hub, tmp_path / "new", "--include", "*.json")
        assert (status, "none of its 5 files matches --include *.json" in said) == (2, True)


def test_a_name_with_marks_of_patterns_is_one_name(tmp_path):
    with tiny_hub.serving(FILES, large=LARGE) as hub:
        assert fetched(hub, tmp_path, "--include", "odd*")
    assert held(tmp_path) == {"odd [1] name.txt": b"odd"}


NAMES = ["../a", "a/../b", "a\\..\\b", "/etc/a", "a\0b", "a\ud800", "a\nb", "./a", "a//b", ".cache/huggingface/a", "manifest.json"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_that_no_mirror_can_hold_is_told_and_can_be_left_out(tmp_path, name):
    with tiny_hub.serving({"README.md": b"r", name: b"x"}) as hub:
        status, said = mirrored(hub, tmp_path)
        assert (status, hub.sent) == (2, {})
        assert f"{name!a} is not taken" in said
        assert not (tmp_path / "mirror").exists()
        if name.isprintable() and not name.startswith("/"):
            pattern = ".cache/*" if name.startswith(".cache") else name
            assert fetched(hub, tmp_path, "--exclude", pattern)
            assert held(tmp_path) == {"README.md": b"r"}


def test_a_manifest_of_the_repositorys_own_is_checked_as_any_file(tmp_path):
    with tiny_hub.serving(FILES | {"app/manifest.json": b"{}"}) as hub:
        assert fetched(hub, tmp_path)
    (tmp_path / "mirror/app/manifest.json").write_bytes(b"[]")
    with pytest.raises(Damaged, match=r"app/manifest\.json"):
        files.verify(tmp_path / "mirror")


def test_of_two_at_once_one_mirrors_and_the_other_finds_it_or_is_told(tmp_path):
    with tiny_hub.serving(FILES, large=LARGE, delay=0.01) as hub:
        both = [started(hub, tmp_path) for _ in range(2)]
        said = [one.communicate()[0].decode() for one in both]
    assert sorted(one.returncode for one in both) in ([0, 0], [0, 2])
    assert not any("Traceback" in one for one in said)
    assert set(held(tmp_path)) == set(FILES)


def test_killed_it_goes_on_with_the_commit_that_it_began(tmp_path):
    draw = random.Random(5)
    with tiny_hub.serving(FILES, large=LARGE, delay=0.05) as hub:
        kills = 0
        for _ in range(5):
            process, before = started(hub, tmp_path, "--workers", "2"), sum(hub.sent.values())
            while sum(hub.sent.values()) == before and process.poll() is None:
                time.sleep(0.01)
            time.sleep(draw.uniform(0.0, 0.5))
            process.kill()
            process.communicate()
            kills += process.returncode == -signal.SIGKILL
            hub.at = 1  # somebody pushes meanwhile
        assert kills >= 3
        assert not (tmp_path / "mirror").exists()
        hub.delay = 0.0
        status, said = mirrored(hub, tmp_path)
        assert status == 0, said
    assert held(tmp_path) == FILES
    assert files.verify(tmp_path / "mirror").about["commit"] == tiny_hub.COMMITS[0]


def test_a_file_that_is_not_what_the_hub_says_is_refused_and_fetched_again(tmp_path):
    with tiny_hub.serving(FILES, large=LARGE) as hub:
        hub.lie = {"data/b/0.parquet": b"c" * 50_000}
        status, said = mirrored(hub, tmp_path)
        assert status == 2
        assert "data/b/0.parquet: 50,000 bytes, SHA-256" in said
        assert not (tmp_path / "mirror").exists()
        hub.lie = {}
        assert fetched(hub, tmp_path)
    assert held(tmp_path) == FILES


@pytest.mark.parametrize(
    ("more", "environment", "told"),
    [
        (("--kind", "model"), {}, "no model that the Hugging Face Hub gives now"),
        ((), {"HF_HUB_OFFLINE": "1"}, "OfflineModeIsEnabled"),
        ((), {"HF_ENDPOINT": "http://127.0.0.1:9"}, "check the network"),
    ],
)
def test_what_cannot_be_had_is_told(tmp_path, more, environment, told):
    with tiny_hub.serving(FILES) as hub:
        status, said = mirrored(hub, tmp_path, *more, **environment)
    assert status == 2
    assert told in said
    assert "Traceback" not in said
