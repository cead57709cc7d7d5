"""The whole run on tiny parts, from text to report: right, safe to repeat, and better than its control."""

import contextlib
import json
import os
import signal
import subprocess
import sys

import pytest
import tiny_folder
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from limbeck import again, assembly, fitting, judging, loading, run
from limbeck.errors import Damaged, LimbeckError
from limbeck.folder import owned
from limbeck.recipe import Part
from limbeck.training import meter
from limbeck.verifying import verify

pytestmark = pytest.mark.usefixtures("handlers")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("journey")


@pytest.fixture(scope="module")
def finished(place):
    """The folder of a whole run: cached teacher, pruned student, control, evaluation."""
    asked = tiny_folder.recipe(place)
    run.carry_out(asked)
    return tiny_folder.folder(asked)


def test_a_student_is_nearer_to_its_teacher_than_its_control(finished):
    figures = judging.read(finished)["agreement"]
    student, control = (figures[arm]["kl_to_teacher"] for arm in ("student", "control"))
    # 0.35 against 2.71 nats when this was written.
    assert student < 0.5 * control
    assert figures["teacher"]["kl_to_teacher"] == pytest.approx(0, abs=1e-6)


def test_a_control_is_better_at_the_text_that_a_random_teacher_knows_nothing_of(finished):
    bits = judging.read(finished)["bits_per_byte"]
    assert bits["control"]["bits_per_byte"] < 0.8 * bits["teacher"]["bits_per_byte"]


def test_everything_that_a_run_promises_is_there(finished):
    for arm in (finished, finished.control):
        assert [line["step"] for line in meter.read(arm.log)] == list(
            range(1, tiny_folder.STEPS + 1)
        )
        assert len(list(arm.checkpoints(0, "distil").iterdir())) == 2
        assert AutoModelForCausalLM.from_pretrained(arm.export).config.num_hidden_layers == 2
    written = {path.name for path in (finished.path / "evaluation").iterdir()}
    assert written == {
        f"{name}.json"
        for name in ("agreement", "bits_per_byte", "layers", "models", "samples", "speed", "tokens")
    }
    assert (finished.path / "report.html").stat().st_size > 1_000_000
    assert "student" in (finished.path / "report.md").read_text()
    assert json.loads((finished.path / "provenance.json").read_text())["seed"] == 3
    assert not list(finished.path.rglob(".partial-*"))


def test_the_recipe_that_a_run_keeps_is_the_same_run(finished):
    kept = fitting.check(loading.load(finished.recipe))
    assert loading.dump(kept) == finished.recipe.read_text()
    run.carry_out(kept)


def test_a_finished_run_says_so_and_computes_nothing_again(finished, place, capsys):
    before = tiny_folder.stamps(place)
    figures = (finished.path / "evaluation/speed.json").read_bytes()
    run.carry_out(tiny_folder.recipe(place))
    said = capsys.readouterr().err
    assert "student: stage distil is done" in said
    assert "control: stage distil is done" in said
    assert tiny_folder.stamps(place) == before
    assert (finished.path / "evaluation/speed.json").read_bytes() == figures


def test_the_exported_student_has_the_weights_of_the_last_checkpoint(finished):
    exported = load_file(finished.export / "model.safetensors")
    kept = tiny_folder.weights(finished, tiny_folder.STEPS)
    assert exported
    for name, tensor in exported.items():
        assert torch.equal(tensor, kept[f"student.{name}"]), name


def test_adapters_are_trained_alone_and_merged_into_a_plain_model(place):
    student = {"adapters": {"rank": 2, "targets": ["q_proj", "v_proj"]}}
    asked = tiny_folder.short(
        place, "adapters", student=student, teacher={"live": {"model": str(place / "teacher")}},
        stages=[tiny_folder.stage(place, budget="4 steps", objective=["cross_entropy"])],
        evaluate=None,
    )  # fmt: skip
    run.carry_out(asked)
    folder = tiny_folder.folder(asked)
    assert all("lora_" in name for name in tiny_folder.weights(folder, 4))
    exported = load_file(folder.export / "model.safetensors")
    assert not any("lora" in name or "base_layer" in name for name in exported)
    base = assembly.ground(asked)
    source = assembly.stage_source(base, asked.stages[0])
    trained = assembly.student(base)
    with torch.no_grad():
        for name, tensor in tiny_folder.weights(folder, 4).items():
            trained.get_parameter(name.removeprefix("student.")).copy_(tensor)
    ids = source.batch([0, 1]).input_ids
    with torch.no_grad():
        wanted = trained.eval()(ids).logits
        untrained = AutoModelForCausalLM.from_pretrained(place / "teacher")(ids).logits
        found = AutoModelForCausalLM.from_pretrained(folder.export)(ids).logits
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
    assert (found - untrained).abs().max() > 1e-2


def test_a_text_that_is_not_there_leaves_the_name_to_the_recipe_that_is_corrected(place):
    asked = tiny_folder.recipe(place, name="corrected")
    stage = asked.stages[0]
    missing = {**stage.source.options, "path": str(place / "nowhere")}
    wrong = stage.model_copy(update={"source": Part(name=stage.source.name, options=missing)})
    with pytest.raises(LimbeckError, match="nowhere"):
        run.carry_out(asked.model_copy(update={"stages": (wrong,)}))
    assert not tiny_folder.folder(asked).recipe.exists()


def test_another_recipe_is_refused_in_the_same_folder(finished, place):
    before = finished.recipe.read_bytes()
    with pytest.raises(
        LimbeckError, match=r"holds a run of another recipe(.|\n)*seed: 3(.|\n)*seed: 4"
    ):
        run.carry_out(tiny_folder.recipe(place, seed=4))
    assert finished.recipe.read_bytes() == before


