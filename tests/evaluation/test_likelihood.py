"""Requests through the tree are what each would be alone, cut and judged as the naive forward does."""

import pytest
import tiny
import tiny_hybrid
import torch
from tiny_families import BAMBA, FAMILIES, build

from limbeck.errors import DataError
from limbeck.evaluation._likelihood import loglikelihoods
from limbeck.models import layout
from limbeck.models.trees import suits


def ids(length, seed):
    return torch.randint(0, tiny.VOCAB, (length,), generator=tiny.generator(seed)).tolist()


SHOTS = ids(13, 0)
QUESTIONS = [SHOTS + ids(4, seed) for seed in (1, 2, 3)]
REQUESTS = [
    *((question, ids(length, length)) for question in QUESTIONS for length in (1, 2, 3, 5)),
    (SHOTS, ids(2, 9)),  # a prefix of the others
    (QUESTIONS[0], ids(3, 3)),  # twice the same
    (QUESTIONS[0][:-1], QUESTIONS[0][-1:]),  # one node with two labels
    ([5], [7]),
    (ids(3, 11), []),
]


def naive(model, requests, longest=10_000):
    """Each request alone, through the whole model, in the way of lm-eval."""
    found = []
    for context, continuation in requests:
        whole = torch.tensor((context + continuation)[-(longest + 1) :])
        with torch.no_grad():
            logits = model(input_ids=whole[None, :-1]).logits[0].double()
        logits = logits[logits.shape[0] - len(continuation) :]
        labels = torch.tensor(continuation, dtype=torch.int64)
        values = logits.log_softmax(-1).gather(-1, labels[:, None])
        found.append((float(values.sum()), bool((logits.argmax(-1) == labels).all())))
    return found


def assert_same(found, wanted, *, atol):
    assert [one[1] for one in found] == [one[1] for one in wanted]
    values = [torch.tensor([one[0] for one in each]) for each in (found, wanted)]
    torch.testing.assert_close(*values, atol=atol, rtol=0)


@pytest.mark.parametrize("at_once", [1, 3, 16, 512])
def test_the_tree_gives_what_each_request_gives_alone(at_once):
    model = tiny.llama(dtype=torch.float64)
    found = loglikelihoods(model, REQUESTS, tokens_at_once=at_once)
    assert_same(found, naive(model, REQUESTS), atol=1e-10)


def test_in_float32_the_difference_is_rounding():
    model = tiny.llama(width=32, layers=4)
    assert_same(loglikelihoods(model, REQUESTS), naive(model, REQUESTS), atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_that_reads_trees_gives_the_same(family):
    model = (
        build(family, sliding_window=64) if "sliding_window" in FAMILIES[family] else build(family)
    )
    assert suits(model, 30)
    found = loglikelihoods(model, REQUESTS, tokens_at_once=7)
    # RMS norms and rotary tables of some families pass through float32.
    assert_same(found, naive(model, REQUESTS), atol=1e-4)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("bamba", BAMBA),
        ("opt", {"ffn_dim": 16, "word_embed_proj_dim": 16}),
        ("mistral", {"sliding_window": 4}),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}),
    ],
)
def test_models_that_a_tree_does_not_suit_read_each_request_by_itself(family, changes):
    model = build(family, **changes)
    assert not suits(model, 30)
    assert_same(loglikelihoods(model, REQUESTS), naive(model, REQUESTS), atol=1e-4)


@pytest.mark.parametrize("mixer", tiny_hybrid.MIXERS)
@pytest.mark.parametrize("keep", ["none", [1]])
def test_a_hybrid_reads_each_request_by_itself(mixer, keep):
    model = tiny_hybrid.rough(tiny_hybrid.teacher(), mixer, keep)
    assert not suits(model, 30)
    assert_same(loglikelihoods(model, REQUESTS), naive(model, REQUESTS), atol=1e-4)


def test_an_adapted_model_is_judged_with_its_adapter():
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(tiny.llama(), settings)
    found = loglikelihoods(adapted, REQUESTS)
    assert_same(found, naive(adapted.eval(), REQUESTS), atol=1e-4)
    assert abs(found[0][0] - loglikelihoods(tiny.llama(), REQUESTS)[0][0]) > 1e-3


def test_a_model_that_was_packed_before_reads_trees_as_well():
    model = tiny.llama(dtype=torch.float64)
    layout.hidden(model, tiny.batch(2, 9, documents=(4, 5)))
    assert_same(loglikelihoods(model, REQUESTS), naive(model, REQUESTS), atol=1e-10)


def test_what_requests_share_is_read_once():
    model, read = tiny.llama(), []
    model.model.register_forward_pre_hook(
        lambda _, args, given: read.append(given["input_ids"].shape[1]), with_kwargs=True
    )
    loglikelihoods(model, [(SHOTS, [token]) for token in range(4)])
    assert read == [13]


def test_the_likeliest_continuation_is_said_to_be_so():
    model = tiny.llama()
    with torch.no_grad():
        best = int(model(torch.tensor([SHOTS])).logits[0, -1].argmax())
    (first, second) = loglikelihoods(model, [(SHOTS, [best]), (SHOTS, [(best + 1) % tiny.VOCAB])])
    assert first[1]
    assert not second[1]
    assert first[0] > second[0]


@pytest.mark.parametrize("longest", [8, 17, 18])
def test_long_contexts_are_cut_from_the_left(longest):
    model = tiny.llama(dtype=torch.float64)
    found = loglikelihoods(model, REQUESTS, longest=longest)
    assert_same(found, naive(model, REQUESTS, longest), atol=1e-10)


@pytest.mark.parametrize("request_", [([], [3]), ([1], [2] * 129)])
def test_requests_that_cannot_be_judged_are_refused(request_):
    with pytest.raises(DataError, match=r"request 1: .* at most 128"):
        loglikelihoods(tiny.llama(), [([1], [2]), request_])


def test_no_requests_have_no_answers():
    assert loglikelihoods(tiny.llama(), []) == []
