"""The loop divides once, so that no split of a batch changes anything, and never lets a NaN through."""

import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import tiny_run
import torch
from safetensors.torch import load_file

from limbeck.errors import Interrupted, LimbeckError, NonFinite
from limbeck.objectives.cross_entropy import cross_entropy
from limbeck.objectives.forward_kl import forward_kl
from limbeck.training import loop, meter

HERE = Path(__file__).parent


def plain_gradients() -> dict[str, torch.Tensor]:
    """One forward of the whole batch of the first step, by transformers alone, in the plainest way."""
    student, teacher = (
        tiny.llama(dtype=torch.float64, seed=1),
        tiny.llama(dtype=torch.float64, seed=2),
    )
    batch = tiny_run.Ragged().batch(range(8))
    logits = student(batch.input_ids).logits.flatten(0, 1)
    wanted = teacher(batch.input_ids).logits.flatten(0, 1).detach()
    rows = tiny.every(batch)
    each = 0.5 * cross_entropy(logits, None, rows) + forward_kl(
        logits, wanted, rows, temperature=2.0
    )
    ((each * rows.weights).sum() / rows.weights.sum()).backward()
    return {f"student.{name}": parameter.grad for name, parameter in student.named_parameters()}


@pytest.mark.parametrize("micro_rows", [1, 2, 4, 8])
def test_gradients_do_not_depend_on_micro_batches(tmp_path, micro_rows):
    work = tiny_run.job(tmp_path, stage_=tiny_run.stage(micro_rows=micro_rows))
    found, wanted = tiny_run.gradients(work), plain_gradients()
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-10, rtol=0)


def test_a_mean_of_micro_batch_means_would_be_seen():
    batch = tiny_run.Ragged().batch(range(8))
    assert len(set(batch.weights.sum(1).tolist())) > 4, (
        "rows must count unevenly for these tests to bite"
    )


def test_two_ranks_give_the_gradients_of_one(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0",
         "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", HERE / "two_ranks.py", "gradients", tmp_path],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found, wanted = load_file(tmp_path / "gradients.safetensors"), plain_gradients()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-10, rtol=0)


def test_the_logged_terms_are_sums_over_counts(tmp_path):
    work = tiny_run.job(tmp_path)
    (entry,) = loop.one_step([work])
    student, teacher = (
        tiny.llama(dtype=torch.float64, seed=1),
        tiny.llama(dtype=torch.float64, seed=2),
    )
    batch = tiny_run.Ragged().batch(range(8))
    rows = tiny.every(batch)
    with torch.no_grad():
        logits = student(batch.input_ids).logits.flatten(0, 1)
        wanted = teacher(batch.input_ids).logits.flatten(0, 1)
    ce = (cross_entropy(logits, None, rows) * rows.weights).sum() / rows.weights.sum()
    kl = (
        forward_kl(logits, wanted, rows, temperature=2.0) * rows.weights
    ).sum() / rows.weights.sum()
    assert entry["terms"]["cross_entropy"] == pytest.approx(float(ce), abs=1e-10)
    assert entry["terms"]["forward_kl"] == pytest.approx(float(kl), abs=1e-10)
    assert entry["loss"] == pytest.approx(0.5 * float(ce) + float(kl), abs=1e-10)


@pytest.mark.parametrize("kept", [2, 4])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, kept):
    straight = tiny_run.job(tmp_path / "straight")
    loop.run([straight])
    first = tiny_run.job(tmp_path / "resumed")
    calls = iter(range(100))
    first.stop = lambda: next(calls) == kept
    with pytest.raises(Interrupted, match=f"step {kept} of 6"):
        loop.run([first])
    second = tiny_run.job(tmp_path / "resumed")
    assert second.step == kept
    loop.run([second])
    for name in ("rank-0000.safetensors", "state.json"):
        left = (tmp_path / "straight/checkpoints/000006" / name).read_bytes()
        right = (tmp_path / "resumed/checkpoints/000006" / name).read_bytes()
        assert left == right, name
    steps = [line["step"] for line in meter.read(tmp_path / "resumed/log.jsonl")]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_weights_move_and_the_loss_falls(tmp_path):
    work = tiny_run.job(tmp_path, stage_=tiny_run.stage(budget="30 steps"))
    loop.run([work])
    losses = [line["loss"] for line in meter.read(tmp_path / "log.jsonl")]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_stops_before_weights_change(tmp_path, value):
    work = tiny_run.job(tmp_path)
    loop.one_step([work])
    work.save(1, 96)
    work.saved_at = 1
    parameters = dict(work.step_module.named_parameters())
    before = {name: tensor.full_tensor().clone() for name, tensor in parameters.items()}

    def broken(student, teacher, rows):
        return forward_kl(student, teacher, rows) * torch.where(
            rows.labels == rows.labels[0], value, 1.0
        )

    work.functions = [cross_entropy, broken]
    work.stage = tiny_run.stage(objective=["cross_entropy", "forward_kl"])
    with pytest.raises(
        NonFinite, match=r"step 1: forward_kl is (nan|inf).*checkpoint 1 is the last"
    ):
        loop.one_step([work])
    for name, tensor in parameters.items():
        assert torch.equal(tensor.full_tensor(), before[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_step_in_which_nothing_counts_changes_no_weight(tmp_path, dtype):
    class Silent(tiny_run.Ragged):
        def batch(self, positions):
            found = super().batch(positions)
            found.weights.zero_()
            return found

    work = tiny_run.job(tmp_path, dtype=dtype)
    work.ahead.source = Silent()
    before = {n: p.full_tensor().clone() for n, p in work.step_module.named_parameters()}
    (entry,) = loop.one_step([work])
    assert entry["loss"] == 0.0
    assert all(
        torch.equal(p.full_tensor(), before[n]) for n, p in work.step_module.named_parameters()
    )


def test_a_frozen_parameter_is_bit_identical_after_steps_with_decay(tmp_path):
    student = tiny.llama(dtype=torch.float64, seed=1)
    student.model.embed_tokens.requires_grad_(False)
    before = student.model.embed_tokens.weight.detach().clone()
    work = tiny_run.job(tmp_path, student=student)
    loop.run([work])
    assert torch.equal(work.step_module.student.model.embed_tokens.weight.full_tensor(), before)


def test_rows_that_do_not_split_evenly_are_refused():
    with pytest.raises(LimbeckError, match="make rows_per_step a multiple of 16"):
        loop.check_split(tiny_run.stage(), loop.parallel.World(0, 8, torch.device("cpu")))


def test_a_ramp_moves_a_weight_over_the_budget(tmp_path):
    ramp = {"from": 1.0, "to": 0.0}
    asked = tiny_run.stage(
        objective=[{"cross_entropy": {"weight": ramp}}, {"forward_kl": {"weight": 0.0}}]
    )
    work = tiny_run.job(tmp_path, stage_=asked)
    loop.run([work])
    lines = meter.read(tmp_path / "log.jsonl")
    assert lines[0]["loss"] == pytest.approx(lines[0]["terms"]["cross_entropy"], abs=1e-12)
    assert lines[-1]["loss"] == 0.0
    assert lines[-1]["terms"]["cross_entropy"] > 0
