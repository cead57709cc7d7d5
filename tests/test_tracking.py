"""A tracker that fails never stops a run; what it lacks is told before a model is loaded; who comes late is told everything."""

import csv
import importlib.util
import socket

import pytest
import tiny_folder
import tiny_tracked

from limbeck import names, tracking
from limbeck.errors import RecipeError
from limbeck.training import meter


class Sour:
    """A tracker of a user's own that breaks at the third line."""

    last = 0

    def __init__(self, run):
        self.heard = []

    def line(self, step, values):
        self.heard.append(step)
        if step == 3:
            raise ZeroDivisionError("this tracker is broken")

    def figures(self, step, values):
        raise AssertionError("nothing is told to a tracker that was given up")

    def close(self):
        raise AssertionError("nothing is told to a tracker that was given up")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("tracking")


def steps(folder):
    with folder.log.with_suffix(".csv").open(newline="") as stream:
        return [int(row["train/step"]) for row in csv.DictReader(stream)]


def short(place, name, **changes):
    stages = [tiny_folder.stage(place, budget="6 steps", objective=["forward_kl"], alpha=0.5)]
    plain = {"stages": stages, "checkpoints": {"every": 2}}
    return tiny_tracked.recipe(place, name=name, **(plain | changes))


def test_a_tracker_that_breaks_is_told_once_and_training_ends_well(place, capsys):
    asked = short(place, "sour", track=["test_tracking.Sour"])
    folder = tiny_tracked.trained(asked, figures=tiny_tracked.FIGURES)
    said = capsys.readouterr().err
    assert said.count("is given up, and training goes on without it") == 1
    assert "'test_tracking.Sour'" in said
    assert "ZeroDivisionError: this tracker is broken" in said
    assert [line["step"] for line in meter.read(folder.log)] == steps(folder) == [1, 2, 3, 4, 5, 6]


def test_a_folder_that_cannot_be_written_stops_no_run(place, capsys):
    pytest.importorskip("tensorboard")
    asked = short(place, "barred", track=["tensorboard"])
    folder = tiny_folder.folder(asked)
    folder.path.mkdir(parents=True)
    (folder.path / "trackers").write_text("a file where a folder should be")
    tiny_tracked.trained(asked)
    assert "'tensorboard' is given up" in capsys.readouterr().err
    assert steps(folder) == [1, 2, 3, 4, 5, 6]


def test_a_server_that_is_away_stops_no_run(place, capsys, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
    asked = short(place, "away", track=[{"mlflow": {"uri": nobody}}])
    folder = tiny_tracked.trained(asked)
    assert "'mlflow' is given up" in capsys.readouterr().err
    assert steps(folder) == [1, 2, 3, 4, 5, 6]


def test_a_tracker_that_comes_later_is_told_from_the_first_line(place):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tiny_tracked.trained(short(place, "late"), 3)
    folder = tiny_tracked.trained(short(place, "late", track=["tensorboard"]))
    events = EventAccumulator(str(folder.path / "trackers/tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]


def test_steps_and_tokens_are_counted_through_stages(place):
    stages = [tiny_folder.stage(place, name=n, budget="3 steps") for n in ("first", "second")]
    folder = tiny_tracked.trained(short(place, "two", stages=stages))
    with folder.log.with_suffix(".csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    each = tiny_folder.ROWS * tiny_folder.LENGTH
    assert [int(row["train/step"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [int(row["train/tokens"]) for row in rows] == [each * step for step in range(1, 7)]
    assert [int(row["train/stage"]) for row in rows] == [1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow", "trackio"])
def test_a_package_that_is_missing_is_told_with_its_extra(place, name, monkeypatch):
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == name else there(n))
    with pytest.raises(RecipeError, match=rf"'{name}' needs .* pip install 'limbeck\[{name}\]'"):
        tracking.check(short(place, "missing", track=[name]))


def test_wandb_without_a_key_is_told_before_anything_is_loaded(place, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(RecipeError, match="WANDB_API_KEY is not set"):
        tracking.check(short(place, "no-key", track=["wandb"]))
    tracking.check(short(place, "no-key", track=[{"wandb": {"mode": "offline"}}]))


@pytest.mark.parametrize("uri", ["https://me:secret@host", "http://host?token=secret"])
def test_an_address_that_holds_a_secret_is_refused_without_repeating_it(place, uri):
    pytest.importorskip("mlflow")
    with pytest.raises(RecipeError, match="holds a user, a password or a query") as refused:
        tracking.check(short(place, "secret", track=[{"mlflow": {"uri": uri}}]))
    assert "secret" not in str(refused.value)


def test_a_tracker_that_stands_twice_is_refused(place):
    with pytest.raises(RecipeError, match="csv found twice"):
        tracking.check(short(place, "twice", track=["csv", "csv"]))


def test_listing_trackers_names_all_five():
    assert list(names.members("trackers")) == ["csv", "mlflow", "tensorboard", "trackio", "wandb"]


@pytest.mark.parametrize(
    ("runs", "name", "wanted"),
    [
        ("runs", "quick", "quick"),
        ("/some/runs/quick", "control", "quick/control"),
        ("runs/several/students", "1-pruned", "several/1-pruned"),
        ("runs/several/students/1-pruned", "control", "several/1-pruned/control"),
    ],
)
def test_an_arm_is_called_by_its_run(place, runs, name, wanted):
    plain = tiny_tracked.recipe(place)
    assert tracking.title(plain.model_copy(update={"runs": runs, "name": name})) == wanted
