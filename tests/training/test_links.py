"""Terms between taps in the Step: equal to the plain way, whatever the split, and to choices that can be made again."""

import math
from dataclasses import replace

import pytest
import tiny
import tiny_run
import torch

from limbeck.models import taps
from limbeck.objectives.attention_transfer import attention_transfer
from limbeck.objectives.cross_entropy import cross_entropy
from limbeck.objectives.feature_cosine import feature_cosine
from limbeck.objectives.feature_mse import feature_mse
from limbeck.objectives.relation_angle import relation_angle
from limbeck.objectives.relation_distance import relation_distance
from limbeck.recipe import Linked
from limbeck.selection.share import keyed, size
from limbeck.selection.uniforms import uniforms
from limbeck.training import links, share
from limbeck.training.links import Joint, Tied
from limbeck.training.step import Step
from limbeck.types import Signal, Wanted

FIRST = Joint("layers.0", "layers.2", (16, 24), "")
NAMED = replace(FIRST, projector="first")


def addressed(batch):
    """The same rows under addresses that can draw numbers."""
    return replace(batch, addresses=tuple(f"{int(a):032x}" for a in batch.addresses))


def rows(positions=range(8)):
    return addressed(tiny_run.Ragged().batch(positions))


def models():
    student = tiny.llama(dtype=torch.float64, seed=1)
    teacher = tiny.llama(dtype=torch.float64, seed=2, layers=3, width=24)
    return student, teacher


def said(teacher, batch, *, heads=()):
    wanted = Wanted(features=("layers.0", "layers.2"), heads=heads)
    _, features, found = taps.signal(teacher, batch, wanted)
    return Signal(features={t: batch.pick(v).detach() for t, v in features.items()}, heads=found)


def tied(function, kind="units", joints=(FIRST,), *, seed=3, step=0, **linked):
    return Tied(function, kind, joints, Linked(at=["x"], **linked), seed, step)


def projector():
    layer = torch.nn.Linear(16, 24, bias=True, dtype=torch.float64)
    torch.nn.init.normal_(layer.weight, generator=tiny.generator(9))
    torch.nn.init.normal_(layer.bias, generator=tiny.generator(8))
    return torch.nn.ModuleDict({"first": layer})


def asked(term, batch, *, maps=None, heads=(), others=((), ())):
    """Total, sums and the gradients of student and projectors."""
    student, teacher = models()
    step = Step(student, vocab=tiny.VOCAB, chunk=5, projectors=maps)
    terms, coefficients = [*others[0], term], [*others[1], 0.7]
    total, sums = step(batch, said(teacher, batch, heads=heads), terms, coefficients)
    total.backward()
    return (
        total.detach(),
        sums,
        {n: p.grad for n, p in step.named_parameters() if p.grad is not None},
    )


def test_feature_mse_is_the_plain_way():
    batch, maps = rows(), projector()
    term = tied(feature_mse, "features", (NAMED,))
    total, sums, found = asked(term, batch, maps=maps, others=([cross_entropy], [0.5]))
    student, teacher = models()
    inner = []
    student.model.layers[0].register_forward_hook(lambda m, i, o: inner.append(o))
    theirs = []
    teacher.model.layers[2].register_forward_hook(lambda m, i, o: theirs.append(o.detach()))
    logits = student(batch.input_ids).logits.flatten(0, 1)
    teacher(batch.input_ids)
    gap = (maps["first"](inner[0]) - theirs[0]).square().mean(-1)
    every = tiny.every(batch)
    plain = 0.5 * (cross_entropy(logits, None, every) * every.weights).sum()
    plain = plain + 0.7 * (gap * batch.weights).sum()
    maps.zero_grad()
    plain.backward()
    torch.testing.assert_close(total, plain.detach(), atol=1e-10, rtol=0)
    assert float(sums[1]) == pytest.approx(float((gap * batch.weights).sum().detach()), abs=1e-10)
    for name, parameter in student.named_parameters():
        torch.testing.assert_close(found[f"student.{name}"], parameter.grad, atol=1e-10, rtol=0)
    for name, parameter in maps.named_parameters():
        torch.testing.assert_close(found[f"projectors.{name}"], parameter.grad, atol=1e-10, rtol=0)


