"""kill -9 at any moment changes no byte of what a run leaves, and no changed byte passes for good."""

import itertools
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_folder
import yaml

from limbeck import files
from limbeck.cache.format import SHARDS, read_about
from limbeck.errors import Damaged
from limbeck.training import meter

# A loaded machine takes its time; the runner's own limit is for tests of one breath.
pytestmark = pytest.mark.timeout(1200)

STEPS, KILLS = 24, 20
SOON = 1e-4
"""Seconds; 0 would be never."""
SERVER = Path(__file__).parent / "fork_server.py"
# Files up to this size are flipped at every byte, larger ones at every byte of a stride that is no power of two.
WHOLLY, STRIDE = 65_536, 997


class Server:
    """The forking process beside the test."""

    def __init__(self, said):
        self.said = said
        self.process = subprocess.Popen(
            [sys.executable, SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said,
            text=True,
        )  # fmt: skip
        assert self.process.stdout.readline() == "ready\n"

    def run(self, recipe, seconds=0.0, after="."):
        """How one attempt ended: whether it was killed, so long after something lay in a folder of its home.

        One that fails by itself fails the test.
        """
        self.process.stdin.write(f"{seconds} {after} {recipe}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        assert answer in ("killed", "ended 0"), Path(self.said.name).read_text()[-3000:]
        return answer == "killed"

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("killed")


@pytest.fixture(scope="module")
def server(place):
    with (place / "said").open("w") as said:
        found = Server(said)
        yield found
        found.close()


def recipe(place, name):
    """The recipe of a run with a cache, a prepared text and a folder of its own; teacher and text are shared."""
    home = place / name
    home.mkdir()
    prepared = {"prepared": str(home / "prepared")}
    stage = tiny_folder.stage(
        place, source=tiny_folder.source(place, **prepared), rows_per_step=8, micro_rows=4,
        budget=f"{STEPS} steps",
    )  # fmt: skip
    held_out = tiny_folder.source(place, split="held_out", **prepared)
    tree = tiny_folder.tree(
        place,
        teacher=tiny_folder.cached(place, path=str(home / "cache"), k=4),
        stages=[stage],
        checkpoints={"every": 2},
        evaluate={"source": held_out, "rows": 8},
        runs=str(home / "runs"),
    )
    (home / "recipe.yaml").write_text(yaml.safe_dump(tree))
    return home / "recipe.yaml"


def arms(home):
    return [home / "runs/tiny", home / "runs/tiny/control"]


def last(arm):
    return arm / f"stages/1-distil/checkpoints/{STEPS:06d}"


def trained(home):
    return all(last(arm).is_dir() for arm in arms(home))


def reached(home):
    """How far a run came: the part of it that is the last to have left something."""
    if any((home / "runs/tiny/control/stages").rglob("state.json")):
        return "control"
    if any((home / "runs/tiny/stages").rglob("state.json")):
        return "student"
    return "recording" if any((home / "cache" / SHARDS).glob("[!.]*")) else "beginning"


def left_by_training(home):
    """Every byte of the cache, the prepared text and the final checkpoints."""
    found = {
        f"{part}/{name}": raw
        for part in ("cache", "prepared")
        for name, raw in tiny_folder.contents(home / part).items()
        if not name.partition(".partial-")[1]
    }
    for arm in arms(home):
        found |= {
            f"{arm.name} {name}": raw for name, raw in tiny_folder.contents(last(arm)).items()
        }
    return found


def models(home):
    return [(arm / "export/model.safetensors").read_bytes() for arm in arms(home)]


@pytest.fixture(scope="module")
def undisturbed(place, server):
    """The home of a run that nobody killed, and seconds: to its first shard, its first checkpoint, its training's end."""
    path, begun = recipe(place, "undisturbed"), time.time()
    assert not server.run(path)
    home = path.parent
    left = [
        (home / "cache" / SHARDS).glob("[!.]*"),
        (home / "runs/tiny/stages").rglob("state.json"),
    ]
    firsts = [min(found.stat().st_mtime for found in some) - begun for some in left]
    return home, (*firsts, last(arms(home)[1]).stat().st_mtime - begun)


def test_a_run_killed_at_any_moment_leaves_the_same_bytes(place, server, undisturbed):
    home, (shard, checkpoint, seconds) = undisturbed
    wanted, moments = left_by_training(home), random.Random(0)
    assert len([name for name in wanted if name.endswith("rows.safetensors")]) == 3
    fresh = itertools.count()
    phases, path = [], recipe(place, f"killed-{next(fresh)}")
    every = {"recording", "student", "control"}
    while len(phases) < KILLS or (not every <= set(phases) and len(phases) < 4 * KILLS):
        # Recording is short, and a busy machine makes nothing of times from the start: a new run is killed between
        # its first shard, which is waited for, and its first checkpoint. One that goes on has a start to repeat, so
        # a part of the whole is enough to come further.
        if (path.parent / "cache").exists():
            server.run(path, moments.uniform(0.02 * seconds, 0.4 * seconds))
        else:
            server.run(path, moments.uniform(SOON, checkpoint - shard), f"cache/{SHARDS}")
        if trained(path.parent):  # too late to count; the next kill meets a new run
            assert left_by_training(path.parent) == wanted
            path = recipe(place, f"killed-{next(fresh)}")
            continue
        phases.append(reached(path.parent))
        if len(phases) % 5 == 0 and "recording" not in phases:
            path = recipe(place, f"killed-{next(fresh)}")
    assert every <= set(phases), phases
    assert not server.run(path)
    assert left_by_training(path.parent) == wanted
    assert models(path.parent) == models(home)
    assert not list(path.parent.rglob(".partial-*"))
    for arm in arms(path.parent):
        assert [line["step"] for line in meter.read(arm / "log.jsonl")] == list(range(1, STEPS + 1))


def test_a_run_killed_while_it_exports_and_evaluates_ends_as_if_it_was_not(
    place, server, undisturbed
):
    home, _ = undisturbed
    path = recipe(place, "exported")
    for part in ("cache", "prepared", "runs"):
        shutil.copytree(home / part, path.parent / part)
    run = path.parent / "runs/tiny"
    (run / "recipe.yaml").unlink()
    (run / "control/recipe.yaml").unlink()
    for folder in (run / "export", run / "control/export", run / "evaluation"):
        shutil.rmtree(folder)
    for seconds in (0.8, 1.6, 2.4):
        server.run(path, seconds)
    assert not server.run(path)
    assert models(path.parent) == models(home)
    written = {file.name for file in (run / "evaluation").iterdir()}
    assert written == {file.name for file in (home / "runs/tiny/evaluation").iterdir()}
    assert "KL to the teacher" in (run / "export/README.md").read_text()
    assert not list(path.parent.rglob(".partial-*"))


def flipped(path, at):
    """Changes one bit of a byte in its place; doing it again puts the byte back."""
    with path.open("r+b", buffering=0) as stream:
        stream.seek(at)
        (byte,) = stream.read(1)
        stream.seek(at)
        stream.write(bytes([byte ^ (1 << at % 8)]))


@pytest.mark.parametrize(
    "find",
    [
        pytest.param(lambda home: min((home / "cache" / SHARDS).iterdir()), id="shard"),
        pytest.param(lambda home: last(arms(home)[0]), id="checkpoint"),
        pytest.param(lambda home: arms(home)[0] / "export", id="export"),
    ],
)
def test_every_flipped_byte_of_a_committed_folder_is_refused_by_the_name_of_its_file(
    undisturbed, find
):
    folder = find(undisturbed[0])
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    assert len(paths) >= 3
    for path in paths:
        size = path.stat().st_size
        for at in range(0, size, 1 if size <= WHOLLY else STRIDE):
            flipped(path, at)
            with pytest.raises(Damaged) as caught:
                files.verify(folder)
            assert str(path) in str(caught.value), (path, at)
            flipped(path, at)
    files.verify(folder)


def test_every_flipped_byte_of_what_a_cache_says_of_itself_is_refused(undisturbed):
    path = undisturbed[0] / "cache/cache.json"
    for at in range(path.stat().st_size):
        flipped(path, at)
        with pytest.raises(Damaged, match=r"cache\.json"):
            read_about(path.parent)
        flipped(path, at)
    read_about(path.parent)
