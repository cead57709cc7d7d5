"""Adapters are trained through a base in few bits, alone, and leave as a plain model that computes the same."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import tiny_folder
import tiny_quantised
import tiny_run
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GPT2Config

from limbeck import assembly, estimating, run, showing
from limbeck.arm import trainable
from limbeck.errors import Interrupted, LimbeckError, ModelError
from limbeck.models import layout, quantised
from limbeck.models.quantised import Quantised
from limbeck.students.adapters import adapters, finish
from limbeck.training import optim
from limbeck.training.step import Step
from limbeck.types import Materials

needs = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None,
    reason="bitsandbytes is not installed: pip install 'limbeck[qlora]'",
)
KINDS = ("nf4", "int8")
TRAINING = Path(__file__).parents[1] / "training"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("quantised")


def round_trip(kind):
    """The linear weights of the blocks after bitsandbytes' own round trip, from the plain model."""
    plain, functions, found = tiny.llama(seed=1), quantised.library(), {}
    for name in tiny_quantised.linear_names(plain):
        weight = plain.get_parameter(name).detach()
        if kind == "int8":
            codes, scales, _ = functions.int8_vectorwise_quant(weight.half())
            found[name] = functions.int8_vectorwise_dequant(codes, scales)
        else:
            packed, state = functions.quantize_4bit(
                weight, blocksize=64, compress_statistics=True, quant_type="nf4"
            )
            found[name] = functions.dequantize_4bit(packed, state)
    return found


@needs
@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_gradients_equal_those_of_plain_matrices_in_float64(kind):
    student, ids = tiny_quantised.student(kind), tiny.batch(2, 12).input_ids
    found = student(ids).logits
    wanted, leaves = tiny_quantised.reference(student, round_trip(kind), ids)
    # transformers' norms compute in float32, also in a model of float64.
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)
    slope = tiny.randn(*found.shape, seed=3)
    found.backward(slope)
    wanted.backward(slope)
    assert len(leaves) == 2 * 2 * 7
    for name, leaf in leaves.items():
        assert leaf.grad.abs().max() > 1e-3, name
        torch.testing.assert_close(
            student.get_parameter(name).grad, leaf.grad, atol=1e-5, rtol=1e-5, msg=name
        )
    plain, _ = tiny_quantised.reference(
        student,
        {name: tiny.llama(seed=1).get_parameter(name) for name in round_trip(kind)},
        ids,
    )
    assert (found - plain).abs().max() > 1e-3, "nothing was rounded"


@needs
def test_the_optimizer_sees_adapters_alone_and_few_bits_are_no_parameters():
    student = tiny_quantised.student("nf4", targets=["q_proj", "v_proj"])
    step = Step(student, vocab=tiny.VOCAB)
    adam = optim.adamw(step, tiny_run.stage().optimizer)
    seen = {id(tensor) for group in adam.param_groups for tensor in group["params"]}
    named = dict(step.named_parameters())
    assert seen == {id(tensor) for name, tensor in named.items() if "lora_" in name}
    assert len(seen) == 2 * 2 * 2
    assert all(tensor.is_floating_point() for tensor in named.values())
    # Layers without an adapter are held in few bits as well.
    assert sum(isinstance(module, Quantised) for module in student.modules()) == 2 * 7


@needs
@pytest.mark.parametrize("kind", KINDS)
def test_finishing_gives_a_plain_model_with_the_same_logits(kind):
    student = tiny_quantised.student(kind, dtype=torch.float32)
    ids = tiny.batch(2, 12).input_ids
    trained = student(ids).logits
    plain = finish(student)
    assert type(plain).__name__ == "LlamaForCausalLM"
    assert plain.state_dict().keys() == tiny.llama().state_dict().keys()
    assert {tensor.dtype for tensor in plain.state_dict().values()} == {torch.float32}
    torch.testing.assert_close(plain(ids).logits, trained, atol=1e-5, rtol=0)
    assert (tiny.llama(seed=1)(ids).logits - trained).abs().max() > 1e-2


@pytest.mark.slow
@needs
def test_two_ranks_give_the_gradients_of_one(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0",
         "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", TRAINING / "two_ranks.py", "quantised", tmp_path],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = load_file(tmp_path / "gradients.safetensors")
    alone = tiny_run.job(tmp_path / "one", student=tiny_quantised.student("nf4"), sharded=False)
    wanted = {n: g for n, g in tiny_run.gradients(alone).items() if g is not None}
    assert found.keys() == wanted.keys()
    assert all("lora_" in name for name in found)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-8, rtol=0)


@needs
def test_bf16_compute_trains_float32_masters_through_few_bits(tmp_path):
    student = tiny_quantised.student("nf4", dtype=torch.float32)
    asked = tiny_run.stage(objective=["cross_entropy"])
    plain = tiny_run.job(tmp_path / "a", dtype=torch.float32, student=student, stage_=asked)
    wanted = tiny_run.gradients(plain)
    student = tiny_quantised.student("nf4", dtype=torch.float32)
    half = tiny_run.job(tmp_path / "b", dtype=torch.bfloat16, student=student, stage_=asked)
    for name, gradient in tiny_run.gradients(half).items():
        if gradient is not None:
            assert gradient.dtype == torch.float32
            near = torch.nn.functional.cosine_similarity(
                gradient.flatten(), wanted[name].flatten(), dim=0
            )
            assert near > 0.99, name


