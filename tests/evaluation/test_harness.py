"""A tiny model has in each task what lm-eval's own loop and own calls give it, digit by digit where nothing is summed."""

import pytest
import tiny
import tiny_benchmarks
import tiny_text

from limbeck.errors import DataError, ModelError, RecipeError
from limbeck.evaluation import _harness
from limbeck.recipe import Benchmarks

pytestmark = pytest.mark.filterwarnings("ignore")  # of the harness and its libraries
TASKS = ("piqa", "arc_easy", "boolq", "lambada_openai", "wikitext")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("harness")


@pytest.fixture(scope="module", autouse=True)
def _own_cache(place):
    pytest.importorskip("lm_eval", reason="lm-eval is not installed (limbeck[harness])")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", place / "cache")
        yield


@pytest.fixture(scope="module")
def data(place):
    return tiny_benchmarks.folder(place / "data")


def asked(data, *tasks, **changes):
    plain = {"tasks": tasks or TASKS, "data": str(data), "bootstrap": 100}
    return Benchmarks.model_validate(plain | changes)


def judged(data, place, wanted, *, seed=0):
    from limbeck.evaluation._lm import TreeLM

    tokenizer = tiny_text.tokenizer()
    lm = TreeLM(tiny.llama(vocab=len(tokenizer), width=32, seed=seed), tokenizer)
    tasks = _harness.load(wanted.tasks, wanted, place / "tasks")
    return {name: _harness.judge(lm, name, task, wanted) for name, task in tasks.items()}


def by_hand(place, wanted):
    """The same through lm-eval alone: its own model class, its own call, the folder of configurations."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    tokenizer = tiny_text.tokenizer()
    model = tiny.llama(vocab=len(tokenizer), width=32)
    return simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=3),
        tasks=list(wanted.tasks),
        task_manager=TaskManager(include_path=str(place / "tasks"), include_defaults=False),
        num_fewshot=wanted.few_shot,
        limit=wanted.limit,
        bootstrap_iters=wanted.bootstrap,
        fewshot_random_seed=1234 if wanted.seed is None else wanted.seed,
    )


def compare(ours, theirs):
    for name, outcome in ours.items():
        told = {k: v for k, v in theirs["results"][name].items() if isinstance(v, float)}
        assert len(told) >= len(outcome.figures) >= 2
        for figure, value in outcome.figures.items():
            key = f"{figure},none"
            # Sums of float32 logits in another order; counts are equal.
            tolerance = 0 if figure.startswith("acc") else 1e-4
            assert value == pytest.approx(told[key], rel=tolerance, abs=0), (name, figure)
        assert outcome.few_shot == theirs["n-shot"][name]
        assert outcome.questions == theirs["n-samples"][name]["effective"]


def test_figures_and_errors_are_those_of_lm_eval(data, place):
    wanted = asked(data, limit=5)
    ours = judged(data, place, wanted)
    compare(ours, by_hand(place, wanted))
    assert ours["piqa"].questions == 5
    assert ours["wikitext"].questions == 3
    assert "acc_norm_stderr" in ours["arc_easy"].figures
    assert ours["lambada_openai"].higher_is_better == {"perplexity": False, "acc": True}


@pytest.mark.parametrize("seed", [None, 8])
def test_examples_are_drawn_as_lm_eval_draws_them(data, place, seed):
    wanted = asked(data, "piqa", "arc_easy", few_shot=1, seed=seed)
    ours = judged(data, place, wanted)
    compare(ours, by_hand(place, wanted))
    assert ours["piqa"].few_shot == 1


def test_tasks_that_were_put_to_one_model_are_as_new_for_the_next(data, place):
    from limbeck.evaluation._lm import TreeLM

    tokenizer = tiny_text.tokenizer()
    wanted = asked(data, "piqa", "wikitext", few_shot=1)
    tasks = _harness.load(wanted.tasks, wanted, place / "tasks")
    for seed in (1, 0):
        lm = TreeLM(tiny.llama(vocab=len(tokenizer), width=32, seed=seed), tokenizer)
        found = {name: _harness.judge(lm, name, task, wanted) for name, task in tasks.items()}
    assert found == judged(data, place, wanted)
    assert found["wikitext"] != judged(data, place, wanted, seed=1)["wikitext"]


def test_every_question_has_its_value(data, place):
    found = judged(data, place, asked(data, "arc_easy", "wikitext"))
    values = found["arc_easy"].items["arc_easy"]["acc"]
    assert len(values) == tiny_benchmarks.ROWS
    assert sum(values) / len(values) == pytest.approx(found["arc_easy"].figures["acc"])
    assert [len(pair) for pair in found["wikitext"].items["wikitext"]["bits_per_byte"]] == [2] * 3


def test_what_cannot_be_put_to_a_model_is_told(data, place):
    with pytest.raises(ModelError, match=r"'gsm8k' cannot be put to this model: .*max"):
        judged(data, place, asked(data, "gsm8k", few_shot=0))


def test_rows_that_lm_eval_cannot_read_are_told_before_a_model_is_asked(place):
    broken = tiny_benchmarks.folder(place / "broken")
    (broken / "piqa/validation.jsonl").write_text('{"goal": \n')
    wanted = asked(broken, "piqa")
    with pytest.raises(DataError, match="the rows of 'piqa' do not load"):
        _harness.load(wanted.tasks, wanted, place / "tasks")


@pytest.mark.slow  # lm-eval reads all its configurations: 20 seconds where nothing else runs
def test_without_a_folder_lm_evals_own_task_is_taken(place, monkeypatch):
    # Where there is a folder of a data set's name, datasets reads it in the place of the Hub.
    tiny_benchmarks.folder(place / "hub")
    (place / "hub/baber").mkdir()
    (place / "hub/piqa").rename(place / "hub/baber/piqa")
    monkeypatch.chdir(place / "hub")
    wanted = Benchmarks(tasks=("piqa",), bootstrap=0)
    found = judged(None, place, wanted)["piqa"]
    assert found.questions == tiny_benchmarks.ROWS
    assert set(found.figures) == {"acc", "acc_norm"}
    with pytest.raises(RecipeError, match=r"no task 'arc_esy'. Did you mean arc_easy"):
        _harness.index(["arc_esy"])
    with pytest.raises(RecipeError, match=r"'ai2_arc' stands for several tasks.*arc_challenge"):
        _harness.index(["ai2_arc"])
