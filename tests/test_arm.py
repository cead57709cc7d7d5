"""An arm trains every stage of a recipe, goes on where it was left, and starts as its control does."""

import pytest
import tiny_folder
import torch
from safetensors.torch import load_file
from transformers.models.llama.modeling_llama import LlamaMLP

from limbeck import assembly, files, loading
from limbeck.errors import Interrupted, LimbeckError, NonFinite
from limbeck.objectives import _compiled
from limbeck.objectives.forward_kl import forward_kl
from limbeck.students import pruned
from limbeck.training import checkpoint, meter


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("arms")


def test_student_and_control_start_from_the_same_bits_and_read_the_same_rows(place):
    asked = tiny_folder.recipe(place)
    base = assembly.ground(asked)
    alone = assembly.with_recipe(base, loading.control_of(asked))
    source = assembly.stage_source(base, asked.stages[0])
    other = assembly.stage_source(
        assembly.ground(loading.control_of(asked)), alone.recipe.stages[0]
    )
    first, second = assembly.student(base), assembly.student(alone)
    assert first.state_dict().keys() == second.state_dict().keys()
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    rows = range(tiny_folder.STEPS * tiny_folder.ROWS)
    assert source.batch(rows).addresses == other.batch(rows).addresses
    assert len(set(source.batch(rows).addresses)) == len(rows)


def test_arms_with_the_same_objective_end_with_the_same_bits(place):
    asked = tiny_folder.short(
        place,
        "twins",
        control=True,
        stages=[tiny_folder.stage(place, budget="3 steps", objective=["cross_entropy"])],
    )
    folder = tiny_folder.trained(asked)
    left, right = tiny_folder.weights(folder, 3), tiny_folder.weights(folder.control, 3)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_cache_of_every_token_trains_as_the_live_teacher_does(place):
    live = tiny_folder.trained(
        tiny_folder.short(place, "live", teacher={"live": {"model": str(place / "teacher")}})
    )
    whole = tiny_folder.cached(place, k=tiny_folder.VOCAB, path=str(place / "whole"))
    recorded = tiny_folder.trained(tiny_folder.short(place, "whole", teacher=whole))
    pairs = zip(meter.read(live.log), meter.read(recorded.log), strict=True)
    for left, right in pairs:
        # The trunk computes 2 rows here and 4 there; float32.
        assert left["loss"] == pytest.approx(right["loss"], rel=1e-4)


def test_alpha_weighs_text_against_teacher(place):
    stage = tiny_folder.stage(place, budget="2 steps", alpha=0.25)
    folder = tiny_folder.trained(tiny_folder.short(place, "alpha", stages=[stage]))
    for line in meter.read(folder.log):
        terms = line["terms"]
        mixed = 0.25 * terms["cross_entropy"] + 0.75 * terms["forward_kl"]
        assert line["loss"] == pytest.approx(mixed, rel=1e-6)


def test_a_student_from_sizes_needs_no_teacher(place):
    sizes = {
        "model_type": "llama", "vocab_size": 320, "hidden_size": 16, "intermediate_size": 32,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
        "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    asked = tiny_folder.short(
        place, "scratch", teacher=None, tokenizer=str(place / "teacher"),
        student={"scratch": {"config": sizes}},
        stages=[tiny_folder.stage(place, budget="20 steps", objective=["cross_entropy"])],
        evaluate=None,
    )  # fmt: skip
    losses = [line["loss"] for line in meter.read(tiny_folder.trained(asked).log)]
    assert losses[-1] < 0.8 * losses[0]


def test_pruned_by_list_keeps_the_layers_of_the_list(place):
    asked = tiny_folder.short(place, "listed", student={"pruned": {"layers": [1, 3]}})
    base = assembly.ground(asked)
    made = assembly.student(base).state_dict()
    whole = load_file(place / "teacher" / "model.safetensors")
    for new, old in ((0, 1), (1, 3)):
        name = "self_attn.q_proj.weight"
        left, right = made[f"model.layers.{new}.{name}"], whole[f"model.layers.{old}.{name}"]
        assert torch.equal(left, right)


def test_pruned_by_importance_trains(place):
    student = {"pruned": {"layers": 2, "choose": "importance"}}
    folder = tiny_folder.trained(tiny_folder.short(place, "important", student=student))
    assert len(meter.read(folder.log)) == 4


