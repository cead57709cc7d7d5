"""The door prints what it would submit, submits what it would print, and says what is wrong before either."""

import subprocess
import sys

import pytest
from fake_slurm import Fake

from limbeck import cli

RECIPE = """
name: big
teacher: {cached: {model: meta-llama/Llama-3.1-8B-Instruct, path: cache, kind: topk+rest}}
student: {pruned: {layers: 16}}
stages:
  - name: distil
    source: {text: {path: text, length: 2048}}
    objective: [forward_kl]
    budget: 1B tokens
    rows_per_step: 64
"""
LIVE = "teacher={live: {model: meta-llama/Llama-3.1-8B-Instruct}}"


@pytest.fixture
def fake(tmp_path, monkeypatch):
    found = Fake(tmp_path / "fake")
    monkeypatch.setenv("PATH", found.path)
    monkeypatch.setenv("told", str(found.told))
    return found


@pytest.fixture
def launch(tmp_path, monkeypatch, capsys):
    """Runs `limbeck launch slurm` on a recipe in this process: (status, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a recipe.yaml").write_text(RECIPE)

    def command(*words, recipe="a recipe.yaml"):
        monkeypatch.setattr(sys, "argv", ["limbeck", "launch", "slurm", recipe, *words])
        monkeypatch.setenv("COLUMNS", "200")
        status = 0
        try:
            cli.main()
        except SystemExit as ended:
            status = ended.code
        said = capsys.readouterr()
        return status, said.out, said.err

    return command


def test_one_kind_of_job_is_printed_as_sbatch_takes_it(launch, tmp_path):
    status, said, wrong = launch("--record", "--ranks", "4", "seed=3")
    assert (status, wrong) == (0, "")
    assert said.startswith("#!/bin/bash -l\n#SBATCH --job-name=big-record\n#SBATCH --array=0-3\n")
    assert f'#SBATCH --output="{tmp_path}/runs/big/slurm/%A_%a.out"' in said
    assert f"--world 4 \\\n    '{tmp_path}/a recipe.yaml' seed=3\n" in said
    assert f"{sys.executable} -m limbeck record" in said
    assert not (tmp_path / "runs").exists()
    assert launch("--train", "seed=3")[1].startswith("#!/bin/bash -l\n#SBATCH --job-name=big\n")


def test_a_recipe_with_a_live_teacher_has_nothing_to_record(launch):
    assert "#SBATCH --array" not in launch(LIVE)[1]
    status, _, wrong = launch("--record", LIVE)
    assert status == 2
    assert "--record found teacher 'live'; wanted 'cached' with a model" in wrong


@pytest.mark.parametrize("words", [(), ("--record", "--train")], ids=["default", "both"])
def test_both_kinds_are_printed_as_a_script_that_submits_them(launch, fake, words, tmp_path):
    status, said, _ = launch(*words, "--set-up", "END_OF_JOB", "--ranks", "2", "--after", "12")
    assert status == 0
    done = subprocess.run(["bash"], input=said, capture_output=True, text=True, check=True)
    assert done.stdout == "record: job 40\ntrain: job 42\n"
    given = ("--set-up", "END_OF_JOB", "--ranks", "2")
    assert fake.said("40") == launch("--record", *given, "--after", "12")[1]
    assert fake.said("42") == launch("--train", *given)[1]
    words = ["--parsable", "--dependency=afterok:40", "--kill-on-invalid-dep=yes", "export="]
    assert fake.said("42.words").split() == words
    assert (tmp_path / "runs/big/slurm").is_dir()


def test_what_is_submitted_is_what_was_printed(launch, fake, tmp_path, monkeypatch):
    monkeypatch.setenv("SBATCH_EXPORT", "ALL")
    status, said, _ = launch("--submit", "--ranks", "2")
    assert status == 0
    logs = tmp_path / "runs/big/slurm"
    assert said == f"record: job 40, logs in {logs}\ntrain: job 42, logs in {logs}\n"
    assert logs.is_dir()
    assert fake.said("40") == launch("--record", "--ranks", "2")[1]
    assert fake.said("42") == launch("--train", "--ranks", "2")[1]
    assert fake.said("40.words").split() == ["--parsable", "export="]
    after = ["--dependency=afterok:40", "--kill-on-invalid-dep=yes"]
    assert fake.said("42.words").split() == ["--parsable", *after, "export="]


def test_submitting_without_sbatch_says_so(launch, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    status, said, wrong = launch("--submit")
    assert (status, said) == (2, "")
    assert wrong.startswith("limbeck: launch slurm: found no sbatch on PATH; --submit wants it.")
    assert not (tmp_path / "runs").exists()


def test_what_sbatch_refuses_is_told_in_its_words(launch, fake):
    sbatch = fake.told.parent / "programs/sbatch"
    sbatch.write_text("#!/bin/bash\ncat > /dev/null\necho 'invalid partition' >&2\nexit 1\n")
    status, said, wrong = launch("--submit", "--partition", "nowhere")
    assert (status, said) == (2, "")
    assert "sbatch took no record job (status 1): invalid partition" in wrong


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("seed",), "'seed': wanted key.path=value."),
        (("stages.0.budgt=3 steps",), "no key 'budgt' here. Did you mean 'budget'?"),
        (("--time", "soon"), "--time: found 'soon'; wanted minutes"),
        (("--nodes", "3"), "64 rows per step cannot be split over 3 ranks"),
        (("--nodes", "2", "--gpus", "3"), "64 rows per step cannot be split over 6 ranks"),
        (("--set-up", "X_TOKEN=abcdef"), "line 1 looks as if it assigned a secret"),
        (("seed=3\n#SBATCH --uid=0",), "found a line end"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_before_anything_is_submitted(launch, fake, words, message):
    status, said, wrong = launch("--submit", *words)
    assert (status, said) == (2, "")
    assert message in wrong
    assert "abcdef" not in wrong
    assert not list(fake.told.iterdir())


def test_a_recipe_that_is_not_there_is_told(launch):
    assert launch(recipe="nowhere.yaml")[2].startswith("limbeck: There is no recipe nowhere.yaml")


def test_no_value_of_the_environment_stands_in_a_script(launch, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "abcdef-never-to-be-printed")
    monkeypatch.setenv("HF_HOME", "/abcdef/hub")
    said = launch("--export", "HF_HOME")[1]
    assert "--export=HOME,LANG,LOGNAME,PATH,SHELL,USER,HF_HOME\n" in said
    assert "abcdef" not in said