def test_a_second_process_is_refused_in_the_same_folder(finished, place):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with owned(finished.path):
            os.write(write, b"held")
            signal.pause()
    assert os.read(read, 4) == b"held"
    try:
        with pytest.raises(LimbeckError, match="in use by another process"):
            run.carry_out(tiny_folder.recipe(place))
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    run.carry_out(tiny_folder.recipe(place))


def test_sigterm_ends_with_75_and_the_same_command_goes_on(place):
    changes = {
        "name": "stopped", "control": False, "evaluate": None, "checkpoints": {"every": 2},
        "stages": [tiny_folder.stage(place, budget="60 steps")],
    }  # fmt: skip
    path = tiny_folder.written(place, **changes)
    folder = tiny_folder.folder(tiny_folder.recipe(place, **changes))
    process = subprocess.Popen(
        [sys.executable, "-m", "limbeck", "train", path], stderr=subprocess.PIPE, text=True
    )
    while not list(folder.checkpoints(0, "distil").glob("[0-9]*")) and process.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.02)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 75, said
    assert "The same command goes on from there" in said
    assert "Traceback" not in said
    reached = meter.read(folder.log)[-1]["step"]
    assert 0 < reached < 60
    assert tiny_folder.final(folder, reached).is_dir()
    tiny_folder.trained(tiny_folder.recipe(place, **changes))
    assert [line["step"] for line in meter.read(folder.log)] == list(range(1, 61))


def test_what_two_processes_recorded_is_not_computed_again(place, capsys):
    one = tiny_folder.short(
        place, "one", teacher=tiny_folder.cached(place, path=str(place / "one-cache"))
    )
    two = tiny_folder.short(
        place, "two", teacher=tiny_folder.cached(place, path=str(place / "two-cache"))
    )
    run.record(one, rank=0, world=1)
    for rank in (0, 1):
        run.record(two, rank=rank, world=2)
    wanted = tiny_folder.contents(place / "one-cache")
    assert tiny_folder.contents(place / "two-cache") == wanted
    before = tiny_folder.stamps(place / "two-cache")
    capsys.readouterr()
    run.record(two, rank=0, world=1)
    assert "recorded 0 rows, 16 were there already" in capsys.readouterr().err
    tiny_folder.trained(two)
    assert tiny_folder.stamps(place / "two-cache") == before
    assert tiny_folder.contents(place / "two-cache") == wanted


def test_recording_needs_a_cached_teacher_and_a_rank_that_exists(place):
    live = tiny_folder.short(place, "no-cache", teacher={"live": {"model": str(place / "teacher")}})
    with pytest.raises(LimbeckError, match="not 'cached'"):
        run.record(live, rank=0, world=1)
    with pytest.raises(LimbeckError, match="rank 2 of 2"):
        run.record(tiny_folder.short(place, "rank"), rank=2, world=2)


def test_an_export_that_was_lost_is_made_again_with_the_same_bytes(finished):
    exported = finished.control.export / "model.safetensors"
    before = exported.read_bytes()
    for path in finished.control.export.iterdir():
        path.unlink()
    finished.control.export.rmdir()
    again.export_again(finished.path)
    assert exported.read_bytes() == before
    run.carry_out(fitting.check(loading.load(finished.recipe)))
    assert "KL to the teacher" in (finished.control.export / "README.md").read_text()


def test_a_run_that_is_not_trained_is_not_exported(place):
    asked = tiny_folder.short(place, "untrained")
    folder = tiny_folder.folder(asked)
    folder.path.mkdir(parents=True)
    folder.recipe.write_text(loading.dump(asked))
    with pytest.raises(LimbeckError, match="not trained to its end"):
        again.export_again(folder.path)
    with pytest.raises(LimbeckError, match="is no run"):
        again.export_again(place / "text")


def test_evaluating_again_gives_the_same_figures(finished):
    before = {name: judging.read(finished)[name] for name in ("agreement", "bits_per_byte")}
    for path in (finished.path / "evaluation").iterdir():
        path.unlink()
    again.evaluate_again(finished.path)
    assert {name: judging.read(finished)[name] for name in before} == before


def test_an_evaluation_that_was_cut_short_is_made_again(finished, place):
    (finished.path / "evaluation/models.json").unlink()
    (finished.path / "evaluation/agreement.json").unlink()
    run.carry_out(tiny_folder.recipe(place))
    assert set(judging.read(finished)) == {"agreement", "bits_per_byte", "models", "speed"}


def test_verify_passes_over_a_sound_run_and_names_a_flipped_byte(finished):
    assert "each as it was written" in verify(finished.path)
    path = finished.control.export / "config.json"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"3", b"7", 1))
    try:
        with pytest.raises(Damaged, match=r"control/export/config\.json"):
            verify(finished.path)
        with pytest.raises(
            Damaged, match=r"config\.json.*Move .*control/export away, and the same"
        ):
            again.export_again(finished.path)
    finally:
        path.write_bytes(whole)


def test_freed_memory_goes_back_only_where_that_is_asked_for(place, monkeypatch):
    asked = []
    for policy in ("keep", "give_back"):
        monkeypatch.setattr(f"limbeck.pages.{policy}", lambda policy=policy: asked.append(policy))
    for keeps, policy in ((True, "keep"), (False, "give_back")):
        compute = {"device": "cpu", "dtype": "float32", "keep_freed_memory": keeps}
        run.record(tiny_folder.short(place, "memory", compute=compute), rank=0, world=1)
        assert asked.pop() == policy
        assert not asked