def test_the_second_stage_begins_where_the_first_ended(place):
    first = tiny_folder.stage(
        place, name="one", budget="2 steps", train=["*.mlp.*"], objective=["cross_entropy"]
    )
    frozen = {"learning_rate": 1e-30, "weight_decay": 0.0, "schedule": "constant"}
    second = tiny_folder.stage(place, name="two", budget="2 steps", optimizer=frozen)
    folder = tiny_folder.trained(tiny_folder.short(place, "stages", stages=[first, second]))
    one, two = tiny_folder.weights(folder, 2, "1-one"), tiny_folder.weights(folder, 2, "2-two")
    trained = list(one)
    assert trained
    assert all(".mlp." in name for name in trained)
    start = load_file(place / "teacher" / "model.safetensors")
    assert not torch.equal(one[trained[0]], start[trained[0].removeprefix("student.")]), (
        "the first stage must move something, or this shows nothing"
    )
    for name in trained:
        torch.testing.assert_close(two[name], one[name], atol=1e-12, rtol=0)
    assert len(two) > len(trained)
    assert [(line["stage"], line["step"]) for line in meter.read(folder.log)] == [
        ("one", 1), ("one", 2), ("two", 1), ("two", 2),
    ]  # fmt: skip


def test_a_run_that_is_told_to_start_anew_refuses_a_folder_with_checkpoints(place):
    asked = tiny_folder.short(place, "none", resume="none")
    folder = tiny_folder.trained(asked)
    assert tiny_folder.final(folder, 4).is_dir()
    with pytest.raises(LimbeckError, match=r"resume is 'none', but .* holds checkpoints"):
        tiny_folder.trained(asked)


def test_a_run_begins_at_the_checkpoint_that_it_is_told(place):
    straight = tiny_folder.trained(tiny_folder.short(place, "straight"))
    asked = tiny_folder.short(place, "from-two", resume=str(tiny_folder.final(straight, 2)))
    folder = tiny_folder.trained(asked)
    assert [line["step"] for line in meter.read(folder.log)] == [3, 4]
    left, right = tiny_folder.weights(straight, 4), tiny_folder.weights(folder, 4)
    assert all(torch.equal(left[name], right[name]) for name in left)
    before = tiny_folder.stamps(folder.path)
    tiny_folder.trained(asked)
    assert tiny_folder.stamps(folder.path) == before


def test_a_control_does_not_begin_at_the_students_checkpoint(place):
    straight = tiny_folder.trained(tiny_folder.short(place, "straight-too"))
    asked = tiny_folder.short(
        place, "with-control", control=True, resume=str(tiny_folder.final(straight, 2))
    )
    folder = tiny_folder.trained(asked)
    assert [line["step"] for line in meter.read(folder.control.log)] == [1, 2, 3, 4]


def test_a_damaged_newest_checkpoint_is_passed_over_and_made_again(place, capsys):
    asked = tiny_folder.short(place, "damaged")
    folder = tiny_folder.trained(asked)
    wanted = tiny_folder.weights(folder, 4)
    broken = tiny_folder.final(folder, 4) / "rank-0000.safetensors"
    data = bytearray(broken.read_bytes())
    data[-5] ^= 4
    broken.write_bytes(data)
    tiny_folder.trained(asked)
    assert "passed over a checkpoint" in capsys.readouterr().err
    files.verify(tiny_folder.final(folder, 4))
    assert all(
        torch.equal(tensor, tiny_folder.weights(folder, 4)[name]) for name, tensor in wanted.items()
    )


def poisoned(student, teacher, rows, *, share: float = 0.0):
    """Forward KL, and no number at all once half of the budget is used."""
    value = forward_kl(student, teacher, rows)
    return value * float("nan") if share > 0.5 else value


def test_a_nan_stops_the_run_and_leaves_the_last_good_checkpoint(place):
    objective = [{"test_arm.poisoned": {"share": {"from": 0.0, "to": 1.0}}}]
    stage = tiny_folder.stage(place, budget="8 steps", objective=objective)
    asked = tiny_folder.short(place, "nan", stages=[stage])
    with pytest.raises(NonFinite, match=r"step 4: test_arm\.poisoned is nan.*checkpoint 4 is the"):
        tiny_folder.trained(asked)
    folder = tiny_folder.folder(asked)
    newest, reasons = checkpoint.newest(folder.checkpoints(0, "distil"))
    assert newest == tiny_folder.final(folder, 4)
    assert not reasons
    assert all(bool(tensor.isfinite().all()) for tensor in tiny_folder.weights(folder, 4).values())
    assert [line["step"] for line in meter.read(folder.log)] == [1, 2, 3, 4]


