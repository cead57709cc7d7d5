"""Whole runs that put mixers where a teacher has attention: three stages, resumed, controlled, exported, and refused early."""

import json
from dataclasses import replace

import pytest
import tiny_folder
import torch
from safetensors.torch import load_file

from limbeck import assembly, fitting, linking, loading, run, showing
from limbeck.arm import train
from limbeck.errors import LimbeckError, RecipeError
from limbeck.models import hybrid, layout, load
from limbeck.training import parallel

pytestmark = pytest.mark.usefixtures("handlers")
BOTH = {"student": "layers.*.mamba", "teacher": "layers.*.self_attn"}
MATRIX, NORM = {"mixing_matrix": {"at": BOTH}}, {"feature_norm": {"at": BOTH}}
MIXERS = ("mamba2", "discrete_mamba2")
STEPS = 4


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    found = tmp_path_factory.mktemp("hybrid")
    tiny_folder.tree(found)
    return found


def stage(place, name, **changes):
    """A forced stage of four steps that trains the mixers, with a warm-up and a fall."""
    schedule = {"learning_rate": 1e-2, "schedule": "wsd", "warmup_ratio": 0.25, "decay_ratio": 0.25}
    plain = {
        "name": name,
        "budget": f"{STEPS} steps",
        "forward": "layer_forced",
        "objective": [MATRIX],
        "train": ["*.mamba.*"],
        "optimizer": schedule,
    }
    return tiny_folder.stage(place, **plain | changes)


def asked(place, name, *, mixer="mamba2", stages=None, teacher=None, student=None, **changes):
    free = {"forward": "free", "objective": ["forward_kl"], "train": ["*"]}
    plain = {
        "teacher": teacher or {"live": {"model": str(place / "teacher")}},
        # From attention, whose first outputs are large enough that four steps make them smaller.
        "student": student
        or {"hybrid": {"mixer": mixer, "keep_attention": [1], "start": "attention"}},
        "stages": stages
        or [
            stage(place, "matrices"),
            stage(place, "outputs", objective=[NORM], optimizer={"learning_rate": 5e-3}),
            stage(
                place,
                "whole",
                **free,
                freeze=["mlp", "kept_layers"],
                optimizer={"learning_rate": 2e-3},
            ),
        ],
    }
    return tiny_folder.short(place, name, **plain | changes)


def entries(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if "terms" in line]


@pytest.mark.parametrize(("mixer", "control"), zip(MIXERS, (True, False), strict=True))
def test_three_stages_train_export_and_reload_beside_a_control(place, mixer, control, capfd):
    recipe = asked(place, f"whole-{mixer}", mixer=mixer, control=control)
    run.carry_out(recipe)
    folder = tiny_folder.folder(recipe)
    first = assembly.student(assembly.ground(recipe))
    lines = entries(folder.path)
    assert [(line["stage"], line["step"]) for line in lines] == [
        (name, step) for name in ("matrices", "outputs", "whole") for step in range(1, STEPS + 1)
    ]
    # Each stage begins its own schedule at its own peak; no two are one run's tail.
    rates = [line["learning_rate"] for line in lines]
    assert rates[:4] == pytest.approx([1e-2, 1e-2, 1e-2, 1e-5])
    assert max(rates[4:8]) == pytest.approx(5e-3)
    assert max(rates[8:]) == pytest.approx(2e-3)
    for begin in (0, 4):
        values = [sum(line["terms"].values()) for line in lines[begin : begin + 4]]
        assert values[3] < values[0]
    told = capfd.readouterr().err
    mixers = sum(p.numel() for one in hybrid.mixers(first).values() for p in one.parameters())
    assert f"stage matrices trains {mixers:,} of {first.num_parameters():,} parameters" in told
    assert "logits differ by" in told
    check_frozen(folder, first)
    student = load.load_model(str(folder.export))
    assert student.config.model_type == ("bamba" if mixer == "mamba2" else "limbeck_llamba")
    arms = {"teacher", "student"}
    if control:
        arms.add("control")
        assert {tuple(line["terms"]) for line in entries(folder.control.path)} == {
            ("cross_entropy",)
        }
        assert [line["learning_rate"] for line in entries(folder.control.path)] == rates
    assert json.loads(folder.evaluation("samples").read_text())["models"].keys() == arms


