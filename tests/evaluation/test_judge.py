"""One pass measures every model as one whole pass of each would."""

import pytest
import tiny
import tiny_run
import torch

from limbeck.errors import Interrupted
from limbeck.evaluation._judge import judge
from limbeck.evaluation.agreement import agreement
from limbeck.evaluation.bits_per_byte import bits_per_byte

MEASURES = [(bits_per_byte, {}), (agreement, {"k": 3})]
CPU = torch.device("cpu")


def models():
    return {
        name: tiny.llama(seed=seed)
        for name, seed in (("teacher", 2), ("student", 1), ("control", 5))
    }


def judged(**changes):
    asked = {"rows": 6, "vocab": tiny.VOCAB, "device": CPU, "chunk": 7, "rows_at_once": 4}
    return judge(models(), tiny_run.Ragged(), MEASURES, **(asked | changes))


def figures(**changes):
    return judged(**changes).figures


def test_figures_equal_those_of_whole_passes():
    batch = tiny_run.Ragged().batch(range(6))
    found = figures()
    with torch.no_grad():
        logits = {n: m(batch.input_ids).logits.flatten(0, 1) for n, m in models().items()}
    for name, value in logits.items():
        sizes = batch.label_bytes.flatten()
        bits = bits_per_byte(value, None, tiny.every(batch), sizes)
        near = agreement(value, logits["teacher"], tiny.every(batch), sizes, k=3)
        wanted = float(bits["nats"] / bits["tokens"])
        assert found["bits_per_byte"][name]["nats_per_token"] == pytest.approx(wanted, rel=1e-5)
        wanted = float(near["kl"] / near["tokens"])
        assert found["agreement"][name]["kl_to_teacher"] == pytest.approx(
            wanted, rel=1e-4, abs=1e-6
        )


def test_neither_chunks_nor_batches_change_a_figure():
    one, other = figures(), figures(chunk=1000, rows_at_once=1)
    for measure in ("bits_per_byte", "agreement"):
        for model, values in one[measure].items():
            assert other[measure][model] == pytest.approx(values, rel=1e-5, abs=1e-6)


def test_rows_are_kept_by_themselves_and_add_up():
    found = judged(chunk=3)
    assert len(found.addresses) == len(set(found.addresses)) == 6
    for row in range(6):
        alone = tiny_run.Ragged().batch([row])
        with torch.no_grad():
            logits = models()["student"](alone.input_ids).logits.flatten(0, 1)
        wanted = bits_per_byte(logits, None, tiny.every(alone), alone.label_bytes.flatten())
        kept = found.rows["bits_per_byte"]["student"]
        assert {name: values[row] for name, values in kept.items()} == pytest.approx(
            {name: float(value) for name, value in wanted.items()}, rel=1e-5
        )


def test_every_model_gets_a_speed():
    speeds = figures()["speed"]
    assert set(speeds) == {"teacher", "student", "control"}
    assert all(row["tokens_per_second"] > 0 for row in speeds.values())


def test_it_stops_when_asked():
    with pytest.raises(Interrupted, match="the same command measures again"):
        judged(stop=lambda: True)
