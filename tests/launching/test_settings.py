"""A value that could break out of a script, or that is a secret, is refused in words that do not repeat a secret."""

import pytest

from limbeck.errors import LimbeckError
from limbeck.launching.settings import settings

PLAIN = {"name": "tiny", "logs": "/runs/tiny/slurm", "python": "python3"}
BREAKING = ("a b", "a\n#SBATCH --uid=0", "a\n", "$(id)", "`id`", 'a"', "a'", "a;b", "a#b", "", "-x")


@pytest.mark.parametrize("value", BREAKING)
@pytest.mark.parametrize(
    "option",
    ["name", "partition", "account", "qos", "constraint", "time", "memory", "gpus", "after"],
)
def test_a_value_that_could_break_out_is_refused(option, value):
    with pytest.raises(LimbeckError, match=f"^launch slurm: --{option}: found .*; wanted "):
        settings(PLAIN | {option: value})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("logs", "runs"), ("logs", '/a"b'), ("logs", "/a\\b"), ("logs", "/a\nb"), ("python", "a b"),
        ("python", "/a\nb"), ("ranks", 0), ("nodes", 0), ("array_limit", 0), ("gpus", "0"),
        ("warning_seconds", 0), ("warning_seconds", 65_536), ("requeues", -1), ("time", "1:2:3:4"),
        ("memory", "64GB"), ("constraint", "a b"),
    ],
)  # fmt: skip
def test_a_value_of_another_kind_is_refused(option, value):
    with pytest.raises(LimbeckError, match=f"--{option.replace('_', '-')}: found .*; wanted "):
        settings(PLAIN | {option: value})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("time", "90"), ("time", "12:00:00"), ("time", "2-12"), ("memory", "64G"), ("memory", "0"),
        ("gpus", "8"), ("gpus", "a100:4"), ("constraint", "[rack1|rack2]"), ("partition", "a,b-2"),
        ("account", "lab.x@site"), ("logs", "/a b/ü 100%'$x"), ("python", "/my env/bin/python"),
    ],
)  # fmt: skip
def test_a_value_as_slurm_wants_it_is_taken(option, value):
    assert getattr(settings(PLAIN | {option: value}), option) == value


def test_every_wrong_value_is_told_at_once():
    with pytest.raises(LimbeckError) as told:
        settings(PLAIN | {"partition": "a b", "time": "soon"})
    assert len(str(told.value).splitlines()) == 2


@pytest.mark.parametrize(
    "line",
    [
        "export HF_TOKEN=abcdef", "API_KEY=abcdef", "WANDB_API_KEY='abcdef'", "apikey=abcdef",
        "export A=1 AWS_SECRET_ACCESS_KEY=abcdef", "DB_PASSWORD =abcdef", "dbpassword+=abcdef",
        "hf auth login --token abcdef", "tool --api-key=abcdef", "tool -password abcdef",
        "pip install https://me:abcdef@example.org/x", "tool hf_" + "abcdef" * 5,
    ],
)  # fmt: skip
def test_set_up_that_assigns_a_secret_is_refused_and_not_repeated(line):
    with pytest.raises(LimbeckError, match="line 2 looks as if it assigned a secret") as told:
        settings(PLAIN | {"set_up": ("module load cuda", line)})
    assert "abcdef" not in str(told.value)
    assert told.value.__cause__ is told.value.__context__ is None


@pytest.mark.parametrize(
    "line",
    [
        "module load cuda/12.4", "source ~/.keys", "source 'my venv/bin/activate'",
        "export TOKENIZERS_PARALLELISM=false", "MONKEY=1", "export HF_HOME=/data/hf", "",
        "conda activate limbeck  # ours", "apt-key list", "curl https://example.org:8080/a@b",
    ],
)  # fmt: skip
def test_set_up_without_a_secret_is_taken(line):
    assert settings(PLAIN | {"set_up": (line,)}).set_up == (line,)


@pytest.mark.parametrize("line", ["a\nb", "a\\", "#SBATCH --mem=1G", "  # SBATCH --mem=1G"])
def test_set_up_that_is_not_one_line_of_shell_is_refused(line):
    with pytest.raises(LimbeckError, match="--set-up: line 1 "):
        settings(PLAIN | {"set_up": (line,)})


@pytest.mark.parametrize("name", ["A=abcdef", "A,B", "A B", "", "1A", "HF_TOKEN", "OPENAI_API_KEY"])
def test_what_is_exported_is_a_name_and_no_secrets(name):
    with pytest.raises(LimbeckError, match="launch slurm: --export: ") as told:
        settings(PLAIN | {"export": (name,)})
    assert "abcdef" not in str(told.value)
