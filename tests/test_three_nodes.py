"""Three machines record one cache with features; one dies in the middle and comes back: all is there, and once."""

import json
import signal
import subprocess
import sys
import time

import tiny_folder

from limbeck import files
from limbeck.cache.read import CacheReader
from limbeck.featuring import folder

ROWS = 1200
GROUPS = -(-ROWS // 64)


def machine(path, rank):
    """One node's recorder, as a scheduler would start it."""
    command = [sys.executable, "-m", "limbeck", "record", path, "--rank", str(rank), "--world", "3"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def shards(cache):
    return [path for path in (cache / "shards").glob("*") if not path.name.startswith(".")]


def test_a_killed_node_comes_back_and_the_cache_is_whole(tmp_path):
    objective = ["forward_kl", {"feature_mse": {"at": "all"}}]
    tiny_folder.tree(tmp_path)
    lines = [json.dumps({"text": text}) + "\n" for text in tiny_folder.sentences(400, seed=1)]
    (tmp_path / "text" / "train.jsonl").write_text("".join(lines))
    stage = tiny_folder.stage(tmp_path, objective=objective, budget=f"{ROWS // 4} steps")
    teacher = tiny_folder.cached(tmp_path, feature_share=0.5)
    path = tiny_folder.written(tmp_path, teacher=teacher, stages=[stage], control=False)
    cache = tmp_path / "cache"
    victim = machine(path, 1)
    deadline = time.monotonic() + 200
    while not shards(cache):
        assert time.monotonic() < deadline, victim.communicate(timeout=1)
        assert victim.poll() is None, victim.communicate()
        time.sleep(0.002)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    assert 0 < len(shards(cache)) < GROUPS // 3, "it was not in the middle of its work"
    nodes = [machine(path, rank) for rank in range(3)]  # the others, and the one that came back
    told = [node.communicate(timeout=200) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0, 0], told
    taps = [folder(cache, tap) for tap in ("layers.1", "layers.3")]
    readers = [CacheReader(place) for place in (cache, *taps)]
    for reader in readers:
        assert len(reader) == ROWS
        assert all(len(places) == 1 for places in reader._places.values()), "a row stands twice"
    assert set(readers[1].addresses) == set(readers[0].addresses)
    assert not [left for left in cache.rglob(".partial*") if left.is_dir()]
    committed = [manifest.parent for manifest in cache.rglob(files.MANIFEST)]
    assert len(committed) == 3 * GROUPS
    for place in committed:
        files.verify(place)
