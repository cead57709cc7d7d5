"""A Slurm of this machine runs what was submitted: in its order, from where it stopped, and with nothing it was not given."""

import contextlib
import json
import sys

import pytest
import slurm_daemon
import tiny_folder
from slurm_daemon import Slurm

from limbeck import cli
from limbeck.cache.read import CacheReader

pytestmark = [
    pytest.mark.skipif(bool(slurm_daemon.missing()), reason=slurm_daemon.missing()),
    pytest.mark.timeout(600),
]
# Stands for Limbeck where only Slurm matters: it tells what it was given, and stops or ends as the folder says. Not a shell,
# which once in many runs lost the signal that came while it forked.
WORK = f"""\
#!{sys.executable} -SE
import os, signal, time
told, rank = os.environ["told"], os.environ.get("SLURM_ARRAY_TASK_ID", "train")
def tell(kind, text):
    # A name of its own: the ranks of a training tell the same.
    with open(f"{{told}}/{{rank}}.{{kind}}.{{os.getpid()}}.new", "w") as stream:
        stream.write(text + "\\n")
    os.rename(stream.name, f"{{told}}/{{rank}}.{{kind}}")
def stop(*_):
    tell("stopped", "stopped")
    os._exit(75)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGUSR1, stop)
given = [os.environ.get(name) or "none" for name in ("HF_TOKEN", "given")]
tell("begun", " ".join([*given, rank]))
if os.path.exists(f"{{told}}/{{rank}}.fails"):
    raise SystemExit(2)
while not os.path.exists(f"{{told}}/ends") or os.path.exists(f"{{told}}/{{rank}}.waits"):
    time.sleep(0.1)
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    # A short path: that of munged's socket has 107 characters at most.
    found = Slurm(tmp_path_factory.mktemp("slurm"))
    yield found
    found.close()


@pytest.fixture
def launch(slurm, monkeypatch, capsys, tmp_path):
    """Submits with `limbeck launch slurm`, and gives the number of each job by its kind."""
    for name in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, slurm.environment[name])
    monkeypatch.chdir(tmp_path)

    def command(recipe, *words):
        given = ["limbeck", "launch", "slurm", str(recipe), "--submit", *words]
        monkeypatch.setattr(sys, "argv", given)
        with contextlib.suppress(SystemExit):
            cli.main()
        said = capsys.readouterr()
        assert said.out, said.err
        return {line.split()[0][:-1]: line.split()[2][:-1] for line in said.out.splitlines()}

    return command


@pytest.fixture
def work(tmp_path, monkeypatch):
    """The folder in which WORK tells and is told, and the words that have it run."""
    told = tmp_path / "told"
    told.mkdir()
    program = tmp_path / "work"
    program.write_text(WORK)
    program.chmod(0o755)
    monkeypatch.setenv("told", str(told))
    return told, ("--python", str(program), "--export", "told")


def state(slurm, job):
    return slurm.facts(job)["JobState"]


def ended(slurm, job, seconds=300):
    """The state in which a job ended."""
    going = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED")
    slurm.until(lambda: state(slurm, job) not in going, f"job {job} does not end", seconds)
    return state(slurm, job)


def soon(slurm, job):
    """Waits until a job is back in the queue, and has it start in seconds: Slurm would leave it there for minutes.

    Not at once: for some seconds a node refuses a job of the credential that was revoked when it was requeued.
    """
    slurm.until(lambda: slurm.facts(job)["Restarts"] == "1", f"job {job} is not requeued")
    slurm.until(lambda: state(slurm, job) == "PENDING", f"job {job} does not wait")
    slurm("scontrol", "update", f"JobId={job}", "StartTime=now+5")


def test_one_task_goes_back_into_the_queue_and_the_others_go_on(slurm, launch, work, tmp_path):
    told, words = work
    recipe = tiny_folder.written(tmp_path, runs=str(tmp_path / "the runs 100%j"))
    jobs = launch(recipe, *words, "--ranks", "3", "--record")
    slurm.until(lambda: len(list(told.glob("*.begun"))) == 3, "the tasks do not begin")
    # The task whose own number is that of the whole array: requeued by that number, all of them would be.
    (last,) = (
        task for task in "012" if slurm.facts(f"{jobs['record']}_{task}")["JobId"] == jobs["record"]
    )
    (told / f"{last}.begun").unlink()
    slurm("scancel", "--batch", "--signal=TERM", f"{jobs['record']}_{last}")
    soon(slurm, f"{jobs['record']}_{last}")
    assert (told / f"{last}.stopped").exists()
    slurm.until((told / f"{last}.begun").exists, "the task does not begin again")
    (told / "ends").touch()
    for task in "012":
        job = f"{jobs['record']}_{task}"
        assert ended(slurm, job) == "COMPLETED"
        assert slurm.facts(job)["Restarts"] == ("1" if task == last else "0")
    logs = tmp_path / "the runs 100%j/tiny/slurm"
    folders = {path.name for path in logs.iterdir() if path.is_dir()}
    assert folders == {f"{jobs['record']}_{task}" for task in "012"}
    assert (logs / f"{jobs['record']}_0.out").read_text() == ""


def test_a_job_that_is_cancelled_saves_and_stays_cancelled(slurm, launch, work, tmp_path):
    told, words = work
    job = launch(tiny_folder.written(tmp_path), *words, "--record")["record"] + "_0"
    slurm.until((told / "0.begun").exists, "the task does not begin")
    slurm("scancel", job)
    assert ended(slurm, job) == "CANCELLED"
    slurm.until((told / "0.stopped").exists, "the work was not told")
    slurm.until(lambda: slurm("squeue", "-h") == "", "the queue is not empty")
    # It did ask: what Slurm had cancelled was not taken back.
    assert "asks to go back" in (tmp_path / f"runs/tiny/slurm/{job}/log.txt").read_text()
    assert state(slurm, job) == "CANCELLED"


def test_a_training_that_is_preempted_saves_and_goes_back(slurm, launch, work, tmp_path):
    told, words = work
    (told / "ends").touch()
    (told / "train.waits").touch()
    given = ("--train", "--nodes", "2", "--cpus", "4")
    job = launch(tiny_folder.written(tmp_path), *words, *given)["train"]
    slurm.until((told / "train.begun").exists, "the training does not begin")
    whole = ("--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=4", f"--output={tmp_path}/out")
    urgent = slurm("sbatch", "--parsable", "--partition=urgent", *whole, "--wrap=true").strip()
    assert ended(slurm, urgent) == "COMPLETED"
    assert (told / "train.stopped").exists()
    (told / "train.waits").unlink()
    soon(slurm, job)
    assert ended(slurm, job) == "COMPLETED"


@pytest.mark.slow
def test_a_job_near_its_time_limit_is_asked_to_stop_and_goes_back(slurm, launch, work, tmp_path):
    told, words = work
    given = ("--record", "--time", "1", "--warning-seconds", "30")
    job = launch(tiny_folder.written(tmp_path), *words, *given)["record"] + "_0"
    slurm.until((told / "0.stopped").exists, "the time limit is not told", 100)
    (told / "ends").touch()
    soon(slurm, job)
    assert ended(slurm, job) == "COMPLETED"


def test_training_waits_for_every_rank_and_never_begins_where_one_failed(
    slurm, launch, work, tmp_path
):
    told, words = work
    (told / "1.fails").touch()
    (told / "0.waits").touch()
    jobs = launch(tiny_folder.written(tmp_path), *words, "--ranks", "2")
    assert ended(slurm, f"{jobs['record']}_1") == "FAILED"
    assert slurm.facts(f"{jobs['record']}_1")["ExitCode"] == "2:0"
    assert state(slurm, jobs["train"]) == "PENDING"
    (told / "ends").touch()
    (told / "0.waits").unlink()
    assert ended(slurm, f"{jobs['record']}_0") == "COMPLETED"
    assert ended(slurm, jobs["train"]) == "CANCELLED"
    assert not (told / "train.begun").exists()


def test_a_job_has_what_was_exported_by_name_and_no_key(slurm, launch, work, tmp_path, monkeypatch):
    told, words = work
    (told / "ends").touch()
    monkeypatch.setenv("HF_TOKEN", "abcdef")
    job = launch(tiny_folder.written(tmp_path), *words, "--train", "--set-up", "export given=here")
    assert ended(slurm, job["train"]) == "COMPLETED"
    assert (told / "train.begun").read_text() == "none here train\n"


def recipe(place, **changes):
    """A tiny recipe without a control, of as many steps as take a while."""
    stage = tiny_folder.stage(place, budget="100 steps", micro_rows=1)
    plain = {"stages": [stage], "control": False, "checkpoints": {"every": 5}, "evaluate": None}
    return tiny_folder.written(place, **plain | changes)


@pytest.mark.slow
def test_a_stopped_training_goes_on_and_leaves_an_export(slurm, launch, tmp_path, monkeypatch):
    import limbeck

    monkeypatch.setenv("PYTHONPATH", str(next(iter(limbeck.__path__)) + "/.."))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    given = ("--export", "PYTHONPATH", "--export", "OMP_NUM_THREADS")
    jobs = launch(recipe(tmp_path), *given, "--ranks", "3", "--nodes", "2", "--cpus", "1")
    for rank in range(3):
        assert ended(slurm, f"{jobs['record']}_{rank}") == "COMPLETED"
    run = tmp_path / "runs/tiny"
    checkpoints = run / "stages/1-distil/checkpoints"
    slurm.until(lambda: any(checkpoints.glob("0*")), "nothing is saved", 120)
    slurm("scancel", "--batch", "--signal=TERM", jobs["train"])
    soon(slurm, jobs["train"])
    saved = max(checkpoints.glob("0*")).name
    assert int(saved) < 100
    assert ended(slurm, jobs["train"]) == "COMPLETED"
    log = (run / f"slurm/{jobs['train']}/log.txt").read_text()
    assert f"goes on from {checkpoints}/{saved}" in log
    steps = [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 101))
    assert (run / "export/model.safetensors").is_file()
    assert (checkpoints / "000100/rank-0001.safetensors").is_file()
    logs = [(run / f"slurm/{jobs['record']}_{rank}/log.txt").read_text() for rank in range(3)]
    assert all("recorded " in said for said in logs)
    assert len(CacheReader(tmp_path / "cache")) > 0
