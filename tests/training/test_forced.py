"""Stages that feed blocks what the teacher's are fed: equal layers differ by nothing, and no split changes a gradient."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import tiny_hybrid
import tiny_run
import torch
from safetensors.torch import load_file
from tiny_hybrid import MIXERS, made, matrices, norms, rough, teacher

from limbeck.models import forcing, load, place, taps
from limbeck.objectives.cross_entropy import cross_entropy
from limbeck.teachers.live import Live
from limbeck.training import links, loop
from limbeck.training.step import Step

DOUBLE = torch.float64


def rows():
    """Six rows of two documents, each with its own number of tokens that count."""
    found = tiny_run.Ragged().batch(range(6))
    documents = (torch.arange(12) >= 5).long().expand(6, -1)
    places = torch.cat([torch.arange(5), torch.arange(7)]).expand(6, -1)
    return replace(found, document_ids=documents, position_ids=places)


def part(batch, begin, end):
    names = ("input_ids", "labels", "position_ids", "document_ids", "weights", "label_bytes")
    some = {name: getattr(batch, name)[begin:end] for name in names}
    return replace(batch, **some, addresses=batch.addresses[begin:end])


def asked(student, origin, batch, terms, *, step=None):
    """Total, sums and gradients by name."""
    step = step or Step(student, vocab=tiny.VOCAB, chunk=5)
    step.zero_grad()
    said = Live(origin).signal(batch, links.wanted([terms]))
    total, sums = step(batch, said, terms, [1.0] * len(terms))
    total.backward()
    grads = {n: p.grad.clone() for n, p in step.named_parameters() if p.grad is not None}
    return total.detach(), sums, grads


@pytest.mark.parametrize("tap", ["layers.*", "layers.*.self_attn"])
@pytest.mark.parametrize("mixer", MIXERS)
def test_a_teachers_own_blocks_differ_by_nothing(mixer, tap):
    origin = teacher(dtype=DOUBLE)
    student = made(origin, mixer, "all")
    total, _, grads = asked(student, origin, rows(), [norms(tap, tap)])
    assert float(total) == 0
    assert all(grad.isfinite().all() for grad in grads.values())


@pytest.mark.parametrize(
    ("tap", "alone"),
    [
        ("layers.*.mamba", True),
        ("layers.*.self_attn", True),
        ("layers.*.input_layernorm", True),
        ("layers.*.feed_forward", False),
        ("layers.*.pre_ff_layernorm", False),
        ("layers.*", False),
    ],
)
def test_mlps_are_left_out_where_every_term_looks_before_them(tap, alone):
    assert links.mixers_alone([norms(tap)]) is alone
    assert links.mixers_alone([matrices(), norms(tap)]) is alone


def test_a_neighbours_blocks_and_what_a_norm_gave_do_not():
    origin = teacher(dtype=DOUBLE)
    student = made(origin, "mamba2", "all")
    beside, _, _ = asked(student, origin, rows(), [norms(shift=1, only=range(2))])
    assert float(beside) > 1
    batch, term = rows(), norms("layers.*.self_attn", "layers.*.self_attn")
    said = Live(origin).signal(batch, links.wanted([[term]]))
    _, normed, _ = taps.signal(
        origin, batch, replace(links.wanted([[term]]), features=("layers.1.input_layernorm",))
    )
    wrong = said.features | {forcing.entering(1): normed["layers.1.input_layernorm"]}
    step = Step(student, vocab=tiny.VOCAB)
    with torch.no_grad():
        assert float(step(batch, said, [term], [1.0])[0]) == 0
        assert float(step(batch, replace(said, features=wrong), [term], [1.0])[0]) > 1


def test_a_free_student_is_not_fed():
    """Of two students that differ in their first block, the second block's term is 0 only where it is fed."""
    origin = teacher(dtype=DOUBLE)
    term, students = norms(only=[1]), [made(origin, "discrete_mamba2", [1, 2]) for _ in range(2)]
    assert float(asked(students[0], origin, rows(), [term])[0]) == 0
    assert float(asked(students[1], origin, rows(), [replace(term, forced=False)])[0]) > 1


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_blocks_term_gives_no_gradient_to_another(mixer):
    origin = teacher(dtype=DOUBLE)
    student = rough(origin, mixer, [1])
    for number in (0, 2):
        for term in (
            norms("layers.*.mamba", "layers.*.self_attn", only=[number]),
            matrices([number]),
        ):
            _, _, grads = asked(student, origin, rows(), [term])
            reached = {name.split(".")[3] for name, grad in grads.items() if grad.any()}
            assert reached == {str(number)}


def judged(step, batch):
    with torch.no_grad():
        return float(step(batch, None, [cross_entropy], [1.0])[1][0])


def test_a_judged_student_runs_freely_between_forced_steps():
    origin = teacher(dtype=DOUBLE)
    student = rough(origin, "discrete_mamba2", [1])
    step, batch = Step(student, vocab=tiny.VOCAB, chunk=5), rows()
    wanted = judged(step, batch)
    first = asked(student, origin, batch, [matrices()], step=step)
    assert judged(step, batch) == wanted
    again = asked(student, origin, batch, [matrices()], step=step)
    assert float(first[0]) == float(again[0]) > 0


