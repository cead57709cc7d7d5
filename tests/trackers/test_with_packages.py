"""What each tracker's own package reads back is what log.jsonl says, also after a resume that made steps twice."""

import csv
import importlib.util

import numpy as np
import pytest
import tiny_folder
import tiny_tracked
import tiny_wandb

from limbeck.training import meter

PACKAGES = {
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "trackio": "trackio",
}
HERE = [name for name, package in PACKAGES.items() if importlib.util.find_spec(package)]
PART = {name: name for name in HERE} | {"wandb": {"wandb": {"mode": "offline"}}}
KEY = "canary-of-a-key-" + "0a1b2c3d" * 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("tracked")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACKIO_DIR", str(place / "trackio"))
        patch.setenv("WANDB_API_KEY", KEY)
        patch.setattr("sys.argv", ["limbeck", "train", "--canary-of-argv"])
        yield tiny_tracked.resumed(tiny_tracked.recipe(place, track=[PART[name] for name in HERE]))


@pytest.fixture(scope="module")
def wanted(folder):
    return tiny_tracked.wanted(folder) | tiny_tracked.FINAL


def need(name):
    if name not in HERE:
        pytest.skip(f"{PACKAGES[name]} is not installed; pip install 'limbeck[{name}]'")


def check(found, wanted, steps=tiny_folder.STEPS):
    """found: {metric: [(step, value), ...]} in the order in which they were told."""
    assert {name: points[-1][1] for name, points in found.items()} == wanted
    assert [step for step, _ in found["train/loss"]] == list(range(1, steps + 1))


def test_a_table_has_a_row_a_step_also_after_a_resume(folder, wanted):
    with folder.log.with_suffix(".csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    found = {}
    for row in rows:
        for name, value in row.items():
            if value:
                found.setdefault(name, []).append((int(row["train/step"]), float(value)))
    check(found, {name: value for name, value in wanted.items() if not name.startswith("final/")})
    with (folder.path / "figures.csv").open(newline="") as stream:
        told = [
            (row["model"], row["figure"], float(row["value"])) for row in csv.DictReader(stream)
        ]
    assert told == [("student", "bits_per_byte", 1.25), ("teacher", "bits_per_byte", 1.0)]


def test_tensorboard_reads_back_what_the_log_says(folder, wanted):
    need("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(
        str(folder.path / "trackers/tensorboard"), size_guidance={"scalars": 0}
    )
    events.Reload()
    found = {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }
    # Its scalars are float32.
    check(found, {name: float(np.float32(value)) for name, value in wanted.items()})


def test_an_offline_run_of_wandb_holds_what_the_log_says_and_is_one_run(folder, wanted):
    need("wandb")
    found, ids = {}, set()
    files = sorted((folder.path / "trackers/wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 2
    for record in (record for path in files for record in tiny_wandb.records(path)):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            ids.add(record.run.run_id)
        if kind == "history":
            told = tiny_wandb.values(record.history.item)
            for name, value in told.items():
                found.setdefault(name, []).append((told["train/step"], value))
        if kind == "summary":
            told = tiny_wandb.values(record.summary.update)
            for name in set(told) & set(tiny_tracked.FINAL):
                found.setdefault(name, []).append((tiny_folder.STEPS, told[name]))
    assert len(ids) == 1
    check(found, wanted)


def test_no_tracker_writes_a_key_or_the_command_line(folder):
    raw = [path.read_bytes() for path in (folder.path / "trackers").rglob("*") if path.is_file()]
    assert raw
    assert not [one for one in raw if KEY.encode() in one or b"canary-of-argv" in one]


def test_a_database_of_mlflow_holds_what_the_log_says_and_one_finished_run(folder, wanted):
    need("mlflow")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder.path.parent / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("limbeck").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["stages.0.alpha"] == "0.5"
    assert not [name for name in run.data.params if name.startswith("track.")]
    found = {
        name: [(p.step, p.value) for p in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
    }
    check(found, wanted)


def test_the_database_of_trackio_holds_what_the_log_says_in_one_run(folder, wanted):
    need("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    (name,) = SQLiteStorage.get_runs("limbeck")
    found = {}
    for told in SQLiteStorage.get_logs("limbeck", name):
        for metric, value in told.items():
            if "/" in metric:
                found.setdefault(metric, []).append((told["step"], value))
    check(found, wanted)


def test_trackers_change_no_bit_of_the_student(folder, tmp_path):
    alone = tiny_tracked.trained(tiny_tracked.recipe(folder.path.parents[1], name="alone"))
    lines = [[line["loss"] for line in meter.read(one.log)] for one in (folder, alone)]
    assert lines[0] == lines[1]
    tracked, plain = (tiny_folder.weights(one, tiny_folder.STEPS) for one in (folder, alone))
    assert all(bool((tracked[name] == plain[name]).all()) for name in plain)
