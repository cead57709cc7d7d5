"""A run that goes on is followed, by a browser on this machine alone."""

import contextlib
import threading
import urllib.error
import urllib.request

import pytest
import tiny_report

from limbeck import files
from limbeck.errors import LimbeckError
from limbeck.report import serving


@contextlib.contextmanager
def served(run):
    with serving.server(run, 0) as here:
        thread = threading.Thread(target=here.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{here.server_address[1]}"
        finally:
            here.shutdown()
            thread.join()


def got(url, **headers):
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
        return answer.read().decode(), answer.headers


def test_each_request_sees_what_the_run_has_written_since(tmp_path):
    run = tiny_report.folder(tmp_path)
    with served(run) as url:
        before, headers = got(url)
        assert int(headers["Refresh"]) == serving.SECONDS
        assert "31415.0" not in before
        line = {
            "stage": "only",
            "step": 21,
            "tokens": 31415,
            "loss": 1.0,
            "terms": {},
            "grad_norm": 1.0,
        }
        with (run / "log.jsonl").open("ab") as stream:
            stream.write(files.canonical(line) + b'\n{"half a li')
        after, _ = got(url)
        assert "31415.0" in after


def test_there_is_one_page_and_strangers_do_not_get_it(tmp_path):
    with served(tiny_report.folder(tmp_path)) as url:
        for path, headers, status in (
            ("/recipe.yaml", {}, 404),
            ("/../tiny/log.jsonl", {}, 404),
            ("/", {"Host": "elsewhere.example"}, 403),
        ):
            with pytest.raises(urllib.error.HTTPError) as told:
                got(url + path, **headers)
            assert told.value.code == status
            told.value.close()


def test_no_run_and_no_port_are_told(tmp_path):
    with pytest.raises(LimbeckError, match="is no run"):
        serving.server(tmp_path, 0)
    run = tiny_report.folder(tmp_path)
    with (
        serving.server(run, 0) as here,
        pytest.raises(LimbeckError, match=r"cannot be had .* --port"),
    ):
        serving.server(run, here.server_address[1])
