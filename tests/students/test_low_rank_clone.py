"""Clones have the published sizes, leave as plain folders that load without Limbeck, and refuse what cannot be."""

import copy
import json
import subprocess
import sys

import pytest
import tiny
import tiny_clones
import torch
from safetensors.torch import load_file, save_file
from tiny_clones import FAMILIES, clone, materials, teacher
from transformers import AutoModelForCausalLM

from limbeck.errors import ModelError, RecipeError
from limbeck.models import load
from limbeck.students.low_rank_clone import finish, low_rank_clone
from limbeck.types import Materials

LLAMA, QWEN, LARGER = (
    "meta-llama/Llama-3.2-3B-Instruct",
    "Qwen/Qwen2.5-3B-Instruct",
    "Qwen/Qwen2.5-7B-Instruct",
)
RELOADED = """
import sys, torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
asked, worst = load_file(sys.argv[1]), 0.0
for folder in sys.argv[2:]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    with torch.no_grad():
        found = model(asked["ids"], use_cache=False).logits
    worst = max(worst, float((found - asked[folder.rsplit("/")[-1]]).abs().max()))
assert not [name for name in sys.modules if name.startswith("limbeck")]
print(worst)
"""


def shapes(name, width, **options):
    """The clone of a published teacher, without numbers, and what is deployed of it."""
    config = load.load_config(name)
    made = Materials(
        teacher=lambda: load.build_on_meta(copy.deepcopy(config)), load=None, config=config
    )
    student = low_rank_clone(made, width=width, **options)
    trained = sum(one.numel() for one in student.parameters() if one.requires_grad)
    return student, trained, sum(one.numel() for one in finish(student).parameters())


@pytest.mark.parametrize(
    ("attention", "mlp", "wanted"),
    [
        ("all", "all", 929_650_176),
        ("shared", "all", 665_409_024),
        ("all", "shared", 797_529_600),
        ("shared", "shared", 533_288_448),
    ],
)
def test_the_published_counts_are_met_to_the_unit(attention, mlp, wanted):
    """Invariant 63."""
    student, trained, deployed = shapes(LLAMA, 1536, attention=attention, mlp=mlp)
    assert trained == wanted
    assert deployed == 1_606_374_912
    assert student.config.tie_word_embeddings
    assert student.config.rope_parameters["rope_type"] == "llama3"


def by_hand(width, layers, heads, kv, mlp, *, vocab, tied):
    """Deployed parameters of a Qwen2.5: heads are 128 wide, queries, keys and values have a bias."""
    reads, both = 128 * (heads + 2 * kv), 128 * heads
    block = width * (reads + both + 3 * mlp) + reads + 2 * width
    return layers * block + width + vocab * width * (1 if tied else 2)


def test_the_other_published_sizes_are_those_of_the_paper():
    """1.808 and 4.352 billion by our count of the paper's configurations."""
    _, _, deployed = shapes(QWEN, 1200)
    assert deployed == by_hand(1200, 36, 16, 2, 11008, vocab=151_936, tied=True)
    assert round(deployed / 1e9, 3) == 1.808
    student, _, deployed = shapes(LARGER, 2048)
    assert deployed == by_hand(2048, 28, 28, 4, 18944, vocab=152_064, tied=False)
    assert round(deployed / 1e9, 3) == 4.352
    assert not student.config.tie_word_embeddings


@pytest.mark.parametrize("unlock", ["none", "mlp", "all"])
def test_shapes_are_those_of_a_clone_with_numbers(unlock):
    model = teacher(tie_word_embeddings=True)
    options = {"width": 12, "unlock": unlock, "attention": "shared"}
    config = copy.deepcopy(model.config)
    meta = Materials(teacher=lambda: load.build_on_meta(config), load=None, config=config)
    found, real = (low_rank_clone(one, **options) for one in (meta, materials(model)))
    assert all(one.is_meta for one in found.parameters())
    sizes = [
        {n: (p.shape, p.requires_grad) for n, p in m.named_parameters()} for m in (found, real)
    ]
    assert sizes[0] == sizes[1]
    plain = [{n: p.shape for n, p in finish(m).named_parameters()} for m in (found, real)]
    assert plain[0] == plain[1]


