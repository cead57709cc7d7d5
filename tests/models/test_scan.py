"""The mixer's arithmetic: chunks, single tokens and the matrix are one thing, and documents do not meet."""

import pytest
import tiny
import torch
from tiny_scan import LENGTHS, TIME, by_matrix, by_steps, given, gradients, packed, same, slow
from torch.nn import functional as F
from transformers import BambaConfig
from transformers.models.bamba.modeling_bamba import BambaMixer
from transformers.models.llama.modeling_llama import repeat_kv

from limbeck.models.scan import convolve, scan, step
from limbeck.objectives._mixing import matrix as mixing_matrix


def test_three_tokens_give_the_numbers_worked_out_by_hand():
    decay = torch.tensor([0.9, 0.5, 0.8], dtype=torch.float64).reshape(1, 3, 1)
    write = torch.tensor([[1, 0], [0, 1], [1, 1]], dtype=torch.float64).reshape(1, 3, 1, 2)
    read = torch.tensor([[1, 1], [1, 0], [2, 1]], dtype=torch.float64).reshape(1, 3, 1, 2)
    values = torch.tensor([1, 2, 3], dtype=torch.float64).reshape(1, 3, 1, 1)
    skip = torch.tensor([0.1], dtype=torch.float64)
    matrix = mixing_matrix(write, read, decay.log(), skip=skip)
    wanted = torch.tensor([[1.1, 0, 0], [0.5, 0.1, 0], [0.8, 0.8, 3.1]], dtype=torch.float64)
    torch.testing.assert_close(matrix[0, 0], wanted, atol=1e-12, rtol=0)
    outputs = torch.tensor([1.1, 0.7, 11.7], dtype=torch.float64)
    torch.testing.assert_close((matrix @ values.transpose(1, 2)).flatten(), outputs)
    for found, _ in (
        scan(values, write, read, decay.log(), chunk=2),
        by_steps(values, write, read, decay.log()),
    ):
        torch.testing.assert_close((found + 0.1 * values).flatten(), outputs)


# Two rows with borders of their own, the first of which begins with a token of the document before.
UNEVEN = torch.tensor([[0, 0, 1, 1, 0, 0, 0, 1, 0, 0, 1], [1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]]).bool()


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("begins", [None, UNEVEN], ids=["whole", "packed"])
@pytest.mark.parametrize("chunk", [1, 3, 5, 128])
def test_scan_equals_the_recurrence_at_any_chunk(chunk, begins, groups):
    inputs = given(groups=groups)
    state = tiny.randn(2, 4, 3, 5, seed=5)
    found = scan(*inputs, begins=begins, state=state, chunk=chunk)
    same(found, slow(*inputs, begins=begins, state=state), 1e-12)


@pytest.mark.parametrize("chunk", [1, 3, 128])
def test_scan_steps_and_matrix_agree_in_float32(chunk):
    inputs = tuple(one.detach() for one in given(time=17, dtype=torch.float32))
    outputs, state = scan(*inputs, chunk=chunk)
    stepped, last = by_steps(*inputs)
    wanted, held = slow(*inputs)
    for found in (outputs, stepped, by_matrix(*inputs)):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), wanted, atol=2e-6, rtol=1e-6)
    for found in (state, last):
        torch.testing.assert_close(found.double(), held, atol=2e-6, rtol=1e-6)


def test_a_matrix_with_scale_and_skip_is_the_recurrence_with_scaled_values_and_a_skip():
    values, write, read, log_decay = given()
    scale, skip = tiny.randn(2, TIME, 4, seed=6).exp(), tiny.randn(4, seed=7)
    found = by_matrix(values, write, read, log_decay, begins=packed(), scale=scale, skip=skip)
    wanted, _ = slow(values * scale.unsqueeze(-1), write, read, log_decay, begins=packed())
    same([found], [wanted + skip.unsqueeze(-1) * values], 1e-12)


@pytest.mark.parametrize("cut", [1, 2, 6])
def test_prefill_then_one_token_at_a_time_equals_the_whole_row(cut):
    """Convolution and scan as a mixer has them: both hand on what came before."""
    mixed, log_decay = tiny.randn(2, TIME, 24, seed=1), given()[3]
    weight, bias = tiny.randn(24, 4, seed=2), tiny.randn(24, seed=3)

    def split(convolved):
        parts = convolved.split((12, 6, 6), -1)
        return [
            part.unflatten(-1, (heads, 3)) for part, heads in zip(parts, (4, 2, 2), strict=True)
        ]

    whole, last = scan(*split(convolve(mixed, weight, bias)), log_decay)
    outputs, state = scan(
        *split(convolve(mixed[:, :cut], weight, bias)), log_decay[:, :cut], chunk=3
    )
    window = F.pad(mixed[:, :cut], (0, 0, 3, 0))[:, -3:]
    outputs = [outputs]
    for now in range(cut, TIME):
        token = mixed[:, now : now + 1]
        parts = split(convolve(token, weight, bias, before=window)[:, 0])
        found, state = step(state, *parts, log_decay[:, now])
        window = torch.cat([window, token], 1)[:, 1:]
        outputs.append(found.unsqueeze(1))
    same([torch.cat(outputs, 1), state], [whole, last], 1e-12)


