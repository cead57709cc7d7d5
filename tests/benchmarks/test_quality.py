"""The benchmarks of what a cache is worth run at tiny sizes and write nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "said"),
    [("quality", "top 64 and rest"), ("recording", "topk+rest"), ("sampling", "rs")],
)
def test_it_runs_at_tiny_sizes_and_leaves_the_results_alone(name, said):
    folder = HERE / "benchmarks/results"
    before = {path: path.stat().st_mtime_ns for path in folder.glob(f"{name}*")}
    done = subprocess.run(
        [sys.executable, str(HERE / f"benchmarks/{name}.py"), "--quick"],
        capture_output=True,
        text=True,
        cwd=HERE,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert said in done.stdout
    assert before == {path: path.stat().st_mtime_ns for path in folder.glob(f"{name}*")}
