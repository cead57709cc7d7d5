"""The benchmarks run at small sizes and compare the same thing; what they say of the start is so."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parents[1]


def loaded(name, monkeypatch):
    place = HERE / f"benchmarks/{name}.py"
    spec = importlib.util.spec_from_file_location(name, place)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def test_every_layout_of_a_cache_is_read_and_ours_is_near(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE / "benchmarks"))
    codec = loaded("codec", monkeypatch)
    with torch.no_grad():
        rows = codec.measured(codec.random(1024, 300, 64), 1024, 1)
    lost = {row["layout"]: row["error, nats"] for row in rows}
    assert set(lost) >= {"sample", "rs", codec.OURS, "hidden8", "kl-vector code8", "parquet, flat"}
    assert lost[codec.OURS] < 2e-4
    assert lost["topk+rest float32"] < 1e-6
    assert lost["sample"] < 1e-4


@pytest.mark.parametrize("command", [["--help"], ["list"], ["train", "--help"]])
def test_a_door_opens_without_torch(command):
    code = (
        "import sys; from limbeck.cli import app; app(sys.argv[1:], standalone_mode=False); "
        "sys.exit(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
