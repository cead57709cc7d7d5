"""Whole runs of a clone: resumed, staged, exported, planned, and beside a teacher whose memory it shares."""

import json
import subprocess
import sys

import pytest
import tiny
import tiny_clones
import tiny_folder
import torch
from safetensors.torch import load_file
from tiny_clones import TERMS, spelled

from limbeck import arm, assembly, estimating, loading, run, showing
from limbeck.errors import LimbeckError, RecipeError
from limbeck.models import load, narrowing
from limbeck.strict import parse_yaml
from limbeck.training import frozen, loop, parallel

pytestmark = pytest.mark.usefixtures("handlers")
CLONE = {"width": 16, "attention": "shared", "rms_norm_eps": 1e-4}
EVERY = ["cross_entropy", "forward_kl", *(spelled(name) for name in TERMS)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    found = tmp_path_factory.mktemp("clones")
    tiny_folder.tree(found)
    return found


def asked(place, name, objective=EVERY, student=CLONE, **changes):
    """A run of 4 steps of a clone beside its live teacher."""
    plain = {
        "teacher": {"live": {"model": str(place / "teacher")}},
        "student": {"low_rank_clone": student} if student else None,
        "stages": [tiny_folder.stage(place, budget="4 steps", objective=objective)],
    }
    return tiny_folder.short(place, name, **plain | changes)


def tensors(folder, step, stage="1-distil"):
    return load_file(tiny_folder.final(folder, step, stage) / "rank-0000.safetensors")


def test_a_resumed_clone_equals_an_uninterrupted_one_and_checkpoints_hold_what_learns(place):
    straight = tensors(tiny_folder.trained(asked(place, "straight")), 4)
    recipe, polls = asked(place, "stopped"), []
    with pytest.raises(LimbeckError, match="Stopped at step 3"):
        tiny_folder.trained(recipe, stop=lambda: polls.append(1) or len(polls) > 3)
    stopped = tensors(tiny_folder.trained(recipe), 4)
    assert straight.keys() == stopped.keys()
    assert all(torch.equal(straight[name], stopped[name]) for name in straight)
    held = {name for name in straight if ":" not in name}
    assert held
    assert all(name.endswith(("projection", "norm.weight")) for name in held)
    assert not [name for name in straight if "frozen" in name or name.endswith("bias")]
    log = [json.loads(line) for line in (tiny_folder.folder(recipe).log).read_text().splitlines()]
    terms = [line["terms"] for line in log if "terms" in line]
    assert set(terms[0]) == {"cross_entropy", "forward_kl", *TERMS}


def test_a_clone_goes_from_text_to_report_and_its_second_stage_trains_what_is_deployed(place):
    student = CLONE | {"unlock": "all", "start": "pca", "tie_projections": False}
    stages = [
        tiny_folder.stage(place, budget="4 steps", objective=EVERY),
        tiny_folder.stage(
            place, name="free", budget="2 steps", train=["*delta*"], objective=["cross_entropy"]
        ),
    ]
    recipe = asked(place, "whole", student=student, stages=stages)
    run.carry_out(recipe)
    folder = tiny_folder.folder(recipe)
    first, last = tensors(folder, 4), tensors(folder, 2, "2-free")
    moved = {n for n in last if ":" not in n and not torch.equal(first[n], last[n])}
    assert moved == {n for n in last if n.endswith("delta") and ":" not in n}
    assert len(moved) == 4 * 7 + 2
    config = json.loads((folder.export / "config.json").read_text())
    assert (config["hidden_size"], config["head_dim"]) == (16, 8)
    assert (config["rms_norm_eps"], config["tie_word_embeddings"]) == (1e-4, False)
    plain = load.load_model(str(folder.export))
    layer = "model.layers.1.mlp.down_proj"
    teacher = load.load_model(str(place / "teacher")).get_parameter(f"{layer}.weight")
    merged = last[f"student.{layer}.projection"] @ teacher + last[f"student.{layer}.delta"]
    torch.testing.assert_close(plain.get_parameter(f"{layer}.weight"), merged, atol=1e-6, rtol=0)
    assert (folder.path / "report.html").is_file()
    figures = json.loads((folder.path / "evaluation/models.json").read_text())["models"]
    assert figures["student"]["parameters"] == plain.num_parameters()


def begun(place, name, **changes):
    """The Loop of a recipe's only stage, and its arm."""
    recipe = asked(place, name, **changes)
    base, folder = assembly.ground(recipe), tiny_folder.folder(recipe)
    folder.path.mkdir(parents=True)
    first = run.arms(base, parallel.start(base.device), folder, lambda: False)[0]
    return arm._stage(first, 0, None, follows=False)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_frozen_matrices_are_the_live_teachers_own_memory(place, monkeypatch, dtype):
    """Held once, read by both, written by neither; the numbers are those of a copy."""
    compute = {"device": "cpu", "dtype": dtype, "threads": 1, "chunk": 24}
    found = {}
    for shared in (True, False):
        if not shared:
            monkeypatch.setattr(frozen, "_by_kind", lambda model: {})
        work = begun(place, f"memory-{dtype}-{shared}", compute=compute)
        model = work.teacher.model
        before = {name: one.clone() for name, one in model.state_dict().items()}
        pointers = {one.data_ptr() for one in model.parameters()}
        still = [p for n, p in work.step_module.named_parameters() if n.endswith(".frozen")]
        assert len(still) == 4 * 7 + 2
        assert {p.dtype for p in still} == {getattr(torch, dtype)}
        assert all((p.data_ptr() in pointers) is shared for p in still)
        assert not any(isinstance(p, parallel.DTensor) for p in still)
        for _ in range(3):
            loop.one_step([work])
        assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
        learned = [p for p in work.step_module.parameters() if p.requires_grad]
        assert {p.dtype for p in learned} == {torch.float32}
        found[shared] = [p.full_tensor() for p in learned]
    assert all(torch.equal(one, other) for one, other in zip(*found.values(), strict=True))


def test_clones_of_other_starts_learn_beside_each_other(place):
    students = [{"low_rank_clone": CLONE | {"start": start}} for start in ("gaussian", "pca")]
    several = asked(place, "several", student=None, students=students, evaluate=None)
    run.carry_out(several)
    for one, start in zip(several.each, ("gaussian", "pca"), strict=True):
        alone = tiny_folder.trained(
            asked(place, f"alone-{start}", student=CLONE | {"start": start})
        )
        mine, theirs = tensors(tiny_folder.folder(one), 4), tensors(alone, 4)
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_a_ban_takes_a_term_out_of_a_run(place):
    recipe = asked(place, "banned")
    plain = parse_yaml(loading.dump(recipe), "x")
    loading.override(plain, "stages.0.ban=[mlp-gate, attention-in]")
    loading.override(plain, "stages.0.objective.2.feature_mse as attention-query.weight=0.3")
    banned = loading.build(plain)
    titles = {term.title: term.weight for term in banned.stages[0].terms}
    assert set(titles) == {"cross_entropy", "forward_kl", *TERMS} - {"mlp-gate", "attention-in"}
    assert titles["attention-query"] == 0.3
    assert loading.control_of(banned).stages[0].terms[0].name == "cross_entropy"


def test_a_plan_tells_what_is_deployed_and_what_is_shared(place, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    showing.show(asked(place, "planned"))
    told = " ".join(capsys.readouterr().out.split())
    base = assembly.student_on_meta(asked(place, "planned"))
    deployed = assembly.finisher(asked(place, "planned"))(base).num_parameters()
    assert f"deployed │ {deployed:,} parameters" in told
    assert "layers.0.mlp.down_proj.inner (32) = layers.0.mlp.down_proj (32)" in told
    assert "through the student's projection, which learns from both sides" in told
    assert "held once with one rank" in told
    recipe = asked(place, "planned")
    clone = assembly.student_on_meta(recipe)
    made = narrowing.products(clone, one_block=False)
    plain = assembly.finisher(recipe)(assembly.student_on_meta(recipe))
    before, after = (
        estimating.estimate(one, 1, 1, recipe.stages[0], recipe, 4).activations
        for one in (clone, plain)
    )
    assert before - after == pytest.approx(made * 4 / estimating.GIGA)
    other = {"live": {"model": str(place / "teacher"), "dtype": "bfloat16"}}
    showing.show(asked(place, "planned", teacher=other))
    assert "held once with one rank" not in capsys.readouterr().out
    for eps in (0.0, -1.0, float("nan")):
        with pytest.raises(RecipeError, match="rms_norm_eps"):
            showing.show(asked(place, "planned", student=CLONE | {"rms_norm_eps": eps}))


@pytest.mark.parametrize(
    ("objective", "told"),
    [
        ({"at": "layers.*.mlp.up_proj", "teacher_projected": True}, "NarrowIn, which projects"),
        ({"at": "layers.*.mlp", "teacher_projected": True}, "LlamaMLP, which projects nothing"),
        (
            {"at": {"student": "layers.*.mlp.down_proj", "teacher": "layers.*.mlp.up_proj"},
             "teacher_projected": True},
            "takes 32 channels, the teacher's layers.0.mlp.up_proj has 64",
        ),
        (
            {"at": "layers.*.mlp.down_proj", "teacher_projected": True, "projector": "linear"},
            "'teacher_projected' and 'projector' are both given",
        ),
        (
            {"at": [{"student": "layers.1.mlp.down_proj", "teacher": f"layers.{n}.mlp.down_proj"} for n in (0, 1)],
             "teacher_projected": True},
            "both layers.0.mlp.down_proj and layers.1.mlp.down_proj",
        ),
        ({"at": "layers.*.mlp.down_proj"}, "16 channels.*32"),
    ],
)  # fmt: skip
def test_what_no_projection_can_take_is_told_before_a_model_is_loaded(
    place, monkeypatch, objective, told
):
    monkeypatch.setattr(load, "load_model", None)  # whoever calls it fails otherwise
    with pytest.raises(RecipeError, match=told):
        run.begun(asked(place, "refused", ["forward_kl", {"feature_mse": objective}]))


def test_relations_have_no_projection_of_the_teacher(place):
    term = {"relation_gram": {"at": "norm", "teacher_projected": True}}
    with pytest.raises(RecipeError, match="has no 'teacher_projected'"):
        asked(place, "refused", [term])


def test_another_family_is_refused_before_weights_are_read(tmp_path, place, monkeypatch):
    other = tiny_clones.build("gemma2", vocab_size=tiny_folder.VOCAB)
    other.config.save_pretrained(tmp_path / "gemma")
    from tiny_text import tokenizer

    tokenizer(tiny_folder.VOCAB).save_pretrained(tmp_path / "gemma")
    monkeypatch.setattr(load, "load_model", None)
    with pytest.raises(LimbeckError, match="low-rank clone is made of llama"):
        showing.show(asked(place, "gemma", teacher={"live": {"model": str(tmp_path / "gemma")}}))


def test_frozen_parameters_of_a_checkpoint_stay_in_full_numbers():
    """What another run has trained is read into its own memory, not the teacher's."""
    model = tiny.llama(seed=1)
    model.lm_head.weight.requires_grad_(False)
    model.model.norm.weight.requires_grad_(False)
    world = parallel.World(0, 1, torch.device("cpu"))
    found = frozen.settled(model, {"lm_head.weight"}, torch.bfloat16, None, world)
    assert found == {model.model.norm.weight}
    assert model.lm_head.weight.dtype == torch.float32
    assert model.model.norm.weight.dtype == torch.bfloat16


def test_two_ranks_in_bfloat16_learn_what_one_does(place):
    """Frozen matrices of bfloat16 and projections of float32 lie in one group of the sharding."""
    compute = {"device": "cpu", "dtype": "bfloat16", "threads": 1, "chunk": 24}
    found = {}
    for ranks in (1, 2):
        recipe = asked(place, f"ranks-{ranks}", compute=compute, evaluate=None)
        if ranks == 1:
            tiny_folder.trained(recipe)
        else:
            path = place / "ranks.yaml"
            path.write_text(loading.dump(recipe))
            done = subprocess.run(
                [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0",
                 "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "-m", "limbeck", "train", path],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr[-3000:]
        lines = tiny_folder.folder(recipe).log.read_text().splitlines()
        found[ranks] = [entry["terms"] for entry in map(json.loads, lines) if "terms" in entry]
    assert len(found[1]) == 4
    assert len(found[2]) == 4
    for one, other in zip(*found.values(), strict=True):
        assert one == pytest.approx(other, rel=0.03)