def test_the_teacher_is_left_as_it_was():
    model = teacher(tie_word_embeddings=True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    finish(clone(model, start="orthogonal", unlock="all"))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_folders_load_strictly_in_a_process_without_limbeck(tmp_path):
    """Invariants 61 and 62, in float32: no key is missing or left over, and the logits are the clone's."""
    asked, folders = {"ids": tiny.batch(2, 12).input_ids}, []
    for number, family in enumerate(FAMILIES):
        for tied in (True, False):
            model = teacher(family, dtype=torch.float32, tie_word_embeddings=number % 2 == 0)
            student = clone(model, tie_projections=tied, rms_norm_eps=2e-5, attention="shared")
            name = f"{family}-{tied}"
            with torch.no_grad():
                asked[name] = student(asked["ids"], use_cache=False).logits
            finish(student).save_pretrained(tmp_path / name)
            folders.append(str(tmp_path / name))
            keys = set(load_file(tmp_path / name / "model.safetensors"))
            assert not [key for key in keys if "frozen" in key or "projection" in key]
            _, report = AutoModelForCausalLM.from_pretrained(
                tmp_path / name, output_loading_info=True
            )
            assert not [report[kind] for kind in report if report[kind]]
            config = json.loads((tmp_path / name / "config.json").read_text())
            assert (config["hidden_size"], config["head_dim"]) == (12, 8)
            assert config["rms_norm_eps"] == 2e-5
            assert config["tie_word_embeddings"] is (tied and number % 2 == 0)
            if family == "llama":
                assert config["rope_parameters"]["factor"] == tiny_clones.ROPE["factor"]
    save_file(asked, tmp_path / "asked.safetensors")
    done = subprocess.run(
        [sys.executable, "-c", RELOADED, str(tmp_path / "asked.safetensors"), *folders],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout.splitlines()[-1]) <= 1e-5


def test_an_untied_teacher_with_one_projection_leaves_untied():
    """The converter of the paper's authors ties whenever the projection is tied, which changes the logits."""
    model = teacher(tie_word_embeddings=False)
    plain = finish(clone(model, tie_projections=True))
    assert plain.config.tie_word_embeddings is False
    assert not torch.equal(plain.lm_head.weight, plain.model.embed_tokens.weight)


def test_half_numbers_are_cast_last():
    """Merged in float32 and cast is nearer to the clone than merged in bfloat16."""
    student = clone(teacher(dtype=torch.float32))
    exact = copy.deepcopy(finish(copy.deepcopy(student)))
    weight = exact.model.layers[0].mlp.up_proj.weight
    layer = student.model.layers[0].mlp.up_proj
    narrow = layer.frozen.bfloat16() @ layer.projection.bfloat16()
    gaps = [(weight.bfloat16().float() - weight).norm(), (narrow.float() - weight).norm()]
    assert gaps[0] < gaps[1]
    assert weight.dtype == torch.float32


def test_clones_start_alike_from_one_seed():
    model = teacher()
    one, other, third = (clone(model, seed=seed) for seed in (1, 1, 2))
    name = "model.layers.0.mlp.up_proj.projection"
    assert torch.equal(one.get_parameter(name), other.get_parameter(name))
    assert not torch.equal(one.get_parameter(name), third.get_parameter(name))


def test_what_cannot_be_is_told_before_weights_are_read():
    def never():
        raise AssertionError("weights were read")

    config = tiny_clones.build("gemma2").config
    with pytest.raises(ModelError, match="low-rank clone is made of llama"):
        low_rank_clone(Materials(teacher=never, load=None, config=config), width=8)
    with pytest.raises(ModelError, match="width 99"):
        low_rank_clone(Materials(teacher=never, load=None, config=teacher().config), width=99)
    with pytest.raises(RecipeError, match="no teacher to clone"):
        low_rank_clone(Materials(teacher=lambda: None, load=None), width=8)
    with pytest.raises(RecipeError, match="'pca' needs a stage with text"):
        low_rank_clone(materials(teacher()), width=8, start="pca")