def check_frozen(folder, first):
    """What was frozen in all stages leaves as it came; all else that was trained has moved."""
    last = load_file(folder.export / "model.safetensors")
    for name, parameter in first.named_parameters():
        kept = ".feed_forward." in name or ".layers.1." in name
        assert torch.equal(last[name], parameter) == kept, name


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_resumed_run_equals_an_uninterrupted_one(place, mixer):
    straight = tiny_folder.trained(asked(place, f"straight-{mixer}", mixer=mixer))
    recipe = asked(place, f"stopped-{mixer}", mixer=mixer)
    for _ in range(3):  # within each stage
        polls = []
        with pytest.raises(LimbeckError, match="Stopped at step"):
            tiny_folder.trained(recipe, stop=lambda: polls.append(1) or len(polls) > 3)  # noqa: B023
    stopped = tiny_folder.trained(recipe)
    for number, name in enumerate(("matrices", "outputs", "whole"), start=1):
        one, other = (
            load_file(tiny_folder.final(f, STEPS, f"{number}-{name}") / "rank-0000.safetensors")
            for f in (straight, stopped)
        )
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_computing_activations_twice_changes_no_weight(place):
    compute = {"device": "cpu", "dtype": "float32", "threads": 1, "chunk": 24}
    plain = tiny_folder.trained(asked(place, "kept", mixer="discrete_mamba2"))
    twice = asked(
        place,
        "twice",
        mixer="discrete_mamba2",
        compute=compute | {"activation_checkpointing": True},
    )
    found, wanted = (
        tiny_folder.weights(f, STEPS, "3-whole") for f in (tiny_folder.trained(twice), plain)
    )
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, atol=2e-6, rtol=1e-5)


def test_students_side_by_side_end_where_each_would_have_ended_alone(place):
    students = [
        {"hybrid": {"mixer": "discrete_mamba2", "keep_attention": kept}} for kept in ([1], [0, 3])
    ]
    stages = [stage(place, "both", objective=[MATRIX, {"feature_norm": {"at": BOTH}}])]
    several = asked(place, "several", stages=stages, students=students, student=students[0])
    base, here = assembly.ground(several), parallel.start(torch.device("cpu"))
    learning = []
    for one in several.each:
        folder = tiny_folder.folder(one)
        folder.path.mkdir(parents=True)
        mine = assembly.beside(base, one)
        learning += run.arms(mine, here, folder, lambda: False, whole=several)
    train([replace(arm, teacher=learning[0].teacher) for arm in learning])
    for one, student in zip(several.each, students, strict=True):
        alone = tiny_folder.trained(
            asked(place, f"alone-{one.name}", stages=stages, student=student)
        )
        wanted = tiny_folder.weights(alone, STEPS, "1-both")
        found = tiny_folder.weights(tiny_folder.folder(one), STEPS, "1-both")
        assert wanted.keys() == found.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_checkpoint_of_a_forced_stage_is_judged_by_a_student_that_runs_freely(place):
    """The score of step 4 is the held-out loss of the plain student of its weights."""
    keep = {"every": 2, "keep_best": 1, "held_out_rows": 4}
    recipe = asked(
        place, "best", mixer="discrete_mamba2", stages=[stage(place, "matrices")], checkpoints=keep
    )
    folder = tiny_folder.trained(recipe)
    state = json.loads((tiny_folder.final(folder, STEPS, "1-matrices") / "state.json").read_text())
    base = assembly.ground(recipe)
    student = assembly.student(base)
    student.load_state_dict(
        {
            n.removeprefix("student."): t
            for n, t in tiny_folder.weights(folder, STEPS, "1-matrices").items()
        },
        strict=False,
    )
    batch = assembly.held_out(base).batch(range(16, 20))
    with torch.no_grad():
        logits = layout.head(student, vocab=base.vocab)(layout.hidden(student, batch))
    nats = torch.nn.functional.cross_entropy(logits, batch.labels.flatten(), reduction="none")
    wanted = (nats * batch.weights.flatten()).sum() / batch.weights.sum()
    assert state["score"] == pytest.approx(float(wanted), rel=1e-5)


