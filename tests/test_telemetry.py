"""Lines of telemetry tell what the machine does, cost next to nothing, and stop no run."""

import json
import time

import psutil
import pytest
import torch

from limbeck import telemetry

CPU = torch.device("cpu")


def lines(folder):
    return [json.loads(line) for line in (folder / telemetry.NAME).read_text().splitlines()]


def worked(seconds):
    """Keeps this core busy."""
    end, total = time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        total += sum(range(1000))
    return total


def test_a_busy_process_is_seen_in_every_folder(tmp_path):
    both = [tmp_path / "one", tmp_path / "two"]
    for folder in both:
        folder.mkdir()
    begun = time.time()
    with telemetry.sampled(both, 0.1, CPU):
        worked(1.0)
    found = lines(both[0])
    assert found == lines(both[1])
    assert 2 <= len(found) <= 10
    assert begun <= found[0]["time"] <= found[-1]["time"] <= time.time()
    # A loaded machine may give this process little of a core, but some.
    assert max(line["cores"] for line in found) > 0.1
    assert all(0 <= line["cpu"] <= 1 for line in found)
    own = psutil.Process().memory_info().rss / 1e9
    assert found[-1]["memory_gigabytes"] == pytest.approx(own, rel=0.5)


def test_a_sample_costs_less_than_a_hundredth_of_the_time_between_two():
    process, begun = psutil.Process(), time.thread_time()
    for _ in range(50):
        telemetry.sample(process, [])
    # 0.5 ms a sample when this was written, of 2 s: 0.03 %.
    assert (time.thread_time() - begun) / 50 < 0.01 * 2.0


def test_nothing_is_written_where_nobody_asks(tmp_path):
    with telemetry.sampled([tmp_path], None, CPU):
        worked(0.05)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_goes_away_ends_telemetry_and_not_the_run(tmp_path, capsys):
    with telemetry.sampled([tmp_path / "absent"], 0.05, CPU):
        worked(0.5)
    said = capsys.readouterr().err
    assert said.count("no more telemetry is written, and the run goes on") == 1


def test_what_a_gpu_does_not_tell_is_left_out():
    pynvml = pytest.importorskip("pynvml")
    # No driver is asked: a handle of nothing makes every call fail, as one does on a GPU that lacks a sensor.
    read = telemetry._gauge(pynvml, None)
    if torch.cuda.is_available():
        pytest.skip("NVML is there, and would take such a handle amiss")
    assert read() == {}
