"""A Hub on loopback that takes models, as huggingface_hub gives them to it over LFS: logins, branches, commits.

Told by the environment, as in life: HF_ENDPOINT and HF_TOKEN in a process of its own.
"""

import base64
import contextlib
import hashlib
import json
import re
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "canary-of-the-hub-7c1e"


def _oid(path, there):
    """What the Hub says a file is, before it is sent: SHA-256 of weights, Git's name of others."""
    if path not in there:
        return None
    return (
        hashlib.sha256(there[path]).hexdigest()
        if path.endswith(".safetensors")
        else blob(there[path])
    )


def blob(raw):
    return hashlib.sha1(b"blob %d\0" % len(raw) + raw).hexdigest()


class PushHub:
    """repos: {name: {branch: {path: bytes}}}. refuse: {(verb, ending of a path): statuses to answer with, one a request}."""

    def __init__(self, repos=None, *, refuse=None):
        self.repos = repos or {}
        self.refuse = {key: list(codes) for key, codes in (refuse or {}).items()}
        self.objects, self.sent, self.commits, self.seen = {}, [], [], []
        self.lie = set()
        self.private = False

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def files(self, name, revision):
        branches = self.repos[name]
        told = [files for oid, files in self.commits if oid == revision]
        return told[0] if told else branches.get(revision, {})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.answer("GET")

    def do_POST(self):
        self.answer("POST")

    def do_DELETE(self):
        self.answer("DELETE")

    def do_PUT(self):
        self.answer("PUT")

    def answer(self, verb):
        hub = self.server.hub
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0) or 0))
        path = urllib.parse.unquote(self.path.partition("?")[0])
        hub.seen.append((verb, path))
        for (of, ending), codes in hub.refuse.items():
            if of == verb and path.endswith(ending) and codes:
                return self.send(codes.pop(0), {"error": "refused"})
        if path.startswith("/lfs/"):  # signed addresses need no login
            return self.stored(path.rpartition("/")[2], raw)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.send(401, {"error": "Invalid credentials"})
        for pattern, door in _DOORS:
            if match := re.fullmatch(pattern, path):
                return getattr(self, door)(raw, *match.groups())
        return self.send(404, {"error": f"no door {path}"})

    def stored(self, oid, raw):
        if hashlib.sha256(raw).hexdigest() != oid:
            return self.send(422, {"error": "other bytes"})
        self.server.hub.objects[oid] = raw
        self.server.hub.sent.append(oid)
        return self.send(200, {})

    def create(self, raw):
        asked = json.loads(raw)
        owner = asked.get("organization")
        name = f"{owner}/{asked['name']}" if owner else asked["name"]
        if owner == "forbidden":
            return self.send(403, {"error": "You don't have the rights"})
        status = 409 if name in self.server.hub.repos else 200
        self.server.hub.repos.setdefault(name, {"main": {}})
        if status == 200:
            self.server.hub.private = "private" in (
                asked.get("visibility"),
                "private" * bool(asked.get("private")),
            )
        return self.send(status, {"url": f"{self.server.hub.url}/{name}", "name": name})

    def branch(self, _, name, branch):
        branches = self.server.hub.repos[name]
        if self.command == "DELETE":
            return self.send(200, branches.pop(branch) and {})
        if branch in branches:
            return self.send(409, {"error": "exists"})
        branches[branch] = dict(branches["main"])
        return self.send(200, {})

    def card(self, raw):
        text = json.loads(raw)["content"]
        errors = [] if text.startswith("---\n") else [{"message": "no metadata"}]
        return self.send(400 if errors else 200, {"errors": errors, "warnings": []})

    def modes(self, raw, name, revision):
        there = self.server.hub.files(name, revision)
        told = [
            {"path": one["path"], "uploadMode": "lfs" if one["path"].endswith(".safetensors") else "regular",
             "shouldIgnore": False, "oid": _oid(one["path"], there)}
            for one in json.loads(raw)["files"]
        ]  # fmt: skip
        return self.send(200, {"files": told})

    def batch(self, raw, name):
        objects = []
        for one in json.loads(raw)["objects"]:
            href = f"{self.server.hub.url}/lfs/{one['oid']}"
            wanted = one["oid"] not in self.server.hub.objects
            actions = {"actions": {"upload": {"href": href}}} if wanted else {}
            objects.append({"oid": one["oid"], "size": one["size"], **actions})
        return self.send(
            200, {"transfer": "basic", "objects": objects}, kind="application/vnd.git-lfs+json"
        )

    def commit(self, raw, name, revision):
        hub = self.server.hub
        files = dict(hub.repos[name][revision])
        for line in raw.splitlines():
            told = json.loads(line)
            value = told["value"]
            if told["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif told["key"] == "lfsFile":
                files[value["path"]] = hub.objects[value["oid"]]
            elif told["key"] == "deletedFile":
                files.pop(value["path"])
            else:
                hub.summary = value["summary"]
        oid = hashlib.sha1(raw).hexdigest()
        hub.repos[name][revision] = files
        hub.commits.append((oid, files))
        address = f"{hub.url}/{name}/commit/{oid}"
        return self.send(
            200, {"success": True, "commitOid": oid, "commitUrl": address, "hookOutput": ""}
        )

    def info(self, _, name, *revision):
        """The newest commit."""
        if name not in self.server.hub.repos:
            return self.send(404, {"error": "Repository not found"})
        sha = self.server.hub.commits[-1][0] if self.server.hub.commits else "0" * 40
        told = {"id": name, "sha": sha, "siblings": [], "private": self.server.hub.private}
        return self.send(200, told)

    def resolve(self, _, name, revision, path):
        """The bytes of a file."""
        return self.send(200, self.server.hub.files(name, revision)[path])

    def tree(self, _, name, revision):
        hub, told = self.server.hub, []
        for path, raw in sorted(hub.files(name, revision).items()):
            raw = b"other" if path in hub.lie and hub.commits else raw
            one = {"type": "file", "path": path, "size": len(raw), "oid": blob(raw)}
            if path.endswith(".safetensors"):
                one["lfs"] = {
                    "oid": hashlib.sha256(raw).hexdigest(),
                    "size": len(raw),
                    "pointerSize": 130,
                }
            told.append(one)
        return self.send(200, told)

    def send(self, status, told, kind="application/json"):
        raw = told if isinstance(told, bytes) else json.dumps(told).encode()
        with contextlib.suppress(OSError):
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)


_NAME = r"([\w.-]+/[\w.-]+)"
_DOORS = (
    (r"/api/repos/create", "create"),
    (rf"/api/models/{_NAME}/branch/(.+)", "branch"),
    (r"/api/validate-yaml", "card"),
    (rf"/api/models/{_NAME}/preupload/(.+)", "modes"),
    (rf"/{_NAME}\.git/info/lfs/objects/batch", "batch"),
    (rf"/api/models/{_NAME}/commit/(.+)", "commit"),
    (rf"/{_NAME}/resolve/([^/]+)/(.+)", "resolve"),
    (rf"/api/models/{_NAME}/tree/([^/]+)", "tree"),
    (rf"/api/models/{_NAME}(?:/revision/(.+))?", "info"),
)


@contextlib.contextmanager
def serving(repos=None, **options):
    """A Hub that answers until the block is left."""
    hub = PushHub(repos, **options)
    hub.server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    hub.server.daemon_threads = True
    hub.server.hub = hub
    threading.Thread(target=hub.server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield hub
    finally:
        hub.server.shutdown()
        hub.server.server_close()
