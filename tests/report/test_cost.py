"""What a run took: of its log and its telemetry, without what was not measured."""

import json

import pytest
import tiny_report

from limbeck import files
from limbeck.report import collect, cost


def telemetry(run, lines):
    (run / "telemetry.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def sample(time, **more):
    base = {"cpu": 0.5, "memory_gigabytes": 1.0, "machine_memory_gigabytes": 2.0}
    return {"time": time, **base, **more}


def test_training_takes_the_tokens_of_each_line_over_its_rate(tmp_path):
    run = tiny_report.folder(tmp_path)
    lines = [
        {"stage": "one", "step": 1, "tokens": 100, "tokens_per_second": 50.0},
        {
            "stage": "one",
            "step": 1,
            "tokens": 100,
            "held_out": {"measures": {}, "terms": {}},
        },  # a look is no training
        {"stage": "one", "step": 2, "tokens": 300, "tokens_per_second": 100.0},
        {"stage": "two", "step": 1, "tokens": 100, "tokens_per_second": 10.0},
    ]
    files.write_bytes(run / "log.jsonl", b"".join(files.canonical(line) for line in lines))
    assert cost.of_run(collect.facts(run)).training["student"] == 2 + 2 + 10


def test_hours_energy_and_price_leave_pauses_out(tmp_path):
    run = tiny_report.folder(
        tmp_path, recipe="name: tiny\ntelemetry: {price_per_hour: 3.0, currency: EUR}\n"
    )
    gpus = [{"watts": 300.0}, {"watts": 60.0}]
    times = [*range(0, 1801, 10), *range(90_000, 91_801, 10)]  # a day between two commands
    telemetry(run, [sample(time, gpus=gpus) for time in times])
    found = cost.of_run(collect.facts(run))
    assert found.hours == pytest.approx(1.0)
    assert found.kilowatt_hours == pytest.approx(0.36)
    assert found.money == pytest.approx(3.0)
    rows = dict(found.rows())
    assert rows["the machine, in all"] == "1 h 0 min, with 2 GPUs"
    assert rows["energy of the GPUs"] == "0.36 kWh"
    assert rows["price of the machine"] == "3.00 EUR"


def test_samples_far_apart_by_the_recipe_are_no_pause(tmp_path):
    run = tiny_report.folder(tmp_path, recipe="name: tiny\ntelemetry: {every_seconds: 100}\n")
    telemetry(run, [sample(time) for time in range(0, 3601, 100)])
    assert cost.of_run(collect.facts(run)).hours == pytest.approx(1.0)


def test_what_two_commands_sampled_at_once_is_counted_once(tmp_path):
    run = tiny_report.folder(tmp_path)
    telemetry(run, [sample(time, gpus=[{"watts": 100.0}]) for time in (1, 3, 2, 4, 5, 7, 6, 8)])
    found = cost.of_run(collect.facts(run))
    assert 3600 * found.hours == pytest.approx(7)
    assert 3.6e6 * found.kilowatt_hours == pytest.approx(700)


def test_what_was_not_measured_is_not_told(tmp_path):
    run = tiny_report.folder(tmp_path)
    found = cost.of_run(collect.facts(run))
    assert (found.hours, found.kilowatt_hours, found.money, found.text) == (None,) * 4
    assert [name for name, _ in found.rows()] == [
        "training of the student",
        "training of the control",
    ]


def test_text_that_teachers_wrote_has_its_price(tmp_path):
    run = tiny_report.folder(tmp_path)
    spent = [
        {"text": "a", "teacher": "t", "spent": 1.25},
        {"text": "b", "teacher": "t", "spent": 0.5},
    ]
    files.write_json(run / "provenance.json", {"text_spent": spent})
    assert (
        dict(cost.of_run(collect.facts(run)).rows())["price of the text that teachers wrote"]
        == "1.75"
    )


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.4, "0 s"),
        (59.6, "1 min 0 s"),
        (725, "12 min 5 s"),
        (3600, "1 h 0 min"),
        (4_000_000, "1,111 h 6 min"),
    ],
)
def test_durations_for_people(seconds, told):
    assert cost.duration(seconds) == told
