"""Real models on the nine tasks of Low-Rank Clone and on WikiText-2: what the door writes is what lm_eval prints by hand."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_text

from limbeck.evaluation import _tasks

HERE = Path(__file__).parents[2]
MODELS = {
    "stories15M": HERE.parent / "shared/models/stories15M",
    "SmolLM2": HERE / "models/SmolLM2-135M-Instruct",
}
LIMIT = "2"


def called(*words):
    quiet = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *map(str, words)],
        env=os.environ | quiet | {"PYTHONPATH": str(HERE)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_real_model_has_what_lm_eval_gives_it_by_hand(name, tmp_path):
    pytest.importorskip("lm_eval", reason="lm-eval is not installed (limbeck[harness])")
    data, model = tiny_text.shared("mmlu").parent, MODELS[name]
    if not model.is_dir():
        pytest.skip(f"{model.name} is not here")
    # SciQ, the ninth, is not among the shared rows.
    nine = [task for task in _tasks.GROUPS["lrc9"] if (data / task).is_dir()]
    lacking = ",".join(set(_tasks.GROUPS["lrc9"]) - set(nine))
    left = ["--without", lacking] if lacking else []
    ours = tmp_path / "ours"
    printed = called(
        *("limbeck", "evaluate", model, "--tasks", "lrc9,wikitext", *left, "--data", data),
        *("--limit", LIMIT, "--device", "cpu", "--dtype", "float32", "--to", ours),
    )
    called(
        *("lm_eval", "run", "--model", "hf", "--model_args", f"pretrained={model},dtype=float32"),
        *("--include_path", ours / "tasks", "--tasks", ",".join([*nine, "wikitext"])),
        *("--limit", LIMIT, "--device", "cpu", "--output_path", tmp_path / "hand.json"),
    )
    (told,) = tmp_path.glob("hand_*.json")
    theirs = json.loads(told.read_text())["results"]
    seen = 0
    for task in [*nine, "wikitext"]:
        kept = json.loads((ours / f"{task}.limit-{LIMIT}.json").read_text())
        for part, figures in {task: kept["models"]["model"], **kept["parts"]["model"]}.items():
            for figure, value in figures.items():
                metric, _, error = figure.partition("_stderr")
                wanted = theirs[part][f"{figure},none"]
                # What is counted is equal to the last bit; sums of float32 logits in another order to 6 digits.
                same = value == wanted if "acc" in metric else value == pytest.approx(wanted, 1e-6)
                assert same, (part, figure, value, wanted, error)
                seen += 1
    assert seen > 100
    assert "lrc9" in printed
