"""Mixers keep documents apart, see no token that is to come, write nothing at padding, and do what is written of them."""

import math

import pytest
import tiny
import tiny_hybrid
import torch
from tiny_hybrid import MIXERS
from torch.nn import functional
from transformers import DynamicCache
from transformers.models.bamba.modeling_bamba import BambaMixer

from limbeck.models import attention, hybrid, mixers
from limbeck.models.mixers import GATE_OPEN, DiscreteMamba2, DocumentsMixer
from limbeck.types import edges

each_mixer = pytest.mark.parametrize("mixer", MIXERS)
LENGTHS = (1, 4, 1, 5)
TIME = sum(LENGTHS)


def one(mixer, *, groups=4, state=5, dtype=torch.float64, seed=5):
    """A mixer by itself whose parameters are random: 4 heads of 4 channels."""
    origin = tiny_hybrid.teacher()
    config = hybrid.config_of(origin.config, hybrid.Shape(mixer, (), 4, 4, state))
    config.mamba_n_groups = groups
    found = DiscreteMamba2(config, 0) if mixer == "discrete_mamba2" else BambaMixer(config, 0)
    mixers.with_documents(found)
    source = tiny.generator(seed)
    with torch.no_grad():
        for parameter in found.parameters():
            noise = torch.randn(parameter.shape, generator=source, dtype=torch.float64)
            parameter.copy_(0.5 * noise)
    return found.to(dtype).eval()


def inputs(batch=2, time=TIME, *, dtype=torch.float64, seed=1):
    return tiny.randn(batch, time, 16, seed=seed).to(dtype)


def mask(batch=2):
    ids = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    return attention.as_mask(edges(ids.repeat(batch, 1)))


def learned(mixer, outputs, *more):
    """Gradients of a sum with random coefficients."""
    total = (tiny.randn(*outputs.shape, seed=9).to(outputs.dtype) * outputs).sum()
    return torch.autograd.grad(total, [*mixer.parameters(), *more])


@each_mixer
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_packed_documents_are_mixed_and_learn_as_if_each_were_alone(mixer, groups):
    found, hidden = one(mixer, groups=groups), inputs().requires_grad_()
    packed = found(hidden, attention_mask=mask())
    apart = torch.cat([found(part) for part in hidden.split(LENGTHS, 1)], 1)
    torch.testing.assert_close(packed, apart, atol=1e-10, rtol=0)
    for mine, theirs in zip(
        learned(found, packed, hidden), learned(found, apart, hidden), strict=True
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-9, rtol=1e-9)
    assert (found(hidden) - apart).abs().max() > 1e-2


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("time", [1, 11, 130])
def test_the_mixer_with_documents_is_transformers_own_without_them(groups, time):
    ours = one("mamba2", groups=groups, dtype=torch.float32)
    assert type(ours) is DocumentsMixer
    hidden = inputs(time=time, dtype=torch.float32)
    wanted = BambaMixer.forward(ours, hidden)
    torch.testing.assert_close(ours(hidden), wanted, atol=1e-5, rtol=1e-5)
    found = learned(ours, ours(hidden))
    for mine, theirs in zip(found, learned(ours, wanted), strict=True):
        size = max(1.0, float(theirs.abs().max()))
        torch.testing.assert_close(mine, theirs, atol=1e-5 * size, rtol=1e-4)


@each_mixer
@pytest.mark.parametrize("given", ["nothing", "documents"])
def test_a_later_token_changes_nothing_before_it(mixer, given):
    found, hidden = one(mixer), inputs()
    asked = {"attention_mask": mask()} if given == "documents" else {}
    before = found(hidden, **asked)
    for place in range(1, TIME):
        other = hidden.clone()
        other[:, place] += 1
        after = found(other, **asked)
        assert torch.equal(after[:, :place], before[:, :place])
        assert (after[:, place] - before[:, place]).abs().max() > 1e-3