def each_kind():
    return [
        (tied(feature_mse, "features", (NAMED,), token_share=0.4), {}),
        (tied(relation_distance, max_units=4), {}),
        (tied(relation_angle, token_share=0.6), {}),
        (
            tied(attention_transfer, "heads", (Joint("layers.1", "layers.2"),)),
            {"heads": ("layers.2",)},
        ),
    ]


@pytest.mark.parametrize("number", range(4))
def test_splits_of_a_batch_change_nothing(number):
    term, more = each_kind()[number]
    _, whole, slopes = asked(term, rows(), maps=projector(), **more)
    for many in (1, 3):
        sums, gradients = 0.0, {}
        for start in range(0, 8, many):
            part = rows(range(start, min(start + many, 8)))
            _, found, some = asked(term, part, maps=projector(), **more)
            sums = sums + found
            for name, gradient in some.items():
                gradients[name] = gradients.get(name, 0) + gradient
        torch.testing.assert_close(sums, whole, atol=1e-10, rtol=0)
        for name, slope in slopes.items():
            torch.testing.assert_close(gradients[name], slope, atol=1e-10, rtol=0)


def test_the_teacher_gets_no_gradient():
    student, teacher = models()
    batch, term = rows(), tied(feature_mse, "features", (NAMED,))
    signal = said(teacher, batch)
    theirs = {tap: one.requires_grad_() for tap, one in signal.features.items()}
    step = Step(student, vocab=tiny.VOCAB, projectors=projector())
    step(batch, signal, [term], [1.0])[0].backward()
    assert all(one.grad is None for one in theirs.values())


def test_the_off_by_one_layer_is_seen():
    batch = rows()
    student, _ = models()
    same = Signal(
        features={
            "layers.0": batch.pick(
                taps.signal(student, batch, Wanted(features=("layers.0",)))[1]["layers.0"]
            ).detach()
        }
    )
    step = Step(student, vocab=tiny.VOCAB)
    for tap, equal in (("layers.0", True), ("layers.1", False)):
        joint = Joint(tap, "layers.0", (16, 16))
        _, sums = step(batch, same, [tied(feature_mse, "features", (joint,))], [1.0])
        assert (float(sums[0]) < 1e-20) is equal


def test_a_share_of_one_is_the_full_loss_to_the_bit():
    batch = rows()
    everything = share.every(batch)
    keys = tuple(keyed(address, 3, 0) for address in batch.addresses)
    full = share.chosen(batch, keys, 1.0)
    torch.testing.assert_close(full.places, everything.places, atol=0, rtol=0)
    torch.testing.assert_close(full.factors, everything.factors, atol=0, rtol=0)
    torch.testing.assert_close(full.whole, everything.whole, atol=0, rtol=0)
    whole = asked(tied(feature_mse, "features", (NAMED,)), batch, maps=projector())
    held = asked(tied(feature_mse, "features", (NAMED,), token_share=1.0), batch, maps=projector())
    assert torch.equal(whole[1], held[1])


def test_a_share_takes_as_many_of_each_row_as_it_says():
    batch = rows()
    counts = (batch.weights != 0).sum(-1)
    keys = tuple(keyed(address, 3, 0) for address in batch.addresses)
    some = share.chosen(batch, keys, 0.3)
    assert some.sizes.tolist() == [max(1, math.ceil(0.3 * n)) if n else 0 for n in counts.tolist()]
    capped = share.chosen(batch, keys, 1.0, most=2)
    assert capped.sizes.tolist() == [min(2, n) for n in counts.tolist()]
    # A smaller share is inside a larger one, and the same at every call.
    assert set(share.chosen(batch, keys, 0.1).places.tolist()) <= set(some.places.tolist())
    assert torch.equal(share.chosen(batch, keys, 0.3).places, some.places)
    other = tuple(keyed(address, 3, 1) for address in batch.addresses)
    assert not torch.equal(share.chosen(batch, other, 0.3).places, some.places)


@pytest.mark.parametrize(
    ("part", "count", "wanted"),
    [(0.1, 30, 3), (0.25, 5, 2), (0.01, 5, 1), (1.0, 7, 7), (0.5, 0, 0)],
)
def test_the_size_of_a_share(part, count, wanted):
    assert size(part, count) == wanted