def test_a_run_that_is_asked_to_stop_while_it_records_leaves_whole_shards(place):
    teacher = tiny_folder.cached(place, path=str(place / "stopped-cache"))
    with pytest.raises(Interrupted, match="asked to stop"):
        tiny_folder.trained(tiny_folder.short(place, "asked", teacher=teacher), stop=lambda: True)
    assert not list((place / "stopped-cache").rglob(".partial-*"))


def test_the_best_checkpoint_is_kept(place):
    rising = {"learning_rate": 0.3, "schedule": "constant", "max_grad_norm": None}
    stage = tiny_folder.stage(place, budget="6 steps", optimizer=rising)
    keep = {"every": 1, "keep_last": 1, "keep_best": 1, "held_out_rows": 4}
    folder = tiny_folder.trained(tiny_folder.short(place, "best", stages=[stage], checkpoints=keep))
    saved = checkpoint.found(folder.checkpoints(0, "distil"))
    assert saved[0].step == 6
    assert len(saved) == 2, [item.step for item in saved]
    assert min(saved, key=lambda item: item.score) == saved[1]


def test_importance_is_measured_on_the_text_of_the_first_stage(place):
    student = {"pruned": {"layers": 1, "choose": "importance"}}
    other = tiny_folder.source(place, split="held_out")
    first = tiny_folder.stage(place, name="one", budget="1 steps", source=other)
    second = tiny_folder.stage(place, name="two", budget="1 steps")
    asked = tiny_folder.short(place, "same-layers", student=student, stages=[first, second])
    base = assembly.ground(asked)
    text = assembly.stage_source(base, asked.stages[0])
    (kept,) = pruned.most_important(assembly.load_teacher(base), text, 1)
    made = assembly.student(base).state_dict()["model.layers.0.mlp.up_proj.weight"]
    whole = load_file(place / "teacher" / "model.safetensors")
    assert torch.equal(made, whole[f"model.layers.{kept}.mlp.up_proj.weight"])


def test_a_run_may_begin_in_a_later_stage(place):
    stages = [tiny_folder.stage(place, name=name, budget="2 steps") for name in ("one", "two")]
    straight = tiny_folder.trained(tiny_folder.short(place, "both", stages=stages))
    told = str(tiny_folder.final(straight, 2, "2-two"))
    more = [stages[0], stages[1] | {"budget": "4 steps"}]
    folder = tiny_folder.trained(tiny_folder.short(place, "later", stages=more, resume=told))
    lines = [(line["stage"], line["step"]) for line in meter.read(folder.log)]
    assert lines == [("two", 3), ("two", 4)]
    elsewhere = [stages[0] | {"name": "other"}]
    with pytest.raises(LimbeckError, match="is of stage two; wanted one of other"):
        tiny_folder.trained(tiny_folder.short(place, "wrong", stages=elsewhere, resume=told))


@pytest.mark.skipif(not _compiled.able("cpu"), reason="no C++ compiler is here")
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # the compiler looks at it itself
def test_compiled_blocks_learn_what_plain_ones_learn(place):
    compute = {"device": "cpu", "dtype": "float32", "threads": 1}
    plain = tiny_folder.trained(tiny_folder.short(place, "plain-blocks", compute=compute))
    asked = tiny_folder.short(place, "compiled-blocks", compute=compute | {"compile": True})
    found, wanted = (
        tiny_folder.weights(tiny_folder.trained(asked), 4),
        tiny_folder.weights(plain, 4),
    )
    assert found.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], atol=1e-4, rtol=1e-3)


def test_computing_activations_twice_changes_no_weight(place, monkeypatch):
    runs, plain = [], LlamaMLP.forward
    monkeypatch.setattr(LlamaMLP, "forward", lambda *given: runs.append(1) or plain(*given))
    compute = {"device": "cpu", "dtype": "float32", "threads": 1}
    once = tiny_folder.trained(tiny_folder.short(place, "once", compute=compute))
    passes = len(runs)
    asked = compute | {"activation_checkpointing": True}
    twice = tiny_folder.trained(tiny_folder.short(place, "twice", compute=asked))
    assert len(runs) - passes > passes, "nothing was computed twice"
    found, wanted = tiny_folder.weights(twice, 4), tiny_folder.weights(once, 4)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
