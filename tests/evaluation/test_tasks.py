"""What is asked for by name is known, and its files are there, before anything is loaded."""

import sys

import pytest
import tiny_benchmarks
import yaml

from limbeck.errors import DataError, LimbeckError, RecipeError
from limbeck.evaluation import _tasks
from limbeck.recipe import Benchmarks

pytestmark = pytest.mark.skipif(
    pytest.importorskip("importlib.util").find_spec("lm_eval") is None,
    reason="lm-eval is not installed (limbeck[harness])",
)


@pytest.fixture
def data(tmp_path):
    return tiny_benchmarks.folder(tmp_path / "data")


def asked(data, *tasks, **changes):
    return Benchmarks.model_validate(
        {"tasks": tasks, "data": None if data is None else str(data)} | changes
    )


def test_lrc9_is_the_papers_nine_with_its_two_normalised_figures():
    nine = _tasks.GROUPS["lrc9"]
    assert len(nine) == 9
    assert {name for name, figure in nine.items() if figure == "acc_norm"} == {
        "logiqa",
        "arc_challenge",
    }
    assert set(nine) <= set(_tasks.known())


def test_a_group_is_taken_apart_and_each_task_stands_once(data):
    found = _tasks.wanted(asked(data, "piqa", "lrc9", "wikitext", without=["mmlu"]), "x.")
    assert found[:2] == ["piqa", "sciq"]
    assert found[-1] == "wikitext"
    assert len(found) == len(set(found)) == 9


def test_an_unknown_name_is_refused_with_a_near_one(data):
    with pytest.raises(RecipeError, match=r"x\.tasks: .*'piqqa'. Did you mean 'piqa'\?"):
        _tasks.wanted(asked(data, "piqqa"), "x.")
    with pytest.raises(RecipeError, match=r"'lcr9'. Did you mean 'lrc9'\?"):
        _tasks.wanted(asked(data, "lcr9"), "x.")
    with pytest.raises(RecipeError, match=r"x\.without: 'boolq' is not among the tasks"):
        _tasks.wanted(asked(data, "piqa", without=["boolq"]), "x.")
    with pytest.raises(RecipeError, match="every task is left out"):
        _tasks.wanted(asked(data, "piqa", without=["piqa"]), "x.")


def test_missing_files_are_named_with_the_tasks_to_leave_out(data, tmp_path):
    with pytest.raises(DataError, match=r"lacks sciq/test\.jsonl.*'without': sciq, .*mmlu"):
        _tasks.check(asked(data, "lrc9"), "x.")
    (data / "piqa/validation.jsonl").write_text("")
    with pytest.raises(DataError, match=r"lacks piqa/validation\.jsonl"):
        _tasks.check(asked(data, "piqa", "boolq"), "x.")
    with pytest.raises(DataError, match=r"x\.data: there is no folder"):
        _tasks.check(asked(tmp_path / "nowhere", "piqa"), "x.")


def test_examples_are_never_taken_out_of_the_questions(data):
    assert _tasks.check(asked(data, "piqa", "arc_easy", "gsm8k", few_shot=2), "x.")
    with pytest.raises(DataError, match=r"boolq/train\.jsonl \(for 2 examples\)"):
        _tasks.check(asked(data, "boolq", few_shot=2), "x.")
    with pytest.raises(DataError, match="examples for lambada_openai"):
        _tasks.check(asked(data, "lambada_openai", few_shot=1), "x.")
    # Its own number of examples counts too, and the 0 of a text that is read whole cannot be raised.
    (data / "gsm8k/train.jsonl").unlink()
    with pytest.raises(DataError, match=r"gsm8k/train\.jsonl \(for 5 examples\)"):
        _tasks.check(asked(data, "gsm8k"), "x.")
    assert _tasks.check(asked(data, "wikitext", few_shot=3), "x.")


def test_a_missing_harness_is_told_before_anything_is_read(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(LimbeckError, match=r"pip install 'limbeck\[harness\]'"):
        _tasks.check(asked(data, "piqa"), "x.")


def test_what_is_written_for_lm_eval_names_whole_paths_and_no_split_without_a_file(data, tmp_path):
    _tasks.write(["arc_easy", "mmlu"], asked(data, "arc_easy"), tmp_path / "tasks")
    written = yaml.safe_load((tmp_path / "tasks/arc_easy.yaml").read_text())
    assert set(written["dataset_kwargs"]["data_files"]) == {"train", "test"}
    assert written["validation_split"] is None
    assert written["include"].endswith("lm_eval/tasks/arc/arc_easy.yaml")
    assert len(list((tmp_path / "tasks").glob("mmlu_*.yaml"))) == 57 + 4
    _tasks.write(["boolq"], asked(data, "boolq"), tmp_path / "tasks")
    assert [path.name for path in (tmp_path / "tasks").iterdir()] == ["boolq.yaml"]


def test_other_rows_are_another_task(data):
    before = _tasks.fingerprint("piqa", str(data))
    assert before == _tasks.fingerprint("piqa", str(data))
    (data / "piqa/validation.jsonl").write_text("{}\n")
    assert _tasks.fingerprint("piqa", str(data)) != before