def asked(place, name, **changes):
    student = {"adapters": {"rank": 2, "targets": ["q_proj", "v_proj"], "quantise": "nf4"}}
    live = {"live": {"model": str(place / "teacher")}}
    plain = {"student": student, "teacher": live, "evaluate": None}
    return tiny_folder.short(place, name, **plain | changes)


@needs
def test_a_run_keeps_adapters_only_and_exports_what_was_trained(place):
    recipe = asked(place, "whole", checkpoints={"every": 1, "keep_last": 4})
    run.carry_out(recipe)
    folder = tiny_folder.folder(recipe)
    kept = tiny_folder.weights(folder, 4)
    assert len(kept) == 4 * 2 * 2
    assert all("lora_" in name for name in kept)
    exported = load_file(folder.export / "model.safetensors")
    assert not any("lora" in name or "codes" in name for name in exported)
    base = assembly.ground(recipe)
    trained = assembly.student(base)
    with torch.no_grad():
        for name, tensor in kept.items():
            trained.get_parameter(name.removeprefix("student.")).copy_(tensor)
        ids = assembly.stage_source(base, recipe.stages[0]).batch([0, 1]).input_ids
        wanted = trained.eval()(ids).logits
        found = AutoModelForCausalLM.from_pretrained(folder.export)(ids).logits
        untouched = AutoModelForCausalLM.from_pretrained(place / "teacher")(ids).logits
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
    assert (found - untouched).abs().max() > 1e-2


@needs
def test_a_run_that_was_stopped_ends_in_the_same_bits(place):
    whole = tiny_folder.trained(asked(place, "uninterrupted"))
    recipe, calls = asked(place, "stopped"), iter([False, False, True])
    with pytest.raises(Interrupted):
        tiny_folder.trained(recipe, stop=lambda: next(calls))
    folder = tiny_folder.trained(recipe)
    left = (tiny_folder.final(whole, 4) / "rank-0000.safetensors").read_bytes()
    right = (tiny_folder.final(folder, 4) / "rank-0000.safetensors").read_bytes()
    assert left == right


@needs
def test_recomputed_blocks_train_the_same_adapters(place):
    compute = {"device": "cpu", "dtype": "float32", "threads": 1, "chunk": 24}
    plain = tiny_folder.trained(asked(place, "plain", compute=compute))
    lean = compute | {"activation_checkpointing": True}
    again = tiny_folder.trained(asked(place, "lean", compute=lean))
    for name, tensor in tiny_folder.weights(plain, 4).items():
        torch.testing.assert_close(
            tiny_folder.weights(again, 4)[name], tensor, atol=1e-5, rtol=0, msg=name
        )


@needs
def test_the_plan_tells_what_is_trained_and_what_few_bits_spare(place, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    recipe = asked(place, "planned")
    student = assembly.student_on_meta(recipe)
    whole = sum(p.numel() for p in tiny.llama(vocab=320, width=32, layers=4).parameters())
    trained = 4 * 2 * (32 + 32) + 4 * 2 * (32 + 16)  # rank 2; k and v heads are half as many
    showing.show(recipe)
    said = " ".join(capsys.readouterr().out.split())
    assert f"{whole + trained:,} parameters" in said
    assert f"{trained:,} / {whole:,} parameters" in said
    packed, size = quantised.held(student)
    assert packed == sum(
        p.numel()
        for p in layout.layers(tiny.llama(vocab=320, width=32, layers=4)).parameters()
        if p.ndim == 2
    )
    assert f"{packed:,} parameters in 0.00 GB, which spares 0.00 GB" in said
    options = {"rank": 2, "targets": ["q_proj", "v_proj"]}
    plain = asked(place, "plainly", student={"adapters": options})
    sizes = []
    for one in (plain, recipe):
        model = assembly.student_on_meta(one)
        names = trainable(model, one.stages[0])
        found = estimating.estimate(model, len(names), 0, one.stages[0], one, 4)
        sizes.append(found.parameters * estimating.GIGA)
    assert sizes[0] - sizes[1] == pytest.approx(packed * 4 - size)


def nothing_loads(*_):
    raise AssertionError("a model was loaded")


def test_a_missing_library_stops_before_a_model_is_loaded(monkeypatch):
    quantised.library.cache_clear()
    for name in ("bitsandbytes", "bitsandbytes.functional"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(LimbeckError, match=r"limbeck\[qlora\]"):
        adapters(Materials(teacher=nothing_loads, load=nothing_loads), quantise="nf4")
    quantised.library.cache_clear()


@needs
def test_blocks_of_another_kind_stop_before_a_model_is_loaded():
    config = GPT2Config(n_embd=16, n_layer=1, n_head=2)
    materials = Materials(teacher=nothing_loads, load=nothing_loads, config=config)
    with pytest.raises(ModelError, match="c_attn is a Conv1D, which cannot be held in nf4"):
        adapters(materials, quantise="nf4")