TERMS = {
    "matrices": [matrices()],
    "norms of mixers": [norms("layers.*.mamba", "layers.*.self_attn", only=(0, 2))],
    "norms of blocks": [norms(only=(0, 2))],
    "both": [matrices(), norms(only=(0, 2))],
}
each_terms = pytest.mark.parametrize("terms", TERMS.values(), ids=TERMS)


@each_terms
@pytest.mark.parametrize("mixer", MIXERS)
def test_computing_activations_twice_changes_no_gradient(mixer, terms):
    origin, found = teacher(dtype=DOUBLE), []
    for twice in (False, True):
        student = rough(origin, mixer, [1]).train()
        if twice:
            place.checkpoint_activations(student)
        found.append(asked(student, origin, rows(), terms))
    same(found[1][2], found[0][2], 1e-10)
    assert float(found[0][0]) == pytest.approx(float(found[1][0]), rel=1e-12)


def same(mine, theirs, tolerance):
    assert mine.keys() == theirs.keys()
    assert mine
    for name, gradient in theirs.items():
        torch.testing.assert_close(mine[name], gradient, atol=tolerance, rtol=tolerance)


@each_terms
@pytest.mark.parametrize("mixer", MIXERS)
def test_no_split_of_rows_changes_a_gradient(mixer, terms):
    origin, batch = teacher(dtype=DOUBLE), rows()
    assert len(set(batch.weights.sum(1).tolist())) > 3
    student = rough(origin, mixer, [1])
    total, sums, whole = asked(student, origin, batch, terms)
    for size in (1, 2, 3):
        parts = [
            asked(student, origin, part(batch, begin, begin + size), terms)
            for begin in range(0, 6, size)
        ]
        added = {name: sum(p[2][name] for p in parts if name in p[2]) for name in whole}
        same(added, whole, 1e-10)
        torch.testing.assert_close(sum(p[1] for p in parts), sums, atol=1e-9, rtol=0)
        assert float(sum(p[0] for p in parts)) == pytest.approx(float(total), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_teacher_in_other_numbers_feeds_the_student(dtype):
    origin = teacher("llama")
    student = rough(origin, "discrete_mamba2", [1])
    wanted, _, exact = asked(student, teacher("llama"), rows(), TERMS["both"])
    found, _, grads = asked(student, place.cast(teacher("llama"), dtype), rows(), TERMS["both"])
    rough_ = dtype == torch.bfloat16
    assert float(found) == pytest.approx(float(wanted), rel=3e-2 if rough_ else 1e-5)
    assert grads.keys() == exact.keys()
    assert all(grad.dtype == torch.float32 for grad in grads.values())


def test_nothing_is_asked_of_the_teachers_head():
    wanted = links.wanted([[norms("layers.*.mamba", "layers.*.self_attn", only=[0])]])
    assert not wanted.distribution
    assert wanted.features == ("layers.0.self_attn", "layers.0.entering")
    assert Live(teacher()).signal(rows(), wanted).hidden is None


def test_two_ranks_give_the_gradients_of_one(tmp_path):
    """Rows of uneven weight, one a micro-batch; no term is on what is said, so no gradient enters the last block."""
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0",
         "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", Path(__file__).with_name("two_ranks.py"), "forced", tmp_path],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = load_file(tmp_path / "gradients.safetensors")
    work = tiny_hybrid.job(tmp_path / "one")
    wanted = {n: g for n, g in tiny_run.gradients(work).items() if g is not None}
    assert {name for name in wanted if wanted[name].any()} == {
        n for n in wanted if ".mamba." in n or "input_layernorm" in n
    }
    same({n: g for n, g in found.items() if n in wanted}, wanted, 1e-9)
    assert not any(found[name].any() for name in found.keys() - wanted.keys())


def test_bfloat16_compute_trains_masters_near_what_float32_gives(tmp_path):
    exact = tiny_hybrid.job(tmp_path / "a", dtype=torch.float32)
    low = tiny_hybrid.job(tmp_path / "b", dtype=torch.float32, computed=torch.bfloat16)
    wanted, found = (loop.gradients([work], 0)[0][0] for work in (exact, low))
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, wanted, atol=0, rtol=3e-2)
    assert not torch.equal(found, wanted)
    for parameter in low.step_module.parameters():
        assert parameter.dtype == torch.float32
        assert parameter.grad is None or bool(parameter.grad.full_tensor().isfinite().all())


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_hybrid_that_came_from_its_files_shows_its_mixers(mixer, tmp_path):
    student, origin = rough(teacher(dtype=DOUBLE), mixer, [1]), teacher(dtype=DOUBLE)
    student.save_pretrained(tmp_path)
    loaded = load.load_model(str(tmp_path), dtype=DOUBLE)
    assert taps.check_mixing(loaded, ["layers.0.mamba"]) == {"layers.0.mamba": 4}
    again = load.load_model(str(tmp_path), dtype=DOUBLE)
    found, wanted = (asked(one, origin, rows(), [matrices()])[0] for one in (again, student))
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=1e-12)
