"""Charts of the machine show every curve of telemetry, thinned by means, and nothing where nothing was measured."""

import json

import pytest
import tiny_report

from limbeck.report import charts, collect, machine, render


def line(second, **more):
    plain = {"time": 1000.0 + second, "cpu": 0.5, "cores": 1.0, "memory_gigabytes": 2.0}
    return {**plain, "machine_memory_gigabytes": 8.0, "sampling_seconds": 0.001, **more}


def gpu(**more):
    return {"utilisation": 0.75, "memory_gigabytes": 40.0, "watts": 600.0, "celsius": 61.0, **more}


def written(run, lines, end=""):
    (run / "telemetry.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines) + end)


def test_every_sensor_is_a_curve_over_minutes(tmp_path):
    run = tiny_report.folder(tmp_path)
    written(run, [line(s, gpus=[gpu(), gpu(watts=300.0)]) for s in (0, 30, 60)], end='{"time": 10')
    drawn = charts.all_charts(collect.facts(run))
    found = {figure.layout.title.text: figure for _, figure in drawn}
    busy = {curve.name: curve for curve in found["Utilisation"].data}
    assert list(busy) == ["all cores", "GPU 0", "GPU 1"]
    assert list(busy["all cores"].x) == [0.0, 0.5, 1.0]
    assert list(busy["GPU 1"].y) == [75.0, 75.0, 75.0]
    memory = {curve.name: curve.y[0] for curve in found["Memory"].data}
    assert memory == {"this process": 2.0, "the machine": 8.0, "GPU 0": 40.0, "GPU 1": 40.0}
    assert [curve.y[0] for curve in found["Power of GPUs"].data] == [600.0, 300.0]
    assert [curve.y[0] for curve in found["Temperature of GPUs"].data] == [61.0, 61.0]
    (said,) = (said for said, _ in drawn if said.startswith("Power"))
    assert said == "Power of GPUs over time, in W; on average: GPU 0 600.0, GPU 1 300.0"


def test_a_long_run_is_thinned_and_keeps_its_mean(tmp_path):
    lines = [line(second, cpu=(second % 10) / 10) for second in range(6000)]
    (_, busy), (_, memory) = machine.charts(lines)
    assert len(busy.data[0].x) == 600
    assert busy.data[0].y[0] == pytest.approx(45.0)
    assert len(memory.data) == 2


def test_what_a_gpu_never_told_has_no_curve():
    lines = [line(second, gpus=[{"utilisation": 0.5}]) for second in range(3)]
    titles = [figure.layout.title.text for _, figure in machine.charts(lines)]
    assert titles == ["Utilisation", "Memory"]


def test_a_run_without_telemetry_has_no_such_chart(tmp_path):
    assert machine.charts(machine.read(tmp_path)) == []


def test_utilisation_of_a_model_is_drawn_where_it_was_logged(tmp_path):
    run = tiny_report.folder(tmp_path)
    told = [json.loads(one) for one in (run / "log.jsonl").read_text().splitlines()]
    lines = [json.dumps(one | {"model_flops_utilisation": 0.4}) + "\n" for one in told]
    (run / "log.jsonl").write_text("".join(lines))
    drawn = {f.layout.title.text: f for _, f in charts.all_charts(collect.facts(run))}
    assert set(drawn["Model FLOPs utilisation"].data[0].y) == {0.4}


def test_values_that_are_no_numbers_are_passed_over(tmp_path):
    run = tiny_report.folder(tmp_path)
    odd = [{"time": "x"}, {"time": True}, {"time": None}, {"cpu": 0.5}, 3, {"time": float("nan")}]
    odd += [line(30, cpu="much", memory_gigabytes=None, gpus=[3, gpu(watts="x"), {}])]
    written(
        run,
        [line(0), *odd, line(60, gpus=7), {"time": 1090.0}],
        end='{"time": 1' + "0" * 400 + "}\n" + "[" * 100_000,
    )
    found = machine.read(run)
    assert [one["time"] for one in found] == [1000, 1030, 1060, 1090]
    drawn = {figure.layout.title.text: figure for _, figure in machine.charts(found)}
    busy = {curve.name: list(curve.x) for curve in drawn["Utilisation"].data}
    assert busy == {"all cores": [0.0, 1.0], "GPU 1": [0.5]}
    assert "Power of GPUs" not in drawn
    memory = {curve.name: list(curve.x) for curve in drawn["Memory"].data}
    assert memory == {"this process": [0.0, 1.0], "the machine": [0.0, 0.5, 1.0], "GPU 1": [0.5]}
    assert render.write(run).is_file()