def test_only_held_tokens_are_chosen():
    batch = rows()
    held = torch.arange(0, batch.counted.numel(), 3)
    keys = tuple(keyed(address, 3, 0) for address in batch.addresses)
    found = share.chosen(batch, keys, 1.0, held=held)
    assert set(found.places.tolist()) == set(held.tolist())
    owner = batch.counted // batch.weights.shape[1]
    total = torch.zeros(8, dtype=torch.float32).index_add(0, owner[found.places], found.factors)
    counts = (batch.weights != 0).sum(-1)
    there = torch.zeros(8).index_add(0, owner[held], torch.ones(held.numel())) > 0
    torch.testing.assert_close(total[there], counts[there].float())


def mean_over_steps(make, batch, steps):
    student, teacher = models()
    step, signal = Step(student, vocab=tiny.VOCAB, projectors=projector()), said(teacher, batch)
    with torch.no_grad():
        found = [step(batch, signal, [make(number)], [1.0])[1][0] for number in range(steps)]
    values = torch.stack(found)
    return values.mean(), values.std() / math.sqrt(steps)


@pytest.mark.parametrize(
    ("function", "kind", "options"),
    [
        (feature_cosine, "features", {"token_share": 0.3}),
        (relation_angle, "units", {"max_units": 5}),
    ],
)
def test_a_share_is_right_in_the_mean(function, kind, options):
    batch = rows(range(6))
    joints = (NAMED,) if kind == "features" else (FIRST,)
    full = asked(tied(function, kind, joints), batch, maps=projector())[1][0]
    mean, error = mean_over_steps(
        lambda n: tied(function, kind, joints, step=n, **options), batch, 400
    )
    assert abs(float(mean - full)) < 4 * float(error)
    assert float(error) > 0


def test_pooled_rows_are_the_means_of_their_tokens():
    batch = rows()
    student, teacher = models()
    _, mine, _ = taps.signal(student, batch, Wanted(features=("layers.0",)))
    theirs = said(teacher, batch).features["layers.2"]
    owner = batch.counted // batch.weights.shape[1]

    def means(vectors):
        return torch.stack(
            [vectors[owner == row].mean(0) for row in range(8) if (owner == row).any()]
        )

    pooled = relation_distance(means(batch.pick(mine["layers.0"])), means(theirs), None)
    _, sums, _ = asked(tied(relation_distance, units="rows"), batch)
    assert float(sums[0]) == pytest.approx(
        float(pooled.detach().mean() * batch.weights.sum()), abs=1e-10
    )


def test_attention_is_seen_at_the_tokens_that_count():
    batch = rows()
    joint = Joint("layers.1", "layers.2")
    student, teacher = models()
    _, sums, _ = asked(tied(attention_transfer, "heads", (joint,)), batch, heads=("layers.2",))
    _, _, mine = taps.signal(student, batch, Wanted(heads=("layers.1",)))
    _, _, theirs = taps.signal(teacher, batch, Wanted(heads=("layers.2",)))
    values = attention_transfer(mine["layers.1"], theirs["layers.2"], None)
    assert float(sums[0]) == pytest.approx(
        float((values * batch.weights.flatten()).sum().detach()), abs=1e-10
    )


def test_a_term_that_is_only_watched_has_no_gradient():
    student, teacher = models()
    batch = rows()
    step = Step(student, vocab=tiny.VOCAB, projectors=projector())
    term = tied(feature_mse, "features", (NAMED,))
    total, sums = step(batch, said(teacher, batch), [term], [0.0])
    total.backward()
    assert float(sums[0]) > 0
    assert step.projectors["first"].weight.grad is None


def test_nothing_counts_and_nothing_is_nan():
    batch = rows()
    empty = replace(batch, weights=torch.zeros_like(batch.weights))
    for term, more in each_kind():
        total, sums, gradients = asked(term, empty, maps=projector(), **more)
        assert float(total) == 0
        assert not sums.any()
        assert all(gradient.isfinite().all() for gradient in gradients.values())


def test_what_is_asked_of_one_teacher_for_several_students():
    first = tied(feature_mse, "features", (NAMED, Joint("layers.1", "layers.0")))
    second = tied(attention_transfer, "heads", (Joint("layers.1", "layers.2"),))
    assert links.wanted([[first, cross_entropy], [second]]) == Wanted(
        distribution=False, features=("layers.2", "layers.0"), heads=("layers.2",)
    )


def test_keys_are_fit_for_drawing():
    assert uniforms([keyed("a" * 32, 0, 0)], 4, 1).shape == (1, 4)
