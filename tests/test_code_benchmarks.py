"""HumanEval and MBPP through the door: refused until allowed, asked by lm-eval's prompts, run behind the lock, kept by question."""

import json
from pathlib import Path

import pytest
import tiny_benchmarks
import tiny_folder
import tiny_text
from typer.testing import CliRunner

from limbeck import files
from limbeck.cli import app
from limbeck.errors import LimbeckError, RecipeError
from limbeck.evaluation import _harness, _sandbox
from limbeck.models import load
from limbeck.recipe import Benchmarks
from limbeck.report import benchmarks

pytestmark = [pytest.mark.usefixtures("handlers"), pytest.mark.filterwarnings("ignore")]
SMOL = Path(__file__).parents[1] / "models/SmolLM2-135M-Instruct"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    pytest.importorskip("lm_eval", reason="lm-eval is not installed (limbeck[harness])")
    try:
        _sandbox.check("namespaces")
    except LimbeckError as reason:
        pytest.skip(str(reason))
    found = tmp_path_factory.mktemp("code")
    tiny_benchmarks.code(found / "data")
    tiny_benchmarks.folder(found / "data")
    tiny_folder.teacher(found / "model", layers=2)
    config = found / "model/config.json"
    # Room for the examples and for what is written.
    config.write_text(
        json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": 4096})
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", found / "rows")
        yield found


def evaluated(place, *words, to="to"):
    given = ["evaluate", str(place / "model"), "--data", str(place / "data"), "--to", place / to]
    return CliRunner().invoke(app, [*map(str, given), "--device", "cpu", *map(str, words)])


def test_without_a_word_no_generated_code_is_run_and_no_model_loaded(place, monkeypatch):
    (place / "broken").mkdir(exist_ok=True)
    monkeypatch.setattr(load, "load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    done = evaluated(place, "--tasks", "piqa,humaneval")
    assert isinstance(done.exception, RecipeError)
    assert "'humaneval' runs programs that a model wrote" in str(done.exception)
    assert "--allow-code" in str(done.exception)
    done = evaluated(place, "--tasks", "piqa", "--samples", 2)
    assert "--samples: it belongs to humaneval and mbpp" in str(done.exception)
    done = evaluated(place, "--tasks", "humaneval", "--allow-code", "--isolation", "none")
    assert "isolation: Input should be 'namespaces' or 'syscalls'" in str(done.exception)


@pytest.mark.parametrize("task", ["mbpp", pytest.param("humaneval", marks=pytest.mark.slow)])
def test_a_model_is_asked_and_every_program_is_kept(place, task):
    words = ("--tasks", task, "--allow-code", "--limit", 2, "--samples", 3)
    done = evaluated(place, *words, to=task)
    assert done.exit_code == 0, done.output
    kept = files.read_json(place / f"{task}/{task}.limit-2.3-samples.json")
    assert kept["questions"] == 2
    assert set(kept["models"]["model"]) == {"pass@1", "pass@1_stderr", "pass@3", "pass@3_stderr"}
    programs = kept["programs"]["model"][task]
    assert [len(each) for each in programs] == [3, 3]
    shares = [sum(one == "passed" for one in each) / 3 for each in programs]
    assert kept["items"]["model"][task]["pass@1"] == pytest.approx(shares)
    assert kept["settings"]["isolation"] == "namespaces"
    assert "--allow-code --samples 3" in kept["command"]
    assert kept["few_shot"] == {"mbpp": 3, "humaneval": 0}[task]
    _, rows = benchmarks.table(benchmarks.read(place / task))
    assert [row[1] for row in rows] == ["pass@1", "pass@3"]
    before = (place / f"{task}/{task}.limit-2.3-samples.json").read_bytes()
    assert "all 1 are answered already" in evaluated(place, *words, to=task).output
    assert (place / f"{task}/{task}.limit-2.3-samples.json").read_bytes() == before


def asked(place, *tasks, **changes):
    plain = {"tasks": tasks, "data": str(place / "data"), "allow_code": True}
    return Benchmarks.model_validate(plain | changes)


def judged(place, lm, wanted):
    tasks = _harness.load(wanted.tasks, wanted, place / "tasks")
    return {name: _harness.judge(lm, name, task, wanted) for name, task in tasks.items()}


def knowing(wrong=()):
    """A model of lm-eval that has the reference solutions by heart, but for some; and what it was asked."""
    from lm_eval.api.model import LM

    class Knowing(LM):
        def __init__(self):
            super().__init__()
            self.asked = []

        def generate_until(self, requests, disable_tqdm=False):
            self.asked += requests
            return [
                "    pass\n" if request.doc_id in wrong
                else request.doc.get("canonical_solution") or request.doc["code"]
                for request in requests
            ]  # fmt: skip

        loglikelihood = loglikelihood_rolling = None

    return Knowing()


def test_whoever_knows_the_solutions_passes_and_errors_are_over_questions(place):
    found = judged(place, knowing(), asked(place, "humaneval", "mbpp"))
    for outcome in found.values():
        assert outcome.figures == {"pass@1": 1.0, "pass@1_stderr": 0.0}
    found = judged(place, knowing(wrong=[1]), asked(place, "mbpp", samples=2))["mbpp"]
    assert found.figures["pass@1"] == pytest.approx(2 / 3)
    assert found.figures["pass@1_stderr"] == pytest.approx(1 / 3)  # of 1, 0, 1 over three questions
    assert found.items["mbpp"]["pass@2"] == [1.0, 0.0, 1.0]
    assert found.programs["mbpp"][0] == ["passed", "passed"]
    assert found.programs["mbpp"][1][0].startswith("failed: IndentationError")


def test_prompts_and_ends_are_those_of_the_papers(place):
    lm = knowing()
    judged(place, lm, asked(place, "humaneval", "mbpp", limit=1))
    human, many = lm.asked
    assert human.args[0] == "def give_0(wine):\n"
    assert human.args[1]["until"] == ["\nclass", "\ndef", "\n#", "\nif", "\nprint"]
    assert human.args[1]["do_sample"] is False
    assert many.args[1]["until"] == ["[DONE]"]
    text, examples = many.args[0], many.args[0].split("[BEGIN]\n")
    assert len(examples) == 5
    assert text.count("You are an expert Python programmer, and here is your task: ") == 4
    assert examples[1].startswith(
        "def give_3(x):\n    return x + START\n[DONE]\n\nYou are an expert"
    )
    assert text.endswith(
        "Write give_0. Your code should pass these tests:\n\nassert give_0(0) == 0\nassert give_0(1) == 1\n"
        "assert give_0(2) == 2\n[BEGIN]\n"
    )


def test_lm_evals_own_task_that_runs_code_is_refused_still(place, tmp_path):
    (tmp_path / "other.yaml").write_text(
        "task: other\ndataset_path: json\ndataset_kwargs: {data_files: {test: " + str(place / "data/humaneval/test.jsonl")
        + "}}\ntest_split: test\noutput_type: generate_until\nunsafe_code: true\ndoc_to_text: x\ndoc_to_target: x\n"
    )  # fmt: skip
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    with pytest.raises(RecipeError, match="which is done here of humaneval and mbpp alone"):
        _harness._loaded(manager, "other")


def drawn(place, seed=0, limit=None):
    from limbeck.evaluation._lm import TreeLM

    model = load.load_model(str(place / "model"))
    lm = TreeLM(model, tiny_text.tokenizer(), seed=seed)
    wanted = asked(place, "mbpp", samples=2, few_shot=1)
    (task,) = _harness.load(["mbpp"], wanted, place / "tasks")["mbpp"]["tasks"].values()
    task.set_config(key="num_fewshot", value=1)
    task.set_fewshot_seed(seed=0)
    task.build_all_requests(limit=limit)
    return lm.generate_until([each for request in task.instances for each in [request] * 2])


def test_each_answer_is_drawn_by_its_own_seed(place):
    whole = drawn(place, limit=2)
    assert len(set(whole)) == len(whole) == 4
    assert drawn(place, limit=1) == whole[:2]
    assert not set(drawn(place, seed=1, limit=1)) & set(whole)


@pytest.mark.slow
def test_a_real_model_writes_code_that_is_run(tmp_path):
    if not SMOL.is_dir():
        pytest.skip("SmolLM2-135M-Instruct is not here; 'limbeck fetch smollm2' brings it")
    data = tiny_text.shared("humaneval").parent
    words = [
        "evaluate",
        str(SMOL),
        "--tasks",
        "humaneval,mbpp",
        "--data",
        str(data),
        "--limit",
        "5",
    ]
    words += ["--allow-code", "--device", "cpu", "--to", str(tmp_path / "to")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    for task in ("humaneval", "mbpp"):
        kept = files.read_json(tmp_path / f"to/{task}.limit-5.json")
        programs = [one for (one,) in kept["programs"]["model"][task]]
        assert len(programs) == 5
        share = sum(one == "passed" for one in programs) / 5
        assert kept["models"]["model"]["pass@1"] == pytest.approx(share)
