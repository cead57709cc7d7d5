"""The counter speaks of rate and time left, and a log gets few lines."""

import io
import json

from limbeck.progress import Progress, progress, say, span


class Terminal(io.StringIO):
    def isatty(self):
        return True


def nothing(counter):
    pass


def test_a_line_tells_part_rate_and_time_left():
    now = [0.0]
    counter = Progress(400, nothing, lambda: now[0])
    now[0] = 10.0
    counter.advance(100)
    assert counter.line() == "100 of 400 (25%), 10/s, 10 s, 30 s left"


def test_a_note_stands_behind_the_line():
    counter = Progress(None, nothing, lambda: 0.0, note="held-out kl_to_teacher 1.2345")
    assert counter.line() == "0, 0.00/s, 0 s; held-out kl_to_teacher 1.2345"


def test_an_unknown_total_gives_no_time_left():
    now = [0.0]
    counter = Progress(None, nothing, lambda: now[0])
    now[0] = 4.0
    counter.advance(2)
    assert counter.line() == "2, 0.50/s, 4 s"


def test_no_time_passed_divides_by_nothing():
    assert Progress(5, nothing, lambda: 1.0).line() == "0 of 5 (0%), 0.00/s, 0 s"


def test_a_log_gets_one_line_for_short_work():
    out = io.StringIO()
    with progress("tokenize", 3, stream=out) as bar:
        for _ in range(3):
            bar.advance()
    lines = out.getvalue().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("tokenize: 3 of 3 (100%)")


def test_a_terminal_gets_a_bar_that_ends_full():
    out = Terminal()
    with progress("tokenize", 3, stream=out) as bar:
        bar.advance(3)
    assert "tokenize" in out.getvalue()
    assert "3 of 3 (100%)" in out.getvalue()


def test_spans_are_written_for_people():
    assert [span(s) for s in (0.2, 42, 185, 7620)] == ["0 s", "42 s", "3 min 05 s", "2 h 07 min"]


def test_what_an_earlier_process_did_is_not_this_ones_speed():
    now = [0.0]
    counter = Progress(400, nothing, lambda: now[0], done=300, before=300)
    now[0] = 10.0
    counter.advance(50)
    assert counter.line() == "350 of 400 (88%), 5.00/s, 10 s, 10 s left"


def test_work_that_goes_on_begins_where_it_stood():
    out = io.StringIO()
    with progress("train", 10, done=7, stream=out) as bar:
        bar.advance(3)
    assert out.getvalue().startswith("train: 10 of 10 (100%)")


def test_a_line_is_said_on_standard_error(capsys):
    say("export is complete.")
    assert capsys.readouterr() == ("", "export is complete.\n")


def test_a_program_is_told_in_objects(capsys, monkeypatch):
    monkeypatch.setenv("LIMBECK_LOG", "json")
    say("export is complete.")
    say("note: an [odd] \u201cthing\u201d\nof two lines")
    with progress("tokenize", 3) as bar:
        bar.advance(3)
    told = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(one["level"], one["text"]) for one in told] == [
        ("info", "export is complete."),
        ("note", "an [odd] \u201cthing\u201d\nof two lines"),
        ("progress", "tokenize"),
    ]
    assert (told[2]["done"], told[2]["total"]) == (3, 3)
    assert all(one["time"].endswith("+00:00") for one in told)
