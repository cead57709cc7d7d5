"""Each packed document attends to itself alone, as a slow, plain softmax over its tokens says."""

import copy
import json

import pytest
import tiny
import torch
from torch import nn

from limbeck.models import attention, layout
from limbeck.students import pruned
from limbeck.types import Materials, edges

LENGTHS = ((4, 1, 7), (12,), (5, 5, 2))


def ids(lengths=LENGTHS):
    rows = [torch.repeat_interleave(torch.arange(len(one)), torch.tensor(one)) for one in lengths]
    return torch.stack(rows)


def tensors(heads=4, groups=2, *, dtype=torch.float64, device="cpu", width=8):
    shape = {0: heads, 1: heads // groups, 2: heads // groups}
    parts = [tiny.randn(3, many, 12, width, seed=seed) for seed, many in shape.items()]
    return [part.to(device, dtype).requires_grad_() for part in parts]


def slow(query, key, value, lengths, *, scale=None, window=None):
    """Softmax attention, one query after the other, in the dtype given: (batch, time, heads, width)."""
    groups = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(groups, 1) for part in (key, value))
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    rows = []
    for row, one in enumerate(lengths):
        begin, outputs = 0, []
        for length in one:
            for place in range(begin, begin + length):
                first = begin if window is None else max(begin, place - window + 1)
                seen = slice(first, place + 1)
                scores = torch.einsum("hw,htw->ht", query[row, :, place], key[row, :, seen]) * scale
                outputs.append(torch.einsum("ht,htw->hw", scores.softmax(-1), value[row, :, seen]))
            begin += length
        rows.append(torch.stack(outputs))
    return torch.stack(rows)


def ours(query, key, value, **options):
    mask = attention.as_mask(edges(ids().to(query.device)))
    return attention.documents_attention(nn.Module(), query, key, value, mask, **options)[0]


def grads(output, inputs):
    weights = tiny.randn(*output.shape).to(output)
    return torch.autograd.grad((output * weights).sum(), inputs)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("window", [None, 3, 7, 50])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_values_and_gradients_are_those_of_a_plain_softmax(groups, window, scale):
    inputs = tensors(groups=groups)
    found = ours(*inputs, scaling=scale, sliding_window=window)
    wanted = slow(*inputs, LENGTHS, scale=scale, window=window)
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=0)
    for one, other in zip(grads(found, inputs), grads(wanted, inputs), strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)


def test_edges_are_where_documents_begin_and_where_all_ends():
    found = edges(ids())
    assert found.tolist() == [0, 4, 5, 12, 24, 29, 34, 36]
    assert found.dtype == torch.int32
    alike = torch.tensor([[0, 0, 0], [0, 0, 0]])  # a row's end is a document's end
    assert edges(alike).tolist() == [0, 3, 6]


@pytest.mark.parametrize("window", [None, 3])
def test_the_mask_of_edges_is_what_each_token_may_see(window):
    mask = attention.dense(edges(ids()), 3, 12, window)
    document = ids()
    for row in range(3):
        for place in range(12):
            for other in range(12):
                near = window is None or place - other < window
                same = document[row, place] == document[row, other]
                assert mask[row, 0, place, other] == bool(same and other <= place and near)


def test_a_bias_of_positions_goes_through_a_mask():
    inputs = [part.detach() for part in tensors(groups=1)]
    bias = tiny.randn(1, 4, 12, 12, seed=9)
    found = ours(*inputs, position_bias=bias)
    mask = attention.dense(edges(ids()), 3, 12)
    scores = inputs[0] @ inputs[1].transpose(-1, -2) * 8**-0.5 + bias
    wanted = scores.masked_fill(~mask, -torch.inf).softmax(-1) @ inputs[2]
    torch.testing.assert_close(found, wanted.transpose(1, 2), atol=1e-12, rtol=0)


def switched(**sizes):
    model = tiny.llama(**sizes)
    assert attention.switch(model)
    return model


def test_a_switched_model_is_as_before_without_edges():
    before, after, batch = tiny.llama(), switched(), tiny.batch(2, 9)
    padded = torch.ones(2, 9, dtype=torch.int64)
    padded[1, :4] = 0
    with torch.no_grad():
        for given in ({}, {"attention_mask": padded}, {"position_ids": batch.position_ids}):
            wanted = before(input_ids=batch.input_ids, **given).logits
            found = after(input_ids=batch.input_ids, **given).logits
            torch.testing.assert_close(found, wanted, atol=0, rtol=0)
    given = {"max_new_tokens": 5, "do_sample": False, "attention_mask": padded, "pad_token_id": 0}
    assert torch.equal(
        before.generate(batch.input_ids, **given), after.generate(batch.input_ids, **given)
    )


def test_rows_of_one_document_need_no_edges_and_no_switch():
    model = tiny.llama()
    layout.hidden(model, tiny.batch(2, 9))
    assert model.config._attn_implementation == "sdpa"
    layout.hidden(model, tiny.batch(2, 9, documents=(4, 5)))
    assert model.config._attn_implementation == attention.NAME


def test_only_sdpa_is_switched():
    model = tiny.llama()
    model.set_attn_implementation("eager")
    assert not attention.switch(model)
    assert model.config._attn_implementation == "eager"


def test_the_setting_is_not_written_into_a_config(tmp_path):
    switched().save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert attention.NAME not in json.dumps(written)
    again = type(tiny.llama()).from_pretrained(tmp_path)
    assert again.config._attn_implementation == "sdpa"


def test_what_is_made_of_a_switched_model_runs():
    model, batch = switched(), tiny.batch(2, 9, documents=(4, 5))
    wanted = layout.hidden(model, batch)
    torch.testing.assert_close(layout.hidden(copy.deepcopy(model), batch), wanted, atol=0, rtol=0)
    materials = Materials(teacher=lambda: model, load=lambda name, revision: model)
    student = pruned.pruned(materials, layers=2)
    torch.testing.assert_close(layout.hidden(student, batch), wanted, atol=0, rtol=0)


def test_an_adapted_model_is_switched():
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(tiny.llama(), settings)
    packed = tiny.batch(2, 9, documents=(4, 5))
    plain = adapted.get_base_model().model
    masked = plain(
        packed.input_ids, position_ids=packed.position_ids, use_cache=False
    ).last_hidden_state
    found = layout.hidden(adapted, packed)
    assert adapted.get_base_model().config._attn_implementation == attention.NAME
    torch.testing.assert_close(found, masked.flatten(0, 1), atol=1e-5, rtol=0)


# The compiler asks a tensor inside the graph for its gradient, and hides the warning in a way that an error escapes.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_a_compiled_block_gives_the_same():
    plain, compiled = switched(), switched()
    for block in layout.layers(compiled):
        block.compile(backend="eager")
    packed = tiny.batch(2, 9, documents=(4, 5))
    torch.testing.assert_close(
        layout.hidden(compiled, packed), layout.hidden(plain, packed), atol=1e-6, rtol=0
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_gpu_gives_the_same(window, dtype):
    inputs = tensors(dtype=dtype, device="cuda", width=16)
    exact = [part.detach().double().cpu().requires_grad_() for part in inputs]
    found, wanted = ours(*inputs, sliding_window=window), slow(*exact, LENGTHS, window=window)
    # bf16 keeps 8 bits: values near 1, gradients near 4.
    close = {"atol": 4e-2 if dtype == torch.bfloat16 else 2e-3, "rtol": 2e-2}
    torch.testing.assert_close(found.double().cpu(), wanted, **close)
    for one, other in zip(grads(found, inputs), grads(wanted, exact), strict=True):
        torch.testing.assert_close(one.double().cpu(), other, **close)
