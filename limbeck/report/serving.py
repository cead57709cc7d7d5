"""The report of a run that still goes on, made anew whenever it is asked for, for a browser on this machine."""

from __future__ import annotations

from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from limbeck.errors import LimbeckError
from limbeck.report import collect, render

SECONDS = 10
"""After so many a browser asks again."""
_HERE = ("127.0.0.1", "localhost")


class _Page(BaseHTTPRequestHandler):
    """GET / is the report; there is nothing else."""

    server_version, sys_version = "limbeck", ""

    def __init__(self, run: Path, *given: object) -> None:
        self._run = run
        super().__init__(*given)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        # A page elsewhere may send a browser here under a name of its own, and would read what it gets.
        if urlsplit(f"//{self.headers.get('Host', '')}").hostname not in _HERE:
            return self.send_error(HTTPStatus.FORBIDDEN)
        if urlsplit(self.path).path != "/":
            return self.send_error(HTTPStatus.NOT_FOUND)
        body = render.html(collect.facts(self._run)).encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Refresh", str(SECONDS))
        self.end_headers()
        self.wfile.write(body)
        return None

    def log_message(self, *_: object) -> None:
        """Nothing is printed for a request."""


def server(run: Path, port: int) -> ThreadingHTTPServer:
    """A server on loopback, not serving yet; port 0 takes a free one."""
    collect.facts(run)  # what is no run is told before anything listens
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), partial(_Page, run))
    except OSError as reason:
        raise LimbeckError(
            f"report --serve: port {port} cannot be had ({reason.strerror}). Give another: --port 8123, or 0 for any."
        ) from reason
