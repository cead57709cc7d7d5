"""Adapters on a real model: what is exported computes what was trained, and only the chosen weights have moved."""

import copy
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_folder
import torch
from safetensors.torch import load_file, save_file

from limbeck import assembly, fitting, loading, run

MODEL = Path(__file__).parents[1] / "models/SmolLM2-135M-Instruct"
TARGETS = ("q_proj", "v_proj")
LAYERS, STEPS = 30, 3

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (MODEL / "model.safetensors").is_file(),
        reason=f"no {MODEL.name} in models/: limbeck fetch smollm2",
    ),
]
LOGITS = """
import sys, torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float64).eval()
with torch.no_grad():
    found = model(load_file(sys.argv[2])["ids"], use_cache=False).logits
save_file({"logits": found.contiguous()}, sys.argv[3])
"""


def tree(place, quantise):
    options = {"model": str(MODEL), "rank": 8, "targets": list(TARGETS), "quantise": quantise}
    if not (place / "text").exists():
        tiny_folder.corpus(place / "text")
    return {
        "name": f"real-{quantise}",
        "teacher": {"live": {"model": str(MODEL)}},
        "student": {"adapters": options},
        "stages": [
            {
                "name": "distil",
                "source": tiny_folder.source(place, length=64),
                "objective": [
                    {"cross_entropy": {"weight": 0.5}},
                    {"forward_kl": {"weight": 0.5}},
                ],
                "budget": f"{STEPS} steps",
                "rows_per_step": 2,
                "micro_rows": 2,
                "optimizer": {"learning_rate": 5e-4, "schedule": "constant", "warmup_ratio": 0.0},
            }
        ],
        "compute": {"device": "cpu", "dtype": "float32"},
        "runs": str(place / "runs"),
    }


@pytest.fixture(scope="module", params=["none", "nf4"])
def trained(request, tmp_path_factory):
    """(folder of a run that was carried out, its live student with what was trained, ids (batch, time))."""
    if request.param != "none" and importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed: pip install 'limbeck[qlora]'")
    place = tmp_path_factory.mktemp("real")
    recipe = fitting.check(loading.build(copy.deepcopy(tree(place, request.param))))
    run.carry_out(recipe)
    folder, base = tiny_folder.folder(recipe), assembly.ground(recipe)
    student = assembly.student(base).eval()
    with torch.no_grad():
        for name, tensor in tiny_folder.weights(folder, STEPS).items():
            student.get_parameter(name.removeprefix("student.")).copy_(tensor)
    ids = assembly.stage_source(base, recipe.stages[0]).batch([0, 1]).input_ids
    return folder, student, ids


def in_a_fresh_process(model, ids, place):
    """Logits (batch, time, vocab) of a folder that AutoModelForCausalLM loads, without a line of ours.

    In float64: what is compared is the weights, and not in which order float32 sums are taken.
    """
    save_file({"ids": ids.contiguous()}, place / "ids.safetensors")
    subprocess.run(
        [sys.executable, "-c", LOGITS, model, place / "ids.safetensors", place / "found"],
        check=True,
        cwd=place,
    )
    return load_file(place / "found")["logits"]


def test_the_export_computes_what_was_trained_and_not_what_was_there_before(
    trained, tmp_path, capsys
):
    folder, student, ids = trained
    with torch.no_grad():
        wanted = student.double()(ids, use_cache=False).logits
    found = in_a_fresh_process(folder.export, ids, tmp_path)
    before = in_a_fresh_process(MODEL, ids, tmp_path)
    off, moved = (found - wanted).abs().max(), (found - before).abs().max()
    with capsys.disabled():
        print(
            f"\n{folder.path.name}: largest difference of logits {off:.2e} to the trained adapters, "
            f"{moved:.2e} to the untouched model, among logits up to {wanted.abs().max():.0f}"
        )
    assert off <= 1e-4
    assert moved > 0.5


def test_adapters_of_rank_8_are_on_the_chosen_targets_and_nowhere_else(trained):
    folder, student, _ = trained
    kept = tiny_folder.weights(folder, STEPS)
    assert len(kept) == LAYERS * len(TARGETS) * 2
    for name, tensor in kept.items():
        assert any(f".{target}.lora_" in name for target in TARGETS), name
        assert tensor.shape[0 if "lora_A" in name else 1] == 8, name
        assert tensor.abs().max() > 0, f"{name} was not trained"
    offered = {n for n, parameter in student.named_parameters() if parameter.requires_grad}
    assert {f"student.{name}" for name in offered} == set(kept)


def test_no_other_weight_is_changed_by_training_and_merging(trained):
    folder, _, _ = trained
    before = load_file(MODEL / "model.safetensors")
    after = load_file(folder.export / "model.safetensors")
    assert after.keys() == before.keys()
    quantised = folder.path.name.endswith("nf4")
    for name, tensor in before.items():
        target = any(f".{one}." in name for one in TARGETS)
        held = quantised and "_proj." in name
        assert torch.equal(after[name], tensor.float()) != (target or held), name
