"""`limbeck doctor` says every finding in words and as JSON, and ends with 2 where there is a fault."""

import json
import subprocess
import sys

import pytest
import tiny_doctor
import typer

from limbeck.doctor import command

WIDE = {
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 4,
    "num_attention_heads": 16,
    "max_position_embeddings": 128,
}


def whole(path):
    return json.loads(path.read_text())


def test_a_fault_ends_a_process_with_2_and_stands_in_words_and_json(tmp_path):
    path, told = tiny_doctor.written(tmp_path), tmp_path / "told.json"
    change = "stages.0.optimizer.betas=[0.9, 1.0]"
    words = ["doctor", str(path), change, "--no-weights", "--json", str(told)]
    done = subprocess.run(
        [sys.executable, "-m", "limbeck", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "fault    recipe     stages[0].optimizer.betas[1]: beta 1.0 found" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("1 fault, ")
    (fault,) = (one for one in whole(told)["findings"] if one["severity"] == "fault")
    assert fault["check"] == "recipe"
    assert fault["found"].startswith("stages[0].optimizer.betas[1]: beta 1.0 found")
    assert whole(told)["counts"]["fault"] == 1


def test_a_sound_recipe_ends_well_and_tells_what_it_looked_at(tmp_path, capsys):
    path, told = tiny_doctor.written(tmp_path), tmp_path / "told.json"
    command.doctor(path, weights=True, json=told)
    assert capsys.readouterr().out.splitlines()[-1].startswith("0 faults, ")
    found = whole(told)
    assert found["recipe"] == str(path)
    assert "fault" not in found["counts"]
    assert found["counts"]["ok"] == sum(one["severity"] == "ok" for one in found["findings"]) > 20
    assert any(one["check"] == "weights" for one in found["findings"])


def test_a_recipe_that_the_system_refuses_is_a_fault_beside_the_packages(tmp_path):
    found = command.examined(tmp_path / ("x" * 300))
    assert found[-1].severity == "fault"
    assert found[-1].found.endswith("File name too long")
    assert {one.check for one in found} == {"packages", "recipe"}


def test_more_processes_take_more_of_one_memory(tmp_path):
    place = tiny_doctor.sound(tmp_path)
    stages = [tiny_doctor.stage(place, rows_per_step=64, micro_rows=64)]
    path = tiny_doctor.written(place, student={"scratch": {"config": WIDE}}, stages=stages)
    (one,), (eight,) = (
        [
            each.found
            for each in command.examined(path, weights=False, ranks=n)
            if each.check == "memory"
        ]
        for n in (1, 8)
    )
    assert " by all of 8 processes of " in eight
    causes = dict(part.split() for part in one.partition("(")[2].rstrip(").").split(", "))
    beside = sum(float(causes[name]) for name in ("activations", "features", "head"))
    first, last = (float(text.split()[1]) for text in (one, eight))
    assert beside > 0.5
    assert last - first == pytest.approx(7 * beside, abs=0.15)  # of figures with two decimals


def test_a_fault_leaves_the_command_with_2(tmp_path):
    path = tiny_doctor.written(tmp_path)
    with pytest.raises(typer.Exit) as ended:
        command.doctor(path, ["student.pruned.layers=9"], weights=False)
    assert ended.value.exit_code == 2
