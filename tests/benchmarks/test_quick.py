"""Benchmarks run at tiny sizes, where each first sees that both ways give the same."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parents[2]
PEERS = {
    "attention": (),
    "data": ("trl", "datasets"),
    "decode": (),
    "device": (),
    "evaluation": ("lm_eval",),
    "head": (),
    "mohawk_step": (),
    "step": (),
    "startup": (),
    "prepare": (),
    "quality": (),
    "recording": (),
    "sampling": (),
}


# What make test runs; each is a process that takes seconds to begin. The others are for make test-slow.
OFTEN = ("head", "prepare", "startup", "step")
EACH = [name if name in OFTEN else pytest.param(name, marks=pytest.mark.slow) for name in PEERS]


@pytest.mark.parametrize("name", EACH)
def test_a_benchmark_runs_at_tiny_sizes_and_writes_nothing(name):
    for peer in PEERS[name]:
        if importlib.util.find_spec(peer) is None:
            pytest.skip(f"{peer} is not installed")
    results = HERE / "benchmarks/results"
    before = {path: path.stat().st_mtime_ns for path in results.iterdir()}
    done = subprocess.run(
        [sys.executable, str(HERE / f"benchmarks/{name}.py"), "--quick"],
        capture_output=True,
        text=True,
        cwd=HERE,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "┃" in done.stdout, "no table was printed"
    assert before == {path: path.stat().st_mtime_ns for path in results.iterdir()}
