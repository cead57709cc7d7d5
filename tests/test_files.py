"""What is committed is whole or refused, whatever happens to its bytes."""

import os
import shutil
import signal
import subprocess
import sys

import pytest

from limbeck import files
from limbeck.errors import Damaged, LimbeckError


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "kept"
    with files.committed(place, {"step": 3}) as partial:
        (partial / "one.bin").write_bytes(bytes(range(40)))
        (partial / "inner").mkdir()
        (partial / "inner" / "two.txt").write_text("weights\n")
    return place


def everything(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_committed_folder_opens_and_tells_what_was_said_of_it(folder):
    manifest = files.verify(folder)
    assert manifest.about == {"step": 3}
    assert sorted(manifest.files) == ["inner/two.txt", "one.bin"]


def test_each_flipped_bit_of_each_file_is_refused_by_name(folder):
    for path in everything(folder):
        whole = path.read_bytes()
        for index in range(len(whole)):
            for bit in range(8):
                changed = bytearray(whole)
                changed[index] ^= 1 << bit
                path.write_bytes(changed)
                with pytest.raises(Damaged) as caught:
                    files.verify(folder)
                assert path.name in str(caught.value)
        path.write_bytes(whole)
    files.verify(folder)


def test_truncation_at_every_length_is_refused_by_name(folder):
    for path in everything(folder):
        whole = path.read_bytes()
        for length in range(len(whole)):
            path.write_bytes(whole[:length])
            with pytest.raises(Damaged, match=path.name):
                files.verify(folder)
        path.write_bytes(whole)


@pytest.mark.parametrize("more", [b"\0", b"\n", b"x" * 4096])
def test_appended_bytes_are_refused_by_name(folder, more):
    for path in everything(folder):
        whole = path.read_bytes()
        path.write_bytes(whole + more)
        with pytest.raises(Damaged, match=path.name):
            files.verify(folder)
        path.write_bytes(whole)


def test_a_missing_file_is_refused_by_name(folder):
    (folder / "one.bin").unlink()
    with pytest.raises(Damaged, match=r"one\.bin is missing"):
        files.verify(folder)


def test_an_extra_file_is_refused_by_name(folder):
    (folder / "inner" / "three.txt").write_text("")
    with pytest.raises(Damaged, match=r"three\.txt"):
        files.verify(folder)


def test_a_manifest_further_down_is_a_file_as_any_other(tmp_path):
    place = tmp_path / "kept"
    with files.committed(place) as partial:
        (partial / "inner").mkdir()
        (partial / "inner" / files.MANIFEST).write_text("{}")
    assert list(files.verify(place).files) == [f"inner/{files.MANIFEST}"]
    (place / "inner" / files.MANIFEST).write_text("[]")
    with pytest.raises(Damaged, match="inner/manifest"):
        files.verify(place)


def test_a_link_to_the_same_bytes_is_refused(folder, tmp_path):
    shutil.move(folder / "one.bin", tmp_path / "elsewhere")
    (folder / "one.bin").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Damaged, match=r"one\.bin"):
        files.verify(folder)


def test_a_linked_folder_of_the_same_bytes_is_refused(folder, tmp_path):
    shutil.move(folder / "inner", tmp_path / "elsewhere")
    (folder / "inner").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Damaged, match="inner"):
        files.verify(folder)


def test_two_swapped_files_are_refused(folder):
    one, two = folder / "one.bin", folder / "inner" / "two.txt"
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    with pytest.raises(Damaged):
        files.verify(folder)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]\n",
        b"null\n",
        b'{"size":1e999}\n',
        b'{"size":NaN}\n',
        b'{"a":1,"a":1}\n',
        b'{"a":"\\ud800"}\n',
        b'{"a":' + b"9" * 5000 + b"}\n",
        b"[" * 200_000,
        b"\xff\xfe",
    ],
    ids=range(11),
)
def test_a_manifest_of_anything_else_is_refused_by_name(folder, raw):
    (folder / files.MANIFEST).write_bytes(raw)
    with pytest.raises(Damaged, match=r"manifest\.json"):
        files.verify(folder)


def test_a_manifest_of_another_format_is_refused_with_both_formats(folder):
    body = files.parse_sealed((folder / files.MANIFEST).read_bytes(), "here")
    (folder / files.MANIFEST).write_bytes(files.sealed(body | {"format": 7}))
    with pytest.raises(Damaged, match=r"format 7 found, this program reads 1"):
        files.verify(folder)


