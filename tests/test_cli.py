"""Every door answers in words: at once where nothing is computed, and with one message where something is wrong."""

import contextlib
import json
import subprocess
import sys

import pytest
import tiny_folder

from limbeck import cli
from limbeck.cache.format import read_about

BIG = """
name: big
teacher: {live: {model: meta-llama/Llama-3.1-8B-Instruct}}
student: {pruned: {layers: 16}}
stages:
  - name: distil
    source: {text: {path: text, length: 2048}}
    objective: [forward_kl]
    budget: 1B tokens
    rows_per_step: 64
"""


@pytest.fixture
def limbeck(monkeypatch, capsys):
    """Runs a command line in this process: (status, standard output, standard error)."""

    def command(*words):
        monkeypatch.setattr(sys, "argv", ["limbeck", *map(str, words)])
        monkeypatch.setenv("COLUMNS", "200")
        status = 0
        try:
            cli.main()
        except SystemExit as ended:
            status = ended.code
        said = capsys.readouterr()
        return status, said.out, said.err

    return command


@pytest.fixture
def big(tmp_path):
    path = tmp_path / "big.yaml"
    path.write_text(BIG)
    return path


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["list"],
        ["list", "objectives"],
        ["train", "--help"],
        ["probe", "--help"],
        ["launch", "slurm", "--help"],
    ],
)
def test_help_and_lists_import_nothing_heavy(words):
    code = (
        "import sys; from limbeck import cli; sys.argv = ['limbeck', *sys.argv[1:]]\n"
        "try: cli.main()\n"
        "finally: print('heavy:', sorted({'torch', 'transformers', 'plotly', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "heavy: []"


def test_help_names_every_command(limbeck):
    status, said, _ = limbeck("--help")
    assert status == 0
    doors = [
        "list",
        "show",
        "doctor",
        "fetch",
        "record",
        "generate",
        "train",
        "export",
        "evaluate",
        "report",
        "verify",
        "probe",
        "launch",
    ]
    assert all(f" {name} " in said for name in doors)


def test_a_list_has_a_line_for_every_part(limbeck):
    status, said, _ = limbeck("list", "students")
    assert status == 0
    for name in ("adapters", "pretrained", "pruned", "scratch"):
        assert any(
            line.split()[:1] == [name] and len(line.split()) > 3 for line in said.splitlines()
        )
    assert "forward_kl" not in said
    assert "forward_kl" in limbeck("list")[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["list", "objectivs"], "No family 'objectivs'. Did you mean 'objectives'?"),
        (["fetch", "smolm2"], "Nothing called 'smolm2' to fetch. Did you mean 'smollm2'?"),
        (["show", "nowhere.yaml"], "There is no recipe nowhere.yaml"),
        (["show", "nowhere.yaml", "--json", "x"], "show: --json holds what --layers tells; give both."),
        (["train", "nowhere.yaml"], "There is no recipe nowhere.yaml"),
        (["record", "nowhere.yaml"], "There is no recipe nowhere.yaml"),
        (["export", "nowhere"], "nowhere is no run"),
        (["evaluate", "nowhere"], "nowhere is no run"),
        (["report", "nowhere"], "nowhere is no run"),
        (["verify", "nowhere"], "There is no folder nowhere"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_mistake_ends_with_one_message_and_status_2(limbeck, words, message):
    status, said, wrong = limbeck(*words)
    assert status == 2
    assert said == ""
    assert wrong.startswith(f"limbeck: {message}")
    assert "Traceback" not in wrong


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("stages.0.budgt=3 steps", "stages[0]: no key 'budgt' here. Did you mean 'budget'?"),
        ("student.pruned.layer=3", "'pruned' has no option 'layer'. Did you mean 'layers'?"),
        ("seed", "'seed': wanted key.path=value."),
        ("student=prund", "student: No 'prund' in limbeck.students. Did you mean 'pruned'?"),
        ("student.pruned.layers=99", "student.pruned.layers: found 99; wanted 1 to 32."),
        ("stages.0.source.text.path=a[/b]c", None),
    ],
)
def test_a_wrong_override_is_told_with_its_place(limbeck, big, change, message):
    status, said, wrong = limbeck("show", big, change)
    if message is None:
        assert (status, "a[/b]c" in said) == (0, True)
        return
    assert status == 2
    assert message in wrong
    assert len(wrong.splitlines()) == 1


