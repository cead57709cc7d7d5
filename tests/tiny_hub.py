"""A Hub on loopback: one data set, as huggingface_hub asks for it; it can be slow, break off, and tell lies.

Told by the environment, as in life: HF_ENDPOINT in a process of its own.
"""

import contextlib
import hashlib
import json
import re
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMITS = ("a" * 40, "b" * 40)
NAME = "someone/texts"


class Hub:
    """files: {path: bytes}. large: those that are told with their SHA-256. at: which commit the branch stands at."""

    def __init__(self, files, *, large=(), delay=0.0, name=NAME):
        self.files, self.large, self.delay, self.name = files, set(large), delay, name
        self.at, self.lie = 0, {}
        self.sent = {}
        self.lock = threading.Lock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def info(self, commit):
        siblings = []
        for path, raw in sorted(self.files.items()):
            one = {"rfilename": path, "size": len(raw), "blobId": hashlib.sha1(raw).hexdigest()}
            if path in self.large:
                told = hashlib.sha256(self.lie.get(path, raw)).hexdigest()
                one["lfs"] = {"sha256": told, "size": len(raw), "pointerSize": 100}
            siblings.append(one)
        return {"id": self.name, "sha": commit, "siblings": siblings, "private": False}

    def tree(self):
        return [
            {"type": "file", "path": one["rfilename"], "size": one["size"], "oid": one["blobId"]}
            for one in self.info("")["siblings"]
        ]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, *, body):
        hub = self.server.hub
        path = urllib.parse.unquote(self.path.partition("?")[0])
        if match := re.fullmatch(rf"/api/datasets/{hub.name}(?:/revision/(\w+))?", path):
            commit = match[1] if match[1] in COMMITS else COMMITS[hub.at]
            return self.send(200, json.dumps(hub.info(commit)).encode(), body)
        if re.fullmatch(rf"/api/datasets/{hub.name}/tree/\w+", path):
            return self.send(200, json.dumps(hub.tree()).encode(), body)
        match = re.fullmatch(rf"/datasets/{hub.name}/resolve/(\w+)/(.+)", path)
        if not match or match[2] not in hub.files:
            return self.send(404, b"{}", body, **{"X-Error-Code": "RepoNotFound"})
        raw, begin = hub.files[match[2]], 0
        if ranged := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            begin = int(ranged[1])
        if body:
            with hub.lock:
                hub.sent[match[2]] = hub.sent.get(match[2], 0) + len(raw) - begin
        tag = hashlib.sha256(raw).hexdigest()
        more = {"ETag": f'"{tag}"', "X-Repo-Commit": match[1], "Accept-Ranges": "bytes"}
        if begin:
            more["Content-Range"] = f"bytes {begin}-{len(raw) - 1}/{len(raw)}"
        return self.send(206 if begin else 200, raw[begin:], body, **more)

    def send(self, status, raw, body, **headers):
        with contextlib.suppress(OSError):
            self.send_response(status)
            self.send_header("Content-Length", str(len(raw)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            for begin in range(0, len(raw) if body else 0, 8192):
                self.wfile.write(raw[begin : begin + 8192])
                time.sleep(self.server.hub.delay)


@contextlib.contextmanager
def serving(files, **options):
    """A Hub that answers until the block is left."""
    hub = Hub(files, **options)
    hub.server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    hub.server.daemon_threads = True
    hub.server.hub = hub
    thread = threading.Thread(target=hub.server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.server.shutdown()
        hub.server.server_close()