def test_a_row_scanned_in_pieces_has_the_whole_rows_values_and_gradients():
    inputs, begins = given(), packed()
    whole = scan(*inputs, begins=begins)
    pieces, state = [], None
    for part in zip(*(one.split(4, 1) for one in (*inputs, begins)), strict=True):
        found, state = scan(*part[:4], begins=part[4], state=state, chunk=3)
        pieces.append(found)
    pieces = (torch.cat(pieces, 1), state)
    same(pieces, whole, 1e-12)
    same(gradients(pieces, inputs), gradients(whole, inputs), 1e-11)


def test_a_state_reaches_a_row_until_a_document_begins():
    inputs, state = given(), tiny.randn(2, 4, 3, 5, seed=5).requires_grad_()
    begins = packed((5, 6))
    begins[:, 0] = False
    with_state, last = scan(*inputs, begins=begins, state=state, chunk=3)
    without, _ = scan(*inputs, begins=begins, chunk=3)
    reached = ((with_state - without).abs() > 1e-6).all(-1).all(-1)
    assert reached[:, :5].all()
    assert torch.equal(with_state[:, 5:], without[:, 5:])
    assert gradients([last], state)[0].abs().max() == 0
    begins[:, 0] = True
    assert torch.equal(
        scan(*inputs, begins=begins, state=state)[0], scan(*inputs, begins=begins)[0]
    )


def test_a_step_changes_no_state_in_place():
    values, write, read, log_decay = (one[:, 0] for one in given())
    state = tiny.randn(2, 4, 3, 5, seed=5)
    kept = state.clone()
    step(state, values, write, read, log_decay)
    assert torch.equal(state, kept)


def parts_of(lengths, *inputs):
    """The same tensors document by document."""
    return zip(*(one.split(lengths, 1) for one in inputs), strict=True)


@pytest.mark.parametrize("chunk", [1, 3, 5, 128])
def test_packed_documents_are_scanned_as_if_each_were_alone(chunk):
    inputs = given()
    outputs, state = scan(*inputs, begins=packed(), chunk=chunk)
    alone = [scan(*part) for part in parts_of(LENGTHS, *inputs)]
    apart = (torch.cat([found for found, _ in alone], 1), alone[-1][1])
    same((outputs, state), apart, 1e-12)
    same(gradients((outputs, state), inputs), gradients(apart, inputs), 1e-11)


def test_the_matrix_of_packed_documents_has_a_block_for_each():
    _, *inputs = given()
    found = mixing_matrix(*inputs, begins=packed())
    wanted = torch.zeros(2, 4, TIME, TIME, dtype=torch.float64)
    at = 0
    for part in parts_of(LENGTHS, *inputs):
        end = at + part[0].shape[1]
        wanted[:, :, at:end, at:end] = mixing_matrix(*part)
        at = end
    same([found], [wanted], 1e-12)
    same(gradients([found], inputs), gradients([wanted], inputs), 1e-11)
    assert (found == 0).sum() == (wanted == 0).sum() > 2 * 4 * TIME * (TIME - 1) // 2


@pytest.mark.parametrize("token", range(TIME))
def test_a_token_changes_nothing_before_it(token):
    inputs = [one.detach() for one in given()]
    changed = [one.clone() for one in inputs]
    for one in changed[:3]:
        one[:, token] += 1.0
    changed[3][:, token] -= 1.0
    matrices = [mixing_matrix(*side[1:]).transpose(1, 2) for side in (inputs, changed)]
    convolved = [
        convolve(side[0].flatten(2), tiny.randn(12, 4, seed=5)) for side in (inputs, changed)
    ]
    for was, now in (
        (scan(*inputs, chunk=4)[0], scan(*changed, chunk=4)[0]),
        matrices,
        convolved,
    ):
        same([now[:, :token]], [was[:, :token]], 1e-12)
        assert (now[:, token] - was[:, token]).abs().max() > 1e-3


