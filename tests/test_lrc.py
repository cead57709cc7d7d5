"""The recipes of recipes/lrc are planned without a network, with the published sizes, and carried out by tiny models."""

import json
from pathlib import Path

import pytest
import tiny_folder

from limbeck import fitting, linking, loading, run, showing
from limbeck.models import load
from limbeck.training.links import Tied

pytestmark = pytest.mark.usefixtures("handlers")
RECIPES = {path.stem: path for path in Path(__file__).parents[1].glob("recipes/lrc/*.yaml")}
# Parameters that are deployed and trained, tokens a step, the weight of the clone's terms, blocks.
LARGE = {
    "llama-1.5b": (1_606_374_912, 929_650_176, 49_152, 0.2, 28),
    "qwen-1.7b": (1_808_205_360, 621_860_400, 32_768, 0.5, 36),
    "qwen-4b": (4_351_836_160, 1_446_103_040, 32_768, 0.5, 28),
}
CLONE = [
    "attention-query",
    "attention-key",
    "attention-value",
    "attention-out",
    "mlp-gate",
    "mlp-up",
    "mlp-out",
]


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", LARGE)
def test_each_is_planned_without_a_network(name, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    deployed, trained, tokens, weight, blocks = LARGE[name]
    recipe = fitting.check(loading.load(RECIPES[name]))
    showing.show(recipe)
    said = " ".join(capsys.readouterr().out.split())
    assert f"deployed │ {deployed:,} parameters" in said
    assert f"trained / frozen │ {trained:,} / " in said
    assert f"steps of {tokens:,}" in said
    stage = recipe.stages[0]
    assert [term.title for term in stage.terms] == ["cross_entropy", "forward_kl", *CLONE]
    assert {term.weight for term in stage.terms if term.title in CLONE} == {weight}
    assert stage.terms[1].weight == pytest.approx(2048 / 40**2)
    tied = [one for one in linking.functions(recipe, stage) if isinstance(one, Tied)]
    assert {len(one.joints) for one in tied} == {blocks}
    assert f"trained / frozen │ {deployed:,} / 0" in said  # the fine-tuning, of the merged student
    tune = recipe.stages[1]
    assert (tune.merged, tune.optimizer.learning_rate, tune.source.name) == (True, 1e-5, "chat")


@pytest.mark.parametrize("name", ["llama-1.5b", "smollm2"])
def test_each_is_carried_out_by_tiny_models(name, tmp_path):
    tiny_folder.tree(tmp_path)
    source = {
        "path": tmp_path / "text",
        "length": 16,
        "separator": "eos",
        "prepared": tmp_path / "prepared",
    }
    changes = {
        "teacher.live.model": tmp_path / "teacher",
        "student.low_rank_clone.width": 16,
        **{f"stages.0.source.text.{key}": value for key, value in source.items()},
        "evaluate.source": json.dumps(
            {
                "text": {
                    **{key: str(value) for key, value in source.items()},
                    "length": 16,
                    "split": "held_out",
                }
            }
        ),
        "evaluate.rows": 4,
        "evaluate.prompt": "null",
        "stages.0.budget": "4 steps",
        "compute.device": "cpu",
        "compute.dtype": "float32",
        "compute.threads": 1,
        "control": "false",
        "runs": tmp_path / "runs",
    }
    if name in LARGE:
        changes |= {
            "stages.1.source": json.dumps(tiny_folder.talk(tmp_path)),
            "stages.1.budget": "2 steps",
            "stages.1.rows_per_step": 2,
        }
    overrides = [f"{key}={value}" for key, value in changes.items()]
    recipe = fitting.check(loading.load(RECIPES[name], overrides))
    run.carry_out(recipe)
    folder = tiny_folder.folder(recipe)
    log = [json.loads(line) for line in folder.log.read_text().splitlines()]
    terms = [line["terms"] for line in log if line["stage"] == "clone"]
    assert set(terms[-1]) == {"cross_entropy", "forward_kl", *CLONE}
    assert min(terms[-1].values()) > 0
    assert load.load_config(str(folder.export)).hidden_size == 16
