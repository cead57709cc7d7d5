"""The recipes of recipes/demi and recipes/slm are planned without a network, with the published sizes, and carried out by tiny models."""

import json
from pathlib import Path

import pytest
import tiny_folder

from limbeck import fitting, judging, loading, run, showing
from limbeck.generating import loaded
from limbeck.generating.prompts import plan
from limbeck.models import load
from limbeck.training import meter

pytestmark = pytest.mark.usefixtures("handlers")
HERE = Path(__file__).parents[1] / "recipes"
# Parameters that a student has, its teacher, tokens a step, terms and their weights.
PLANNED = {
    "demi/output-100m": (134_130_432, None, 65_536, {"cross_entropy": 1.0}),
    "demi/logit-100m": (134_130_432, 6_738_546_688, 65_536, {"forward_kl": 1.0}),
    "demi/hybrid-350m": (369_181_696, 13_016_028_160, 65_536, {"cross_entropy": 0.3, "forward_kl": 0.7}),
    "slm/live": (1_484_916_736, 7_298_617_344, 65_536, {"cross_entropy": 0.5, "forward_kl": 0.5}),
    "slm/cached": (1_484_916_736, 7_298_617_344, 65_536, {"cross_entropy": 0.5, "forward_kl": 0.5}),
}  # fmt: skip


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", PLANNED)
def test_each_is_planned_without_a_network(name, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    student, teacher, tokens, weights = PLANNED[name]
    recipe = fitting.check(loading.load(HERE / f"{name}.yaml"))
    showing.show(recipe)
    said = " ".join(capsys.readouterr().out.split())
    assert f"│ student │ {student:,} parameters" in said or f": {student:,} parameters" in said
    assert teacher is None or f": {teacher:,} parameters" in said
    assert f"steps of {tokens:,}" in said
    (stage,) = recipe.stages
    assert {term.title: pytest.approx(term.weight) for term in stage.terms} == weights


def changes(place, name):
    """What makes a recipe a tiny one."""
    tiny_folder.tree(place)
    teacher = str(place / "teacher")
    found = {
        "stages.0.source": json.dumps(tiny_folder.talk(place)),
        "evaluate.source": json.dumps(tiny_folder.talk(place, split="held_out")),
        "stages.0.budget": "60 steps",
        "stages.0.rows_per_step": 4,
        "stages.0.micro_rows": 2,
        "stages.0.optimizer.learning_rate": 0.01,
        "checkpoints.every": 30,
        "checkpoints.held_out_rows": 4,
        "evaluate.rows": 8,
        "compute.device": "cpu",
        "compute.dtype": "float32",
        "compute.threads": 1,
        "runs": place / "runs",
        "log_every": 1,
    }
    if name.startswith("demi"):
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
        heads = {
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "vocab_size": tiny_folder.VOCAB,
        }
        found |= {f"student.scratch.config.{key}": value for key, value in (sizes | heads).items()}
    else:
        found["student.pretrained.model"] = tiny_folder.teacher(place / "student", layers=2, seed=3)
    if name == "demi/output-100m":
        return found | {"tokenizer": teacher}
    if name == "slm/cached":
        return found | {"teacher.cached.model": teacher, "teacher.cached.path": place / "cache"}
    return found | {"teacher.live.model": teacher}


@pytest.mark.parametrize("name", PLANNED)
def test_each_is_carried_out_by_tiny_models(name, tmp_path):
    overrides = [f"{key}={value}" for key, value in changes(tmp_path, name).items()]
    recipe = fitting.check(loading.load(HERE / f"{name}.yaml", overrides))
    run.carry_out(recipe)
    folder = tiny_folder.folder(recipe)
    lines = meter.read(folder.log)
    log = [line for line in lines if "held_out" not in line]
    assert len(log) == 60
    assert (len(lines) > 60) == name.startswith("slm")  # looked at on the way
    assert set(log[-1]["terms"]) == set(PLANNED[name][3])
    assert log[-1]["loss"] < 0.8 * log[0]["loss"]
    figures = judging.read(folder)["bits_per_byte"]
    assert figures["student"]["bits_per_byte"] > 0
    assert ("control" in figures) == (name != "demi/output-100m")
    assert load.load_config(str(folder.export)).num_hidden_layers == 2


def test_the_prompts_of_demi_are_of_eight_categories_and_languages():
    found = plan(loaded.load(HERE / "generate/demi.yaml"))
    for key in ("category", "language"):
        values = [one.prompt.beside[key] for one in found.wanted]
        counts = {value: values.count(value) for value in values}
        assert len(counts) == 8
        assert min(counts.values()) > 300
    assert found.prompts == 3000
    assert found.double == 0