@pytest.mark.parametrize(
    "key", ["api_key", "student.api_key", "teacher.live.token", "stages.0.password"]
)
def test_a_secret_in_an_override_is_refused_and_not_repeated(limbeck, big, key):
    status, said, wrong = limbeck("show", big, f"{key}=sk-never-to-be-printed")
    assert status == 2
    assert key.rpartition(".")[2] in wrong
    assert "sk-never" not in said + wrong


def test_a_message_with_brackets_is_printed_whole(limbeck, tmp_path):
    path = tmp_path / "big.yaml"
    path.write_text(BIG.replace("{pruned: {layers: 16}}", "{pruned: {layers: '[lora][/b]'}}"))
    status, _, wrong = limbeck("show", path)
    assert status == 2
    assert "'[lora][/b]'" in wrong


@pytest.mark.usefixtures("no_network")
def test_a_plan_for_a_model_that_cannot_be_reached_is_told_from_its_sizes(limbeck, big):
    status, said, _ = limbeck("show", big)
    assert status == 0
    assert "meta-llama/Llama-3.1-8B-Instruct: 8,030,261,248 parameters" in said
    # 32 - 16 layers of 218,112,000 parameters are gone.
    assert "4,540,469,248 parameters" in said
    assert "4,540,469,248 / 0 parameters" in said
    assert "1,000,079,360 in 7,630 steps of 131,072, x 1 arms" in said
    assert "no control arm" in said
    assert "tokenizer and models were not compared" in said


@pytest.mark.usefixtures("no_network")
def test_a_plan_of_a_cache_tells_its_bytes_and_where_it_is_written(limbeck, tmp_path):
    status, said, _ = limbeck("show", tiny_folder.written(tmp_path))
    assert status == 0
    # 32 ids of 2 bytes and log-probabilities of 4, and the rest of 4; 24 steps of 4 rows of 16 tokens.
    assert "196 bytes/token" in said
    assert "1,536 in 24 steps of 64, x 2 arms" in said
    assert f"{tmp_path}/runs/tiny/control/ (the same again)" in said
    assert f"{tmp_path}/cache/ (the cache)" in said
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "cache").exists()


def test_layers_are_told_behind_the_plan_and_written_whole(limbeck, tmp_path):
    path, file = tiny_folder.written(tmp_path), tmp_path / "layers.json"
    status, said, _ = limbeck("show", path, "--layers", "--json", file)
    assert status == 0
    plan, _, layers = said.partition("Loads ")
    assert "the plan" in plan
    assert "block importance" in layers
    assert f"{file} is written." in layers
    assert len(json.loads(file.read_text())["students"][0]["cka"]) == 2


def test_recording_is_a_door_of_its_own(limbeck, tmp_path):
    path = tiny_folder.written(tmp_path, stages=[tiny_folder.stage(tmp_path, budget="2 steps")])
    status, _, wrong = limbeck("record", path, "--rank", "0", "--world", "2")
    assert status == 0
    assert "recorded 8 rows" in wrong
    assert read_about(tmp_path / "cache").k == 32
    assert "each as it was written" in limbeck("verify", tmp_path / "cache")[1]
    assert limbeck("record", path, "--rank", "2", "--world", "2")[0] == 2
    assert limbeck("record", path, "--world", "0")[0] == 2


def test_a_path_that_the_system_refuses_ends_in_one_message(limbeck, tmp_path):
    path = tiny_folder.written(tmp_path)
    (tmp_path / "file").write_text("here")
    for wrong in (tmp_path / "file/told.json", tmp_path / ("x" * 300)):
        status, _, said = limbeck("doctor", path, "--no-weights", "--json", wrong)
        assert status == 2
        assert f"limbeck: {tmp_path}" in said
        assert "Correct the path, or who may read and write there" in said


def test_a_seed_of_a_probe_that_is_too_large_is_refused(limbeck):
    status, _, said = limbeck("probe", "nowhere", "--seed", 2**32)
    assert status == 2
    assert "4294967295" in said


def test_the_module_is_the_program():
    done = subprocess.run(
        [sys.executable, "-m", "limbeck", "list", "nothing"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("limbeck: No family 'nothing'.")


def test_standard_output_that_is_closed_early_is_no_traceback():
    process = subprocess.Popen(
        [sys.executable, "-m", "limbeck", "list"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    with contextlib.closing(process.stderr) as stream:
        said = stream.read()
    process.wait()
    assert "Traceback" not in said
