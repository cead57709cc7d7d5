"""Few bits give back what bitsandbytes says they hold, in every dtype and on every device's shapes; odd blocks are refused."""

import importlib.util
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import tiny
import torch
from transformers import GPT2Config, GPT2LMHeadModel, MixtralConfig, MixtralForCausalLM

from limbeck.errors import LimbeckError, ModelError
from limbeck.models import quantised
from limbeck.models.quantised import Quantised

needs = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None,
    reason="bitsandbytes is not installed: pip install 'limbeck[qlora]'",
)
KINDS = ("nf4", "int8")


def linear(rows=48, width=100, bias=False):
    made = torch.nn.Linear(width, rows, bias=bias).requires_grad_(False)
    made.weight.copy_(tiny.randn(rows, width, dtype=torch.float32))
    return made


def plainly(weight, kind):
    """The weight after bitsandbytes' own round trip."""
    functions = quantised.library()
    if kind == "int8":
        codes, scales, _ = functions.int8_vectorwise_quant(weight.half())
        return codes.float() * scales.unsqueeze(1) / 127
    packed, state = functions.quantize_4bit(
        weight, blocksize=64, compress_statistics=True, quant_type="nf4"
    )
    return functions.dequantize_4bit(packed, state)


@needs
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [100, 64, 7])
def test_a_weight_comes_back_as_bitsandbytes_gives_it_back(kind, width):
    made = linear(width=width)
    held = Quantised(made, kind)
    wanted = plainly(made.weight, kind)
    torch.testing.assert_close(held.unpacked(torch.float32), wanted, atol=1e-6, rtol=0)
    # A half step of the widest gap between two codes (0.30 of the largest weight; int8: 1 / 127), and the scales' own.
    largest = made.weight.abs().max()
    off = (wanted - made.weight).abs().max() / largest
    assert off < (0.18 if kind == "nf4" else 0.005)
    assert off > 0


@needs
@pytest.mark.parametrize("kind", KINDS)
def test_a_half_is_the_float32_weight_rounded_once(kind):
    held = Quantised(linear(), kind)
    whole = held.unpacked(torch.float32)
    for dtype in (torch.bfloat16, torch.float16):
        assert torch.equal(held.unpacked(dtype), whole.to(dtype))
    assert torch.equal(held.unpacked(torch.float64), whole.double())


@needs
@pytest.mark.parametrize("kind", KINDS)
def test_a_cast_of_the_model_rounds_no_scale(kind):
    held = Quantised(linear(), kind)
    before = held.unpacked(torch.float32)
    for dtype in (torch.float64, torch.bfloat16, torch.float32):
        assert torch.equal(held.to(dtype).unpacked(torch.float32), before)


@needs
@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_knows_the_bytes_of_what_is_packed(kind):
    for rows, width in ((48, 100), (7, 5), (256, 512)):
        made = linear(rows, width)
        real = Quantised(made, kind)
        planned = Quantised(made.to("meta"), kind)
        for name, plane in real.named_buffers():
            other = planned.get_buffer(name)
            assert (other.shape, other.dtype) == (plane.shape, plane.dtype), name


@needs
def test_four_bits_take_an_eighth_of_float32_and_int8_a_quarter():
    model = torch.nn.Sequential(Quantised(linear(1024, 1024), "nf4"))
    parameters, size = quantised.held(model)
    assert parameters == 1024**2
    assert 4 * parameters / size == pytest.approx(32 / 4.127, rel=5e-3)  # as in the paper
    _, size = quantised.held(Quantised(linear(1024, 1024), "int8"))
    assert 4 * parameters / size == pytest.approx(4, rel=5e-3)


@needs
@pytest.mark.parametrize("kind", KINDS)
def test_a_bias_is_added_as_it_is_and_the_gradient_flows_through(kind):
    made = linear(bias=True)
    held, weight = Quantised(made, kind), plainly(made.weight, kind)
    one, two = (tiny.randn(3, 5, 100, dtype=torch.float32).requires_grad_() for _ in range(2))
    found, wanted = held(one), two @ weight.T + made.bias
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
    slope = tiny.randn(3, 5, 48, seed=2, dtype=torch.float32)
    found.backward(slope)
    wanted.backward(slope)
    torch.testing.assert_close(one.grad, two.grad, atol=1e-4, rtol=0)


@needs
def test_the_unpacked_weight_is_not_kept_for_the_backward_pass():
    sizes = []
    hidden = tiny.randn(2, 100, dtype=torch.float32).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: sizes.append(t.numel()) or t, lambda t: t
    ):
        Quantised(linear(), "nf4")(hidden)
    assert 48 * 100 not in sizes


@needs
def test_only_frozen_layers_of_the_blocks_are_held_in_few_bits():
    model = tiny.llama().requires_grad_(False)
    model.model.layers[0].mlp.up_proj.requires_grad_(True)
    quantised.quantise(model, "nf4")
    found = {name for name, module in model.named_modules() if isinstance(module, Quantised)}
    assert len(found) == 2 * 7 - 1
    assert all(name.startswith("model.layers.") for name in found)
    assert type(model.model.layers[0].mlp.up_proj) is torch.nn.Linear
    assert type(model.lm_head) is torch.nn.Linear
    assert not [name for name in model.state_dict() if "codes" in name]


@needs
def test_a_weight_that_is_not_finite_is_refused_and_not_hidden():
    model = tiny.llama().requires_grad_(False)
    model.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"1\.mlp\.up_proj holds a NaN or an infinity"):
        quantised.quantise(model, "nf4")


@pytest.mark.parametrize(
    ("config", "family", "said"),
    [
        (GPT2Config(n_embd=16, n_layer=1, n_head=2), GPT2LMHeadModel, "c_attn is a Conv1D"),
        (
            MixtralConfig(
                hidden_size=16,
                intermediate_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                num_key_value_heads=2,
            ),
            MixtralForCausalLM,
            "0.mlp.* is a Mixtral",
        ),
    ],
)
def test_blocks_with_other_matrices_than_linear_layers_are_refused_on_meta(config, family, said):
    with torch.device("meta"):
        model = family(config)
    with pytest.raises(ModelError, match=said) as raised:
        quantised.check(model, "nf4")
    assert "Set student.adapters.quantise to none" in str(raised.value)


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    quantised.library.cache_clear()
    for name in ("bitsandbytes", "bitsandbytes.functional"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(LimbeckError, match=r"pip install 'limbeck\[qlora\]'"):
        quantised.library()
    quantised.library.cache_clear()


FETCHED = """
import pathlib
def get_kernel(*names, **options):
    pathlib.Path(__file__).with_name("fetched").write_text(str(names))
    raise RuntimeError("this would have been compiled code from the hub")
"""


@needs
@pytest.mark.parametrize(
    "first",
    [
        "import kernels; from limbeck.models import quantised; quantised.library()",
        "import tiny; from limbeck.students.adapters import adapters; from limbeck.types import Materials; "
        "adapters(Materials(teacher=tiny.llama, load=None), rank=2)",
    ],
)
def test_no_kernel_is_fetched_where_bitsandbytes_is_imported(tmp_path, first):
    (tmp_path / "kernels.py").write_text(textwrap.dedent(FETCHED))
    tests = Path(__file__).parents[1]
    path = os.pathsep.join([str(tmp_path), str(tests), *sys.path])
    code = f"{first}; import sys; print('bitsandbytes' in sys.modules, sys.modules['kernels'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not (tmp_path / "fetched").exists(), (tmp_path / "fetched").read_text()
    assert done.stdout.split() == ["True", "None"], done.stderr
    assert "kernels" not in done.stderr
