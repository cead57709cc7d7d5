"""Agreement compares whole distributions, against sums that are written out."""

import pytest
import tiny
import torch

from limbeck.errors import LimbeckError
from limbeck.evaluation.agreement import agreement, finish
from limbeck.types import Sampled, TopK


def measured(student, teacher, rows, **options):
    sums = agreement(student, teacher, rows, torch.ones(len(rows.labels)), **options)
    return finish({key: float(value) for key, value in sums.items()})


def test_a_model_agrees_with_itself():
    logits = tiny.randn(5, tiny.VOCAB)
    found = measured(logits, logits, tiny.rows(5))
    assert found["kl_to_teacher"] == pytest.approx(0.0, abs=1e-7)
    assert found["top_1_agreement"] == found["top_k_overlap"] == 1.0


def test_every_figure_is_what_a_loop_gives():
    student, teacher = tiny.randn(2, 6, tiny.VOCAB, seed=3)
    rows = tiny.rows(6)
    rows.weights[2] = 0.0
    rows.weights[4] = 0.5
    kl = top = shared = mass = own = nats = weight = 0.0
    for token in range(6):
        p, q = teacher[token].softmax(-1), student[token].softmax(-1)
        w = float(rows.weights[token])
        mine, theirs = set(q.topk(3).indices.tolist()), p.topk(3).indices.tolist()
        kl += w * sum(float(a) * float((a / b).log()) for a, b in zip(p, q, strict=True))
        top += w * float(p.argmax() == q.argmax())
        shared += w * len(mine & set(theirs)) / 3
        mass += w * float(q[theirs].sum())
        own += w * float(p[p.topk(3).indices].sum())
        nats -= w * float(p[rows.labels[token]].log())
        weight += w
    found = measured(student, teacher, rows, k=3)
    wanted = {
        "kl_to_teacher": kl,
        "top_1_agreement": top,
        "top_k_overlap": shared,
        "student_mass_on_teacher_top_k": mass,
        "teacher_mass_on_its_top_k": own,
        "teacher_nll": nats,
    }
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value / weight, rel=1e-5), name
    assert found["tokens"] == weight


def test_of_all_ids_kept_in_any_order_everything_but_the_labels_is_known():
    student, teacher = tiny.randn(2, 6, tiny.VOCAB, seed=3)
    order = torch.randperm(tiny.VOCAB, generator=tiny.generator(1)).repeat(6, 1)
    kept = TopK(order, teacher.log_softmax(-1).gather(-1, order))
    whole, found = (measured(student, one, tiny.rows(6), k=3) for one in (teacher, kept))
    assert set(whole) - set(found) == {"teacher_nll"}
    assert found == pytest.approx({name: whole[name] for name in found}, rel=1e-5)


def test_of_a_sample_the_kl_is_known_and_nothing_else():
    student, teacher = tiny.randn(2, 6, tiny.VOCAB, seed=3)
    p = teacher.softmax(-1)
    ids = torch.arange(tiny.VOCAB).repeat(6)
    entropy = -(p * p.log()).sum(-1)
    each = Sampled.of(ids, p.flatten(), torch.full((6,), tiny.VOCAB), entropy)
    found = measured(student, each, tiny.rows(6))
    wanted = measured(student, teacher, tiny.rows(6))["kl_to_teacher"]
    assert found == {"kl_to_teacher": pytest.approx(wanted, rel=1e-5), "tokens": 6.0}
    unknown = Sampled.of(ids, p.flatten(), torch.full((6,), tiny.VOCAB))
    assert measured(student, unknown, tiny.rows(6)) == {"tokens": 6.0}


def test_swapping_the_sides_gives_another_divergence():
    student, teacher = tiny.randn(2, 6, tiny.VOCAB, seed=3)
    left = measured(student, teacher, tiny.rows(6))["kl_to_teacher"]
    right = measured(teacher, student, tiny.rows(6))["kl_to_teacher"]
    assert abs(left - right) > 1e-3


def test_without_a_teacher_there_is_nothing_to_agree_with():
    with pytest.raises(LimbeckError, match="needs a teacher"):
        measured(tiny.randn(2, 5), None, tiny.rows(2, vocab=5))