@pytest.mark.parametrize(
    "body",
    [
        {"about": {}},
        {"about": [], "files": {}},
        {"about": {}, "files": ["one.bin"]},
        {"about": {}, "files": {"one.bin": {}}},
        {"about": {}, "files": {"one.bin": {"size": "3", "sha256": "a"}}},
        {"about": {}, "files": {"one.bin": {"size": 3, "sha256": None}}},
    ],
    ids=str,
)
def test_a_manifest_that_agrees_with_itself_and_lists_nothing_is_refused(folder, body):
    (folder / files.MANIFEST).write_bytes(files.sealed({"format": 1, **body}))
    with pytest.raises(Damaged, match=r"manifest\.json: its keys are .*; wanted about, and files"):
        files.verify(folder)


def test_a_folder_without_manifest_was_never_committed(folder):
    (folder / files.MANIFEST).unlink()
    with pytest.raises(Damaged, match="never committed"):
        files.verify(folder)


def test_an_error_while_writing_leaves_nothing(tmp_path):
    def fail():
        with files.committed(tmp_path / "kept") as partial:
            (partial / "one.bin").write_bytes(b"1")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_what_is_committed_is_never_written_over(folder):
    before = (folder / "one.bin").read_bytes()
    with pytest.raises(LimbeckError, match="never written over"), files.committed(folder):
        pass
    assert (folder / "one.bin").read_bytes() == before


def test_the_slower_of_two_writers_leaves_the_faster_ones_folder(tmp_path):
    place = tmp_path / "kept"

    def slower():
        with files.committed(place) as partial:
            (partial / "one.bin").write_bytes(b"slow")
            place.mkdir()
            (place / "one.bin").write_bytes(b"fast")

    with pytest.raises(LimbeckError, match="another process"):
        slower()
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (place / "one.bin").read_bytes() == b"fast"


# Kills itself at the n-th call of fsync, rename or write; prints DONE when there were fewer.
_SELF_KILL = """
import os, signal, sys
from pathlib import Path
from limbeck import files
left = int(sys.argv[2])
def counted(call):
    def wrapped(*args, **options):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **options)
    return wrapped
os.fsync, os.rename, os.replace = counted(os.fsync), counted(os.rename), counted(os.replace)
os.mkdir = counted(os.mkdir)
with files.committed(Path(sys.argv[1])) as partial:
    (partial / "one.bin").write_bytes(b"1" * 100)
    (partial / "two.bin").write_bytes(b"2" * 100)
print("DONE")
"""


def test_a_writer_killed_at_any_call_leaves_a_whole_folder_or_none(tmp_path):
    absent = whole = 0
    for calls in range(30):
        place = tmp_path / "kept"
        run = subprocess.run(
            [sys.executable, "-c", _SELF_KILL, str(place), str(calls)],
            capture_output=True,
            check=False,
        )
        if place.exists():
            files.verify(place)
            whole += 1
        else:
            assert run.returncode == -signal.SIGKILL
            absent += 1
        files.sweep_abandoned(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] in ([], ["kept"])
        shutil.rmtree(place, ignore_errors=True)
        if b"DONE" in run.stdout:
            break
    assert b"DONE" in run.stdout
    assert absent >= 5
    assert whole >= 1


def test_a_killed_rewrite_leaves_the_old_bytes(tmp_path):
    path = tmp_path / "note.json"
    files.write_json(path, {"old": 1})
    partial = tmp_path / ".partial-1-note.json"
    partial.write_bytes(b'{"ne')
    assert files.read_json(path) == {"old": 1}
    files.sweep(tmp_path)
    assert [left.name for left in tmp_path.iterdir()] == ["note.json"]


def test_sweeping_spares_what_a_living_process_writes(tmp_path):
    child = subprocess.Popen(["sleep", "60"])
    with files.committed(tmp_path / "mine") as partial:
        name = partial.name
    ours = f".partial-{os.getpid()}-"
    living = tmp_path / name.replace(ours, f".partial-{child.pid}-")
    living.mkdir()
    files.sweep_abandoned(tmp_path)
    assert living.is_dir()
    child.kill()
    child.wait()
    files.sweep_abandoned(tmp_path)
    assert not living.exists()


def test_sweeping_spares_another_machines_work_for_a_day(tmp_path):
    theirs = tmp_path / ".partial-1-00000000-shard"
    theirs.mkdir()
    files.sweep_abandoned(tmp_path)
    assert theirs.is_dir()
    long_ago = theirs.stat().st_mtime - 100_000
    os.utime(theirs, (long_ago, long_ago))
    files.sweep_abandoned(tmp_path)
    assert not theirs.exists()


def test_canonical_json_has_one_spelling():
    assert files.canonical({"b": 1, "a": "é"}) == '{"a":"é","b":1}\n'.encode()
    with pytest.raises(ValueError, match="JSON"):
        files.canonical({"a": float("nan")})
