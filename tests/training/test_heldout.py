"""A look at held-out rows says what whole passes say, for any number of ranks, and disturbs nothing."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import tiny_hybrid
import tiny_run
import torch

from limbeck.evaluation import agreement as near
from limbeck.evaluation import bits_per_byte as bits
from limbeck.evaluation._judge import judge
from limbeck.objectives.cross_entropy import cross_entropy
from limbeck.objectives.forward_kl import forward_kl
from limbeck.training import heldout, loop
from limbeck.training.step import terms_at
from limbeck.types import Signal, TopK, Wanted

HERE = Path(__file__).parent
MODELS = {"teacher": 2, "student": 1}


def model(name):
    return tiny.llama(dtype=torch.float64, seed=MODELS[name])


class Shown(tiny_run.Ragged):
    """Only the rows that `held_out` looks at, from 0 on."""

    def batch(self, positions):
        return super().batch([10 + place for place in positions])


def same(found, wanted, tolerance):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, rel=tolerance, abs=tolerance), name


def test_its_figures_are_those_of_the_evaluation_at_the_end(tmp_path):
    seen = tiny_run.looked(tiny_run.job(tmp_path))
    measures = [(bits.bits_per_byte, {}), (near.agreement, {"k": 3})]
    wanted = judge(
        {name: model(name) for name in MODELS}, Shown(), measures, rows=5, vocab=tiny.VOCAB,
        device=torch.device("cpu"),
    ).figures  # fmt: skip
    for measure in ("bits_per_byte", "agreement"):
        same(seen["measures"][measure], wanted[measure]["student"], 1e-6)
    assert seen["measures"]["agreement"]["teacher_mass_on_its_top_k"] > 0.1


def test_its_terms_are_means_over_the_tokens_that_count(tmp_path):
    seen = tiny_run.looked(tiny_run.job(tmp_path))
    batch = tiny_run.Ragged().batch(range(10, 15))
    rows = tiny.every(batch)
    with torch.no_grad():
        said, taught = (
            model(name)(batch.input_ids).logits.flatten(0, 1) for name in ("student", "teacher")
        )
    values = {
        "cross_entropy": cross_entropy(said, None, rows),
        "forward_kl": forward_kl(said, taught, rows, temperature=2.0),
    }
    for name, value in values.items():
        mean = float((value * rows.weights).sum() / rows.weights.sum())
        assert seen["terms"][name] == pytest.approx(mean, abs=1e-10), name
    assert seen["cross_entropy"] == seen["terms"]["cross_entropy"]


def test_blocks_that_the_teacher_feeds_are_measured_as_they_run_freely(tmp_path):
    work = tiny_hybrid.job(tmp_path)
    seen = tiny_run.looked(work)
    origin = tiny_hybrid.teacher(dtype=torch.float64)
    free = tiny_hybrid.rough(origin, "discrete_mamba2", [1])
    measures = [(bits.bits_per_byte, {}), (near.agreement, {"k": 3})]
    wanted = judge(
        {"teacher": origin, "student": free}, Shown(), measures, rows=5, vocab=tiny.VOCAB,
        device=torch.device("cpu"),
    ).figures  # fmt: skip
    for measure in ("bits_per_byte", "agreement"):
        same(seen["measures"][measure], wanted[measure]["student"], 1e-6)
    batch = tiny_run.Ragged().batch(range(10, 15))
    bound, _ = terms_at(work.functions, work.stage.terms, 0.0)
    with torch.no_grad():
        fed = work.teacher.signal(batch, tiny_run.held_out(work).wanted(bound))
        _, sums = work.step_module(batch, fed, bound, [1.0, 1.0])
    means = sums / batch.weights.sum()
    assert list(seen["terms"].values()) == pytest.approx(means.tolist(), rel=1e-9)
    assert list(seen["terms"]) == ["mixing_matrix", "feature_norm"]


@pytest.mark.parametrize("micro_rows", [1, 5])
def test_rows_of_a_forward_change_no_figure(tmp_path, micro_rows):
    one = tiny_run.looked(tiny_run.job(tmp_path / "one"))
    other = tiny_run.looked(tiny_run.job(tmp_path / "other"), micro_rows=micro_rows)
    for measure, figures in one["measures"].items():
        same(other["measures"][measure], figures, 1e-7)
    same(other["terms"], one["terms"], 1e-12)


@pytest.mark.slow
def test_two_ranks_see_the_same_to_the_last_bit(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0",
         "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", HERE / "two_ranks.py", "watch", tmp_path],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    asked = tiny_run.stage(micro_rows=1)
    alone = tiny_run.looked(tiny_run.job(tmp_path / "alone", stage_=asked))
    assert json.loads((tmp_path / "seen.json").read_text()) == alone


def test_a_row_in_which_nothing_counts_adds_nothing(tmp_path):
    class Silent(tiny_run.Ragged):
        def batch(self, positions):
            found = super().batch(positions)
            found.weights[torch.tensor([position == 14 for position in positions])] = 0.0
            return found

    work = tiny_run.job(tmp_path)
    less = tiny_run.looked(work, rows=range(10, 14))
    assert tiny_run.looked(work, source=Silent()) == less
    nothing = tiny_run.looked(work, source=Silent(), rows=range(14, 15))
    assert nothing["cross_entropy"] == nothing["measures"]["agreement"]["tokens"] == 0.0


def test_without_a_teacher_only_the_student_is_told_of(tmp_path):
    seen = tiny_run.looked(tiny_run.job(tmp_path), teacher=None)
    assert list(seen["terms"]) == ["cross_entropy"]
    assert list(seen["measures"]) == ["bits_per_byte"]


class Keeps:
    """Keeps the k likeliest ids of a teacher and the mass of the others."""

    def __init__(self, k):
        self.k, self.alive = k, tiny_run.Alive(model("teacher"))

    def signal(self, batch, wanted: Wanted) -> Signal:
        said = self.alive.signal(batch, wanted)
        logprobs = said.head(said.hidden).log_softmax(-1)
        best = logprobs.topk(self.k)
        rest = (1 - best.values.exp().sum(-1)).clamp(min=1e-30).log()
        return Signal(topk=TopK(best.indices, best.values, rest))


def test_of_kept_ids_choices_and_masses_are_exact_and_the_kl_is_a_little_less(tmp_path):
    work = tiny_run.job(tmp_path)
    whole = tiny_run.looked(work)["measures"]["agreement"]
    kept = tiny_run.looked(work, teacher=Keeps(20))["measures"]["agreement"]
    assert set(whole) - set(kept) == {"teacher_nll"}
    for name in set(kept) - {"kl_to_teacher"}:
        assert kept[name] == pytest.approx(whole[name], rel=1e-6), name
    assert 0.9 * whole["kl_to_teacher"] < kept["kl_to_teacher"] < whole["kl_to_teacher"]


def test_a_look_leaves_weights_gradients_and_random_numbers_as_they_are(tmp_path):
    plain, watched = tiny_run.job(tmp_path / "plain"), tiny_run.job(tmp_path / "watched")
    for work in (plain, watched):
        work.step_module.train()
        loop.one_step([work])
    state = torch.get_rng_state()
    tiny_run.looked(watched)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in watched.step_module.modules())
    for work in (plain, watched):
        loop.one_step([work])
    mine, theirs = (dict(work.step_module.named_parameters()) for work in (watched, plain))
    assert all(torch.equal(mine[n].full_tensor(), theirs[n].full_tensor()) for n in theirs)


def test_what_is_infinite_stays_so_and_hides_nothing():
    assert heldout._sum([1.0, math.inf]) == math.inf
    assert math.isnan(heldout._sum([1.0, math.nan]))
    assert heldout._sum([0.1] * 10) == 1.0
