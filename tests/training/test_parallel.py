"""Sharding keeps masters, weights and teacher in their own numbers, and gives back what it gathers."""

import pytest
import tiny
import tiny_run
import torch

from limbeck.errors import LimbeckError
from limbeck.models import layout
from limbeck.recipe import Optimizer
from limbeck.training import checkpoint, heldout, optim, parallel
from limbeck.training.step import Step
from limbeck.types import Signal, TopK


def step_in(dtype: torch.dtype) -> Step:
    student = tiny.llama(seed=1)
    step = Step(student, vocab=tiny.VOCAB, chunk=5)
    parallel.shard(step, layout.layers(student), tiny_run.world(), dtype)
    return step


def test_bf16_compute_leaves_weights_and_the_teachers_numbers_as_they_are():
    step, batch = step_in(torch.bfloat16), tiny.batch(2, 12)
    batch.weights.fill_(0.3)
    logprobs = tiny.randn(24, 6, dtype=torch.float32).log_softmax(-1)
    ids = torch.arange(5).repeat(24, 1)
    signal = Signal(topk=TopK(ids, logprobs[:, :5], logprobs[:, 5]))
    seen = {}

    def look(student, teacher, rows):
        seen.update(student=student, teacher=teacher, rows=rows)
        return student.sum(-1) * 0 + 1

    total, sums = step(batch, signal, [look], [1.0])
    assert torch.equal(seen["teacher"].logprobs, logprobs[20:24, :5])
    assert seen["rows"].weights.dtype == torch.float32
    assert float(sums[0]) == pytest.approx(24 * 0.3, rel=1e-6)
    total.backward()
    assert {p.dtype for p in step.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in step.parameters() if p.grad is not None} == {torch.float32}


def test_bf16_compute_is_near_float32_compute():
    batch = tiny.batch(2, 12)
    values = []
    for dtype in (torch.float32, torch.bfloat16):
        _, sums = step_in(dtype)(batch, None, [tiny_run.find("objectives", "cross_entropy")], [1.0])
        values.append(float(sums[0]))
    assert values[0] != values[1]
    assert values[1] == pytest.approx(values[0], rel=2e-2)


def test_a_checkpoint_after_judging_holds_masters_and_moments(tmp_path):
    work = tiny_run.job(tmp_path, dtype=torch.float32)
    tiny_run.loop.one_step([work])
    heldout.loss(work.step_module, tiny_run.Ragged(), range(3), work.world)
    work.save(1, 96)
    again = tiny_run.job(tmp_path, dtype=torch.float32)
    assert again.step == 1
    for name, parameter in work.step_module.named_parameters():
        other = dict(again.step_module.named_parameters())[name]
        assert torch.equal(parameter.full_tensor(), other.full_tensor()), name
        for moment in checkpoint.MOMENTS:
            left, right = work.adam.state[parameter][moment], again.adam.state[other][moment]
            assert torch.equal(left.full_tensor(), right.full_tensor()), name


def test_gathered_parameters_are_never_saved_in_place_of_masters(tmp_path):
    work = tiny_run.job(tmp_path, dtype=torch.float32)
    with torch.no_grad():
        work.step_module(tiny.batch(2, 12), None, [lambda s, t, r: s.sum(-1)], [1.0])
    with pytest.raises(LimbeckError, match="is not what the optimizer trains"):
        work.save(1, 96)
    assert not (tmp_path / "checkpoints/000001").exists()


def test_a_checkpoint_that_lacks_what_a_stage_trains_is_refused(tmp_path):
    work = tiny_run.job(tmp_path, dtype=torch.float32)
    tiny_run.loop.one_step([work])
    kept = [n for n, _ in work.step_module.named_parameters() if "embed" not in n]
    state = {"step": 1, "tokens": 0, "stage": "only", "score": None}
    checkpoint.save(tmp_path / "1", work.step_module, work.adam, state, kept=kept, world=work.world)
    with pytest.raises(LimbeckError, match=r"lacks 'student\.model\.embed_tokens\.weight'"):
        checkpoint.load(tmp_path / "1", work.step_module, work.adam, world=work.world)


def test_activation_checkpointing_changes_no_gradient(tmp_path):
    plain = tiny_run.gradients(tiny_run.job(tmp_path / "a"))
    student = tiny.llama(dtype=torch.float64, seed=1).train()
    student.gradient_checkpointing_enable({"use_reentrant": False})
    calls = []
    layout.layers(student)[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    work = tiny_run.job(tmp_path / "b", student=student)
    work.step_module.train()
    again = tiny_run.gradients(work)
    assert len(calls) == 2 * len(tiny_run.loop.micro_positions(work, 0)), "nothing was recomputed"
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, atol=1e-12, rtol=0)


def test_adamw_of_a_sharded_step_trains_masters():
    step = step_in(torch.bfloat16)
    adam = optim.adamw(step, Optimizer())
    assert all(p.dtype == torch.float32 for group in adam.param_groups for p in group["params"])
