"""Checkpoints are complete or absent, refuse damage by name, and do not care how many ranks wrote them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_run
import torch
from hypothesis import given
from hypothesis import strategies as st

from limbeck import files
from limbeck.errors import Damaged
from limbeck.training import checkpoint, loop, meter
from limbeck.training.checkpoint import Saved, removable

HERE = Path(__file__).parent


def weights(work):
    return {n: p.full_tensor().clone() for n, p in work.step_module.named_parameters()}


def moments(work):
    found = {}
    for name, parameter in work.step_module.named_parameters():
        for moment in checkpoint.MOMENTS:
            found[f"{name} {moment}"] = work.adam.state[parameter][moment].full_tensor().clone()
    return found


def test_what_is_loaded_is_what_was_saved_to_the_bit(tmp_path):
    first = tiny_run.job(tmp_path)
    loop.run([first])
    second = tiny_run.job(tmp_path)
    assert second.step == 6
    for left, right in ((weights(first), weights(second)), (moments(first), moments(second))):
        assert left.keys() == right.keys()
        assert all(torch.equal(left[name], right[name]) for name in left)
    steps = {float(state["step"]) for state in second.adam.state.values()}
    assert steps == {6.0}


def two_ranks(what: str, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d",
         "--rdzv-endpoint=localhost:0", HERE / "two_ranks.py", what, folder],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def test_one_rank_goes_on_from_what_two_ranks_saved(tmp_path):
    two_ranks("train", tmp_path / "two")
    folder = tmp_path / "two/checkpoints/000006"
    assert len(list(folder.glob("rank-*.safetensors"))) == 2
    both = tiny_run.job(tmp_path / "two")
    alone = tiny_run.job(tmp_path / "one", stage_=tiny_run.stage(micro_rows=1))
    loop.run([alone])
    assert both.step == 6
    for name, tensor in weights(alone).items():
        torch.testing.assert_close(weights(both)[name], tensor, atol=1e-9, rtol=0)
    told = [
        [line["grad_norm"] for line in meter.read(tmp_path / name / "log.jsonl")]
        for name in ("one", "two")
    ]
    assert len(told[0]) == 6
    assert told[1] == pytest.approx(told[0], rel=1e-9)  # of all ranks' pieces, not of one's


@pytest.mark.slow
def test_two_ranks_go_on_from_what_one_rank_saved(tmp_path):
    alone = tiny_run.job(tmp_path / "one", stage_=tiny_run.stage(micro_rows=1))
    loop.run([alone])
    for step in ("000006", "000004"):
        shutil.rmtree(tmp_path / "one/checkpoints" / step)
    two_ranks("train", tmp_path / "one")
    found = tiny_run.job(tmp_path / "one")
    assert found.step == 6
    for name, tensor in weights(alone).items():
        torch.testing.assert_close(weights(found)[name], tensor, atol=1e-9, rtol=0)


def test_the_newest_one_that_verifies_is_taken_and_the_reason_told(tmp_path):
    loop.run([tiny_run.job(tmp_path)])
    broken = tmp_path / "checkpoints/000006/rank-0000.safetensors"
    data = bytearray(broken.read_bytes())
    data[-1] ^= 1
    broken.write_bytes(data)
    found, reasons = checkpoint.newest(tmp_path / "checkpoints")
    assert found.name == "000004"
    assert len(reasons) == 1
    assert "000006/rank-0000.safetensors" in reasons[0]


def test_every_flipped_byte_of_a_checkpoint_is_refused_by_name(tmp_path):
    work = tiny_run.job(tmp_path, dtype=torch.float32)
    work.save(1, 96)
    folder = tmp_path / "checkpoints/000001"
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        stride = max(1, len(data) // 400)
        for place in range(0, len(data), stride):
            wrong = bytearray(data)
            wrong[place] ^= 0xFF
            path.write_bytes(wrong)
            with pytest.raises(Damaged, match=path.name):
                checkpoint.load(folder, work.step_module, work.adam, world=work.world)
        path.write_bytes(data)
    files.verify(folder)


def test_an_incomplete_folder_is_no_checkpoint(tmp_path):
    work = tiny_run.job(tmp_path)
    work.save(1, 96)
    (tmp_path / "checkpoints/000002").mkdir()
    (tmp_path / "checkpoints/000002/state.json").write_text("{}")
    found, _ = checkpoint.newest(tmp_path / "checkpoints")
    assert found.name == "000001"


def test_nothing_is_removed_while_the_newest_does_not_verify(tmp_path):
    work = tiny_run.job(tmp_path)
    for step in (1, 2, 3):
        work.save(step, 96)
    (tmp_path / "checkpoints/000003/state.json").write_text("{}")
    with pytest.raises(Damaged):
        checkpoint.prune(tmp_path / "checkpoints", keep_last=1, keep_best=0)
    assert len(checkpoint.found(tmp_path / "checkpoints")) == 3


def test_prune_keeps_the_last_and_the_best(tmp_path):
    work = tiny_run.job(tmp_path)
    parameters = [name for name, _ in work.step_module.named_parameters()]
    for step, score in ((1, 2.0), (2, 1.0), (3, 3.0), (4, 4.0)):
        state = {"step": step, "tokens": 0, "stage": "only", "score": score}
        target = tmp_path / f"{step:06d}"
        checkpoint.save(
            target, work.step_module, work.adam, state, kept=parameters, world=work.world
        )
    checkpoint.prune(tmp_path, keep_last=1, keep_best=1)
    assert [item.step for item in checkpoint.found(tmp_path)] == [4, 2]


@given(
    scores=st.lists(st.one_of(st.none(), st.floats(0, 9)), min_size=1, max_size=12),
    keep_last=st.integers(1, 4),
    keep_best=st.integers(0, 3),
)
def test_the_newest_and_the_best_are_never_removable(scores, keep_last, keep_best):
    saved = [Saved(Path(str(step)), step, score) for step, score in enumerate(scores)]
    going = removable(saved, keep_last=keep_last, keep_best=keep_best)
    assert saved[-1] not in going
    judged = [item.score for item in saved if item.score is not None]
    if keep_best and judged:
        assert min(judged) in [item.score for item in saved if item not in going]
    assert len(saved) - len(going) <= keep_last + keep_best
    assert len(saved) - len(going) >= min(len(saved), keep_last)