REFUSED = {
    "a cached teacher": (
        {"teacher": "cached"}, "'layer_forced' needs what enters each block of the teacher; the teacher is 'cached'"),
    "no teacher": ({"stages": {"objective": ["cross_entropy"]}}, "'cross_entropy' compares what models say at the end"),
    "alpha": ({"stages": {"alpha": 0.5}}, "alpha's cross_entropy compares what models say at the end"),
    "a term on what is said": ({"stages": {"objective": [MATRIX, "forward_kl"]}}, "'forward_kl' compares what models say"),
    "a pruned student": (
        {"student": {"pruned": {"layers": 2}}, "stages": {"objective": [{"feature_norm": {"at": "all"}}]}},
        "the student has 2 blocks of 32 channels, the teacher 4 of 32"),
    "no mixer left": (
        {"student": {"hybrid": {"keep_attention": "all"}}}, r"no module 'layers\.3\.mamba'"),
    "a mixer where there is none": (
        {"stages": {"objective": [{"mixing_matrix": {"at": {"student": "layers.1", "teacher": "layers.1"}}}]}},
        r"tap 'layers\.1': no mixer that carries a state was seen there"),
    "another block's attention": (
        {"stages": {"objective": [{"feature_norm": {"at": {"student": "layers.0", "teacher": "layers.1"}}}]}},
        r"layers\.0 beside layers\.1; under 'layer_forced' wanted taps of one block"),
    "other heads": (
        {"student": {"hybrid": {"mixer": "discrete_mamba2", "heads": 8, "start": "identity", "keep_attention": [1]}}},
        "has 8 heads, the teacher's attention 4; wanted as many"),
    "nothing to train": (
        {"stages": {"freeze": ["mixers"]}}, "leaves nothing of train"),
    "no such word": ({"stages": {"freeze": ["mixer"]}}, "freeze 'mixer': .*Did you mean 'mixers'"),
    "a merged stage": ({"stages": {"merged": True}}, "'hybrid' has nothing to merge"),
    "a compiled block": (
        {"compute": {"device": "cpu", "compile": True}}, "'mixing_matrix' looks inside blocks, which compute.compile seals"),
    "too many attentions": ({"student": {"hybrid": {"keep_attention": 9}}}, "9 attentions are to be kept; the teacher has 4"),
    "a start that it has not": (
        {"student": {"hybrid": {"start": "identity"}}}, "'identity' found; the mixer mamba2 has a norm"),
}  # fmt: skip


@pytest.mark.parametrize("why", REFUSED)
def test_what_does_not_go_together_is_refused_before_weights_are_read(place, why, monkeypatch):
    changes, told = REFUSED[why]
    changes = dict(changes)
    if changes.get("teacher") == "cached":
        changes["teacher"] = tiny_folder.cached(place)
    changes["stages"] = [stage(place, "only", **changes.get("stages", {}))]

    def never(*_, **__):
        raise AssertionError("weights were read")

    monkeypatch.setattr(load, "load_model", never)
    with pytest.raises(LimbeckError, match=told):
        run.carry_out(asked(place, "refused", **changes))


def test_a_hybrid_that_cannot_be_made_leaves_no_run_behind(place):
    """Also where no stage looks inside: corrected, the recipe may have the same name."""
    free = stage(place, "only", forward="free", objective=["forward_kl"], train=["*"])
    wrong = {"hybrid": {"keep_attention": [9]}}
    recipe = asked(place, "unmade", stages=[free], student=wrong)
    with pytest.raises(RecipeError, match=r"\[9\] found; wanted rising numbers from 0 to 3"):
        run.carry_out(recipe)
    assert not tiny_folder.folder(recipe).path.exists()


KEPT = {
    "auto": "Input should be a valid list; or Input should be a valid integer; or Input should be 'all' or 'none'",
    True: "Input should be a valid integer; or .* Found True",
    -1: r"keep_attention: Input should be greater than or equal to 0\. Found -1",
    ("auto", 0): r"keep_attention\.auto: Input should be greater than 0\. Found 0",
    ("pairs", 51): r"keep_attention\.pairs: Input should be less than or equal to 50\. Found 51",
    ("pair", 5): "keep_attention: no key 'pair' here. Did you mean 'pairs'",
}  # fmt: skip


@pytest.mark.parametrize("kept", KEPT)
def test_what_attentions_are_kept_is_refused_as_what_it_was_meant_to_be(place, kept):
    given = {"auto": 2} | {kept[0]: kept[1]} if isinstance(kept, tuple) else kept
    with pytest.raises(RecipeError, match=KEPT[kept]):
        asked(place, "kept", student={"hybrid": {"keep_attention": given}})


def test_what_is_banned_is_not_asked_of_a_forced_stage(place):
    only = stage(place, "only", objective=[MATRIX, "forward_kl"], ban=["forward_kl"])
    folder = tiny_folder.trained(asked(place, "banned", stages=[only]))
    assert entries(folder.path)[-1]["terms"].keys() == {"mixing_matrix"}


def test_a_plan_tells_counts_and_terms(place, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    recipe = asked(place, "shown", mixer="discrete_mamba2")
    monkeypatch.setattr(load, "load_model", None)
    showing.show(recipe)
    told = " ".join(capsys.readouterr().out.split())
    student = assembly.student_on_meta(recipe)
    mixers = sum(p.numel() for one in hybrid.mixers(student).values() for p in one.parameters())
    assert f"{student.num_parameters():,} parameters" in told
    assert f"{mixers:,} / {student.num_parameters() - mixers:,} parameters" in told
    assert "layers.0.mamba = layers.0.self_attn" in told
    assert loading.dump(
        fitting.check(loading.build(json.loads(recipe.model_dump_json(by_alias=True))))
    ) == loading.dump(recipe)
    linking.check(recipe)
    with pytest.raises(RecipeError):
        asked(place, "odd", stages=[stage(place, "only", alpha=0.2)])
