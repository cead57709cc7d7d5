"""The scripts ask Slurm for what was asked, let nothing out of its quotes, and requeue a stop and nothing else."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from fake_slurm import Fake

from limbeck.errors import LimbeckError
from limbeck.launching import slurm

KINDS = ("record", "train")
JOB = {"record": "7_1", "train": "7"}
EVERYTHING = {
    "partition": "long,short",
    "account": "lab",
    "qos": "high",
    "constraint": "(a100|h100)&nvme",
    "time": "1-12:00:00",
    "memory": "64G",
    "array_limit": 2,
    "nodes": 2,
    "gpus": "a100:4",
    "cpus": 8,
    "after": 12,
    "warning_seconds": 300,
    "export": ("HF_HOME",),
}


@pytest.fixture
def fake(tmp_path):
    found = Fake(tmp_path)
    yield found
    found.close()


def options(script):
    return [line[8:] for line in script.splitlines() if line.startswith("#SBATCH ")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("given", [{}, EVERYTHING], ids=["plain", "everything"])
def test_a_script_is_shell_that_bash_can_read(fake, kind, given):
    script = fake.script(
        kind, set_up=("module load cuda", "source 'my venv/bin/activate'"), **given
    )
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert script.startswith("#!/bin/bash -l\n#SBATCH ")


def test_slurm_is_asked_for_all_that_was_asked(fake):
    shared = [
        "--partition=long,short", "--account=lab", "--qos=high", "--constraint=(a100|h100)&nvme",
        "--time=1-12:00:00", "--mem=64G",
    ]  # fmt: skip
    after = ["--cpus-per-task=8", "--dependency=afterok:12", "--kill-on-invalid-dep=yes"]
    ends = [
        "--open-mode=append", "--requeue", "--signal=B:TERM@300",
        "--export=HOME,LANG,LOGNAME,PATH,SHELL,USER,HF_HOME",
    ]  # fmt: skip
    assert options(fake.script("record", **EVERYTHING)) == [
        "--job-name=tiny-record", "--array=0-2%2", "--nodes=1", "--ntasks=1", *shared,
        "--gpus-per-node=a100:1", *after, f'--output="{fake.logs}/%A_%a.out"', *ends,
    ]  # fmt: skip
    assert options(fake.script("train", **EVERYTHING)) == [
        "--job-name=tiny", "--nodes=2", "--ntasks-per-node=1", *shared,
        "--gpus-per-node=a100:4", *after, f'--output="{fake.logs}/%j.out"', *ends,
    ]  # fmt: skip


def test_a_percent_sign_in_the_folder_of_logs_is_no_pattern_to_slurm(fake):
    assert '--output="/runs/100%%j/%j.out"' in options(fake.script("train", logs="/runs/100%j"))


def test_a_rank_records_as_one_of_the_world(fake):
    assert fake.status(fake.script("record"), ends="0") == 0
    words = fake.said("words").split("\0")[:-1]
    recipe = str(fake.told / "recipe.yaml")
    assert words == ["-m", "limbeck", "record", "--rank", "1", "--world", "3", recipe]


def test_torchrun_is_told_of_all_nodes_and_meets_at_the_first(fake):
    assert fake.status(fake.script("train", nodes=2, gpus="4"), ends="0") == 0
    words = fake.said("words").split("\0")[:-1]
    assert words == [
        "-m", "limbeck.launching.ranks", "--nnodes", "2", "--nproc-per-node", "4",
        "--master-addr", "n1", "--master-port", "10007", "-m", "limbeck", "train",
        str(fake.told / "recipe.yaml"),
    ]  # fmt: skip


HOSTILE = (
    "a 'b",
    'a "b',
    "a$(touch pwned)b",
    "a`touch pwned`b",
    "a;touch pwned",
    "a#SBATCH b",
    "ü*",
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", HOSTILE)
def test_no_path_and_no_override_breaks_out(fake, kind, name):
    place = fake.told / name.replace("/", "")
    place.mkdir()
    work = slurm.Work(Path(f"{name}.yaml"), (f"evaluate.prompt={name}", "seed=3"), place)
    script = fake.script(kind, work)
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert fake.status(script, ends="0") == 0
    words = fake.said("words").split("\0")[:-1]
    assert words[-3:] == [str(place / f"{name}.yaml"), f"evaluate.prompt={name}", "seed=3"]
    assert not list(fake.told.rglob("pwned"))


@pytest.mark.parametrize("end", ["\n", "\r", "\x85", "\u2028"])
def test_a_line_end_in_a_path_or_an_override_is_refused(fake, end):
    inside = f"a{end}#SBATCH --uid=0"
    for work in (
        slurm.Work(Path(inside), (), fake.told),
        slurm.Work(Path("a"), (inside,), fake.told),
        slurm.Work(Path("a"), (), fake.told / inside),
    ):
        with pytest.raises(LimbeckError, match="found a line end or control sign"):
            fake.script("record", work)


@pytest.mark.parametrize("kind", KINDS)
def test_work_that_is_asked_to_stop_saves_and_goes_back_into_the_queue(fake, kind):
    job = fake.started(fake.script(kind))
    fake.until_begun()
    job.send_signal(signal.SIGTERM)
    assert job.wait(60) == 75
    assert fake.said("signals").split() == [{"record": "TERM", "train": "USR1"}[kind]]
    assert fake.said("saved") == "4\n"
    assert fake.said("scontrol") == f"requeue Incomplete {JOB[kind]}\n"
    assert "asked to stop" in fake.log(JOB[kind])


def test_a_stop_is_known_though_work_and_script_are_signalled_at_once(fake):
    script = fake.script("record")
    for again in range(1, 5):
        (fake.told / "begun").unlink(missing_ok=True)
        job = fake.started(script, at_once="yes")
        fake.until_begun()
        os.killpg(job.pid, signal.SIGTERM)
        assert job.wait(60) == 75
        assert fake.said("scontrol") == "requeue Incomplete 7_1\n" * again


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("status", [0, 1, 2, 130, 137, 143])
def test_nothing_but_a_stop_goes_back_into_the_queue(fake, kind, status):
    assert fake.status(fake.script(kind), ends=str(status)) == status
    assert fake.said("scontrol") == ""
    assert f"ended with status {status}." in fake.log(JOB[kind])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("restarts", "again"), [("1", True), ("2", False), ("3", False)])
def test_a_job_goes_back_as_often_as_was_asked_and_no_more(fake, kind, restarts, again):
    script = fake.script(kind, requeues=2)
    assert fake.status(script, ends="75", SLURM_RESTART_COUNT=restarts) == 75
    assert (fake.said("scontrol") != "") == again


@pytest.mark.parametrize("kind", KINDS)
def test_a_stop_during_set_up_begins_nothing_and_goes_back(fake, kind):
    assert fake.status(fake.script(kind, set_up=("kill -s TERM $$",))) == 75
    assert fake.said("words") == ""
    assert fake.said("scontrol") == f"requeue Incomplete {JOB[kind]}\n"


@pytest.mark.parametrize("kind", KINDS)
def test_set_up_that_fails_ends_the_job_before_the_work(fake, kind):
    assert fake.status(fake.script(kind, set_up=("source /nowhere/activate",))) == 1
    assert fake.said("words") == fake.said("scontrol") == ""
    assert "/nowhere/activate" in fake.log(JOB[kind])


def test_each_task_has_its_own_folder_of_logs_and_its_own_scratch(fake, tmp_path):
    scratches = []
    for task in ("0", "1"):
        given = {"SLURM_ARRAY_TASK_ID": task, "TMPDIR": str(tmp_path)}
        assert fake.status(fake.script("record"), ends="0", **given) == 0
        scratches.append(Path(fake.said("scratch")))
        assert "what the work says" in fake.log(f"7_{task}")
    assert scratches[0] != scratches[1]
    assert not any(path.exists() for path in scratches)
    assert sorted(path.name for path in fake.logs.iterdir()) == ["7_0", "7_1"]


def test_a_requeued_task_goes_on_with_its_log(fake):
    for status in ("75", "0"):
        fake.status(fake.script("record"), ends=status)
    assert fake.log("7_1").count("what the work says") == 2
