"""lm-eval's harness gets the same numbers from the tree as from its own loop."""

import json
import sys

import pytest
import tiny
import tiny_text
import torch

from limbeck.errors import LimbeckError

WORDS = ["wine", "spirit", "fire", "drops of it"]


@pytest.fixture
def harness(monkeypatch):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    return pytest.importorskip("lm_eval", reason="lm-eval is not installed (limbeck[harness])")


@pytest.fixture
def pair(harness):
    from lm_eval.models.huggingface import HFLM

    from limbeck.evaluation._lm import TreeLM

    tokenizer = tiny_text.tokenizer()
    model = tiny.llama(vocab=len(tokenizer), width=32)
    theirs = HFLM(pretrained=model, tokenizer=tiny_text.tokenizer(), backend="causal", batch_size=3)
    return TreeLM(model, tokenizer), theirs


def instances(kind, arguments):
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, one, number) for number, one in enumerate(arguments)]


SHOTS = "".join(f"Q: What is {word}? A: {word}\n" for word in WORDS)
PAIRS = [
    *(
        (f"{SHOTS}Q: What comes out of {place}? A:", f" {word}")
        for place in WORDS
        for word in WORDS
    ),
    ("", "The alembic"),
    ("Spaces at the end  ", "stay together"),
    (tiny_text.PROSE * 3, "a context that is too long for the model"),
    ("One", " two three"),
]


def test_likelihoods_are_those_of_the_loop(pair):
    ours, theirs = (one.loglikelihood(instances("loglikelihood", PAIRS), True) for one in pair)
    assert [one[1] for one in ours] == [one[1] for one in theirs]
    values = [torch.tensor([one[0] for one in each]) for each in (ours, theirs)]
    torch.testing.assert_close(*values, atol=1e-4, rtol=0)


def test_rolling_likelihoods_are_those_of_the_loop(pair):
    texts = [(tiny_text.PROSE * 2,), ("One drop.",), ("a",)]
    ours, theirs = (
        torch.tensor(one.loglikelihood_rolling(instances("loglikelihood_rolling", texts), True))
        for one in pair
    )
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-6)


def test_what_is_written_is_what_the_loop_writes(pair):
    asked = [
        ("The alembic stands", {"until": ["\n"], "max_gen_toks": 7}),
        ("Wine goes in,", {"until": ["z"], "max_gen_toks": 5}),
    ]
    ours, theirs = (one.generate_until(instances("generate_until", asked), True) for one in pair)
    assert ours == theirs


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the harness and its libraries
def test_a_whole_task_gets_the_same_numbers(pair, harness, tmp_path):
    rows = [
        {"q": f"What is number {number}?", "choices": WORDS, "answer": number % 4}
        for number in range(6)
    ]
    data = tmp_path / "items.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": "four_choices",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(tmp_path / "cache")},
        "test_split": "test",
        "fewshot_split": "test",
        "fewshot_config": {"sampler": "first_n"},
        "num_fewshot": 2,
        "output_type": "multiple_choice",
        "doc_to_text": "Q: {{q}} A:",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    found = [
        harness.simple_evaluate(model=one, tasks=[dict(task)], bootstrap_iters=0, log_samples=True)
        for one in pair
    ]
    ours, theirs = (each["results"]["four_choices"] for each in found)
    for name in ("acc,none", "acc_norm,none"):
        assert ours[name] == theirs[name]
    for one, other in zip(*(each["samples"]["four_choices"] for each in found), strict=True):
        values = [
            torch.tensor([float(a[0]) for a in sample["filtered_resps"]]) for sample in (one, other)
        ]
        torch.testing.assert_close(*values, atol=1e-4, rtol=0)


def test_a_missing_harness_is_named_with_what_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval.models.huggingface", None)
    monkeypatch.delitem(sys.modules, "limbeck.evaluation._lm", raising=False)
    with pytest.raises(LimbeckError, match=r"pip install 'limbeck\[harness\]'"):
        import limbeck.evaluation._lm  # noqa: F401