def test_without_decay_it_is_causal_linear_attention_over_repeated_heads():
    """x = V, B = K, C = Q: groups are the key heads of grouped attention, in the order of repeat_kv."""
    values = tiny.randn(2, TIME, 2, 3, seed=1)
    keys, queries = tiny.randn(2, TIME, 2, 5, seed=2), tiny.randn(2, TIME, 6, 5, seed=3)
    many = [repeat_kv(one.transpose(1, 2), 3) for one in (keys, values)]
    scores = (queries.transpose(1, 2) @ many[0].mT).tril()
    wanted = (scores @ many[1]).transpose(1, 2)
    still = torch.zeros(2, TIME, 6, dtype=torch.float64)
    x, b = (one.transpose(1, 2) for one in (many[1], many[0]))
    same([scan(x, b, queries, still, chunk=4)[0]], [wanted], 1e-12)
    same([mixing_matrix(b, queries, still)], [scores], 1e-12)
    # Values of the six heads that share two groups, as a mixer with fewer B and C than heads has them.
    shared = tiny.randn(2, TIME, 2, 5, seed=4)
    grouped, _ = scan(x, keys, shared, still, chunk=4)
    spread = repeat_kv(shared.transpose(1, 2), 3).transpose(1, 2)
    same([grouped], [scan(x, b, spread, still, chunk=4)[0]], 1e-12)
    same(
        [mixing_matrix(keys, shared, still)],
        [(spread.transpose(1, 2) @ many[0].mT).tril()],
        1e-12,
    )


@pytest.mark.parametrize("begins", [None, packed()], ids=["whole", "packed"])
@pytest.mark.parametrize("chunk", [1, 3, 128])
def test_gradients_of_the_scan_are_those_of_the_matrix(chunk, begins):
    inputs = given()
    found = gradients([scan(*inputs, begins=begins, chunk=chunk)[0]], inputs)
    same(found, gradients([by_matrix(*inputs, begins=begins)], inputs), 1e-10)


def test_gradients_are_those_of_small_differences():
    sizes = {"batch": 1, "time": 5, "heads": 2, "groups": 1, "head_dim": 2, "state": 2}
    inputs, begins = given(**sizes), packed((3, 2), batch=1)
    begins[:, 0] = False
    state = tiny.randn(1, 2, 2, 2, seed=5).requires_grad_()
    scale = tiny.randn(1, 5, 2, seed=6).requires_grad_()
    skip = tiny.randn(2, seed=7).requires_grad_()

    def scanned(*given, state):
        return scan(*given, begins=begins, state=state, chunk=2)

    def matrix(*given, scale, skip):
        return mixing_matrix(*given, begins=begins, scale=scale, skip=skip)

    gradcheck = torch.autograd.gradcheck
    assert gradcheck(lambda s, *given: scanned(*given, state=s), (state, *inputs))
    assert gradcheck(
        lambda *given: matrix(*given[:3], scale=given[3], skip=given[4]), (*inputs[1:], scale, skip)
    )
    assert gradcheck(step, (state, *(one[:, 0] for one in inputs)))
    u, weight = tiny.randn(1, 5, 2).requires_grad_(), tiny.randn(2, 3, seed=1).requires_grad_()
    bias, before = (
        tiny.randn(2, seed=2).requires_grad_(),
        tiny.randn(1, 2, 2, seed=3).requires_grad_(),
    )
    assert gradcheck(
        lambda *given: convolve(*given[:3], before=given[3], begins=begins),
        (u, weight, bias, before),
    )


def test_scan_and_convolution_are_what_a_stock_bamba_mixer_computes():
    """Values enter multiplied by their time step; the skip takes them as they are; four heads share two groups."""
    sizes = {"mamba_n_heads": 4, "mamba_d_head": 6, "mamba_n_groups": 2, "mamba_d_state": 5}
    config = BambaConfig(
        hidden_size=12, num_hidden_layers=1, attn_layer_indices=[], mamba_chunk_size=4, **sizes
    )
    torch.manual_seed(0)
    mixer, hidden = BambaMixer(config, 0).eval(), tiny.randn(2, TIME, 12, dtype=torch.float32)
    with torch.no_grad():
        for number, parameter in enumerate(mixer.parameters()):
            parameter.add_(0.3 * tiny.randn(*parameter.shape, seed=number))
        gate, mixed, times = mixer.in_proj(hidden).split((24, 44, 4), -1)
        mixed = F.silu(convolve(mixed, mixer.conv1d.weight.squeeze(1), mixer.conv1d.bias))
        x, b, c = mixed.split((24, 10, 10), -1)
        x, b, c = x.unflatten(-1, (4, 6)), b.unflatten(-1, (2, 5)), c.unflatten(-1, (2, 5))
        times = F.softplus(times + mixer.dt_bias)
        found, _ = scan(x * times.unsqueeze(-1), b, c, -mixer.A_log.exp() * times, chunk=3)
        found = (found + mixer.D.unsqueeze(-1) * x).flatten(2)
        same([mixer.out_proj(mixer.norm(found, gate))], [mixer(hidden)], 1e-5)


def test_heads_that_groups_do_not_divide_are_refused():
    values, _, _, log_decay = given(heads=4)
    three = tiny.randn(2, TIME, 3, 5)
    with pytest.raises(AssertionError, match="3 groups do not divide 4 heads"):
        scan(values, three, three, log_decay)