@each_mixer
def test_padding_on_the_left_writes_nothing(mixer):
    found, hidden = one(mixer, dtype=torch.float32), inputs(dtype=torch.float32)
    seen = torch.ones(2, TIME, dtype=torch.int64)
    seen[0, :3] = 0
    loud = hidden.clone()
    loud[0, :3] = 50.0
    padded = found(loud, attention_mask=seen)
    torch.testing.assert_close(padded[0, 3:], found(hidden[:1, 3:])[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(padded[1], found(hidden[1:])[0], atol=1e-5, rtol=1e-5)
    assert (padded[0, 3:] - found(loud)[0, 3:]).abs().max() > 1e-2


def test_a_state_keeps_all_of_itself_at_padding():
    mixer, told = one("discrete_mamba2"), []
    seen = torch.ones(2, TIME, dtype=torch.int64)
    seen[0, 4:7] = 0
    with mixers.watched(mixer, told.append):
        mixer(inputs(), attention_mask=seen)
    assert not told[0].log_decay[0, 4:7].any()
    assert not told[0].values[0, 4:7].any()
    assert told[0].log_decay[1].all()


def rows(mixer):
    """Where in the rows of in_proj a discrete mixer has values, write, read, gate and decay."""
    sizes = [mixer.inner, *[mixer.groups * mixer.state] * 2, mixer.inner, mixer.heads]
    ends = torch.tensor(sizes).cumsum(0).tolist()
    return [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]


@pytest.mark.parametrize("raw", [50.0, -50.0, 1e4, -1e4, 0.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_decays_are_finite_forward_and_backward(raw, dtype):
    mixer, hidden = one("discrete_mamba2", dtype=dtype), inputs(dtype=dtype)
    decay, watched = rows(mixer)[-1], []
    with torch.no_grad():
        mixer.in_proj.weight[decay] = 0
        mixer.in_proj.weight[decay, 0] = raw
        hidden[..., 0] = 1
    with mixers.watched(mixer, watched.append):
        found = mixer(hidden)
    assert found.isfinite().all()
    assert all(one.isfinite().all() for one in learned(mixer, found))
    a = watched[0].log_decay.exp()
    wanted = {0.0: 0.5}.get(raw, 0.0 if raw > 0 else 1.0)
    assert watched[0].log_decay.dtype == torch.float32
    torch.testing.assert_close(a, torch.full_like(a, wanted), atol=1e-20, rtol=0)


@pytest.mark.parametrize("raw", [50.0, -50.0, 1e4, -1e4])
def test_extreme_time_steps_are_finite_forward_and_backward(raw):
    mixer, hidden = one("mamba2", dtype=torch.float32), inputs(dtype=torch.float32)
    with torch.no_grad():
        mixer.dt_bias.fill_(raw)
    found = mixer(hidden, attention_mask=mask())
    assert found.isfinite().all()
    assert all(one.isfinite().all() for one in learned(mixer, found))


def test_the_gates_constant_opens_it():
    constant = torch.tensor(GATE_OPEN, dtype=torch.float64)
    assert float(functional.silu(constant)) == pytest.approx(1, abs=1e-12)
    assert pytest.approx(1.2784645428, abs=1e-9) == GATE_OPEN


def test_the_worked_example_comes_out_of_the_mixer():
    """a = .9, .5, .8; D = .1; x = 1, 2, 3: y = 1.1, .7, 11.7, of one head of one channel and a state of two."""
    config = hybrid.config_of(
        tiny_hybrid.teacher().config, hybrid.Shape("discrete_mamba2", (), 16, 1, 2)
    )
    config.mamba_n_groups = 16
    mixer = DiscreteMamba2(config, 0).double()
    a = torch.tensor([0.9, 0.5, 0.8], dtype=torch.float64)
    table = torch.tensor(  # x, B, C and what the decay is made of, of three tokens
        [[1, 1, 0, 1, 1], [2, 0, 1, 1, 0], [3, 1, 1, 2, 1]], dtype=torch.float64
    )
    raw = -torch.log(a / (1 - a))  # a = sigmoid(-raw)
    hidden = torch.zeros(1, 3, 16, dtype=torch.float64)
    hidden[0, :, :5], hidden[0, :, 5] = table, raw
    values, write, read, gate, decay = rows(mixer)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.zero_()
        mixer.conv1d.weight[..., -1] = 1
        weight = mixer.in_proj.weight
        weight[values.start, 0] = weight[write.start, 1] = weight[write.start + 1, 2] = 1
        weight[read.start, 3] = weight[read.start + 1, 4] = weight[decay.start, 5] = 1
        assert gate.stop - gate.start == 16
        mixer.z_bias.fill_(GATE_OPEN)
        mixer.D.fill_(0.1)
        mixer.out_proj.weight[0, 0] = 1
        found = mixer(hidden)[0, :, 0]
    wanted = torch.tensor([1.1, 0.7, 11.7], dtype=torch.float64)
    torch.testing.assert_close(found, wanted, atol=1e-9, rtol=0)


def test_the_discrete_mixer_is_what_the_paper_writes():
    """Its own recurrence, one number at a time, from its own parameters."""
    mixer, hidden = one("discrete_mamba2", groups=2), inputs(1)
    projected = mixer.in_proj(hidden)[0]
    _, _, _, gate, decay = rows(mixer)
    padded = functional.pad(projected[:, : mixer.channels], (0, 0, 3, 0))
    weight, out = mixer.conv1d.weight.squeeze(1), []
    state = torch.zeros(4, 4, 5, dtype=torch.float64)
    for now in range(TIME):
        inside = (padded[now : now + 4] * weight.T).sum(0) + mixer.conv1d.bias
        x, b, c = inside.split([16, 10, 10])
        x, b, c = x.view(4, 4), b.view(2, 5).repeat_interleave(2, 0), c.view(2, 5)
        c = c.repeat_interleave(2, 0)
        a = torch.sigmoid(-projected[now, decay])
        state = a[:, None, None] * state + x[:, :, None] * b[:, None, :]
        y = (state @ c[:, :, None])[..., 0] + mixer.D[:, None] * x
        z = functional.silu(projected[now, gate] + mixer.z_bias)
        out.append(mixer.out_proj(y.flatten() * z))
    torch.testing.assert_close(mixer(hidden)[0], torch.stack(out), atol=1e-10, rtol=0)


@each_mixer
def test_what_was_watched_is_told_once_and_no_longer(mixer):
    found, told = one(mixer), []
    with mixers.watched(found, told.append):
        found(inputs())
    found(inputs())
    assert len(told) == 1
    assert told[0].values.shape == (2, TIME, 4, 4)
    assert told[0].write.shape == told[0].read.shape == (2, TIME, 4, 5)
    assert told[0].log_decay.shape == (2, TIME, 4)
    assert (told[0].log_decay <= 0).all()


def test_only_plain_mixers_of_bamba_take_documents():
    model = tiny_hybrid.made(tiny_hybrid.teacher(), "discrete_mamba2")
    mixers.with_documents(model)
    assert all(type(one) is DiscreteMamba2 for one in hybrid.mixers(model).values())
    assert math.isclose(GATE_OPEN, 1.2784645427610738)


@pytest.mark.parametrize(
    ("parts", "padded"),
    [((11,), 0), ((7, 4), 0), ((6, 1, 1, 3), 0), ((1,) * 11, 0), ((11,), 3), ((7, 4), 3)],
)
def test_the_mixer_goes_on_from_a_cache_as_transformers_own_reads_it_all(parts, padded):
    ours, hidden = one("mamba2", dtype=torch.float32), inputs(time=11, dtype=torch.float32)
    seen = torch.ones(hidden.shape[:2], dtype=torch.int64)
    seen[0, :padded] = 0
    config = hybrid.config_of(tiny_hybrid.teacher().config, hybrid.Shape("mamba2", (), 4, 4, 5))

    def through(forward, parts):
        cache, found, at = DynamicCache(config=config), [], 0
        for part in parts:
            asked = {"attention_mask": seen[:, :part]} if at == 0 else {}
            found.append(forward(hidden[:, at : at + part], cache, **asked))
            at += part
        held = cache.layers[0]
        return torch.cat(found, 1)[seen.bool()], held.conv_states[0], held.recurrent_states[0]

    with torch.no_grad():
        mine = through(ours, parts)
        theirs = through(lambda *given, **told: BambaMixer.forward(ours, *given, **told), (11,))
    for left, right in zip(mine, theirs, strict=True):
        torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-4)
