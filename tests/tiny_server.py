"""A teacher on this machine's loopback: it counts who asks what, and fails in the ways that servers fail."""

import collections
import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SAID = "I have been asked: "


class Teacher:
    """faults: {n-th request of a prompt, from 0: fault}, or a function of (prompt, n). delay: seconds to each answer."""

    def __init__(self, faults=None, *, delay=0.0, tokens=(7, 5)):
        self.faults = faults if callable(faults) else lambda _prompt, n: (faults or {}).get(n)
        self.delay, self.tokens = delay, tokens
        self.asked = collections.Counter()
        self.answered = collections.Counter()
        self.bodies, self.headers, self.paths, self.moments = [], [], [], []
        self.tokens_in = self.tokens_out = 0
        self.lock = threading.Lock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def count(self, prompt, body, handler):
        with self.lock:
            n = self.asked[prompt]
            self.asked[prompt] += 1
            self.bodies.append(body)
            self.headers.append(dict(handler.headers))
            self.paths.append(handler.path)
            self.moments.append(time.monotonic())
        return n

    def paid(self, prompt):
        with self.lock:
            self.answered[prompt] += 1
            self.tokens_in += self.tokens[0]
            self.tokens_out += self.tokens[1]


def openai(text, tokens, finish="stop"):
    return {
        "model": "tiny",
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish}],
        "usage": {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]},
    }


def anthropic(text, tokens):
    return {
        "content": [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": text}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": tokens[0], "output_tokens": tokens[1]},
    }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        teacher = self.server.teacher
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][-1]["content"]
        fault = teacher.faults(prompt, teacher.count(prompt, body, self))
        time.sleep(teacher.delay)
        with contextlib.suppress(OSError):
            self.fault(teacher, fault, prompt)

    def fault(self, teacher, fault, prompt):
        kind, _, value = (fault or "").partition(" ")
        form = anthropic if self.path.endswith("/messages") else openai
        whole = json.dumps(form(SAID + prompt, teacher.tokens)).encode()
        if kind in ("", "say", "finish"):
            teacher.paid(prompt)
            text = SAID + prompt if kind == "" else value.replace("KEY", self.key())
            self.send(200, json.dumps(form(text, teacher.tokens)).encode())
        elif kind == "status":
            status, _, after = value.partition(" ")
            said = json.dumps({"error": f"no: {self.key()}"}).encode()
            self.send(int(status), said, **({"Retry-After": after} if after else {}))
        elif kind == "redirect":
            self.send(307, b"", Location=value)
        elif kind == "cut":  # says that more will come, and leaves
            teacher.paid(prompt)
            self.send(200, whole[:40], length=len(whole))
            self.close_connection = True
        elif kind == "reset":
            teacher.paid(prompt)
            self.close_connection = True
            self.connection.close()
        elif kind == "slow":
            teacher.paid(prompt)
            time.sleep(float(value))
        elif kind == "drip":  # never silent for long, and never done
            teacher.paid(prompt)
            self.send(200, b"", length=1000)
            for _ in range(int(float(value) * 20)):
                self.wfile.write(b" ")
                time.sleep(0.05)
            self.close_connection = True
        elif kind == "large":
            teacher.paid(prompt)
            self.send(200, b"[" + b"1," * int(value))
        else:
            teacher.paid(prompt)
            self.send(200, OTHERS[kind], kind="text/html" if kind == "html" else "application/json")

    def key(self):
        return self.headers.get("x-api-key") or (self.headers.get("Authorization") or "none")

    def send(self, status, raw, *, length=None, kind="application/json", **headers):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(raw) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(raw)


OTHERS = {
    "html": b"<html>Please log in</html>",
    "list": b"[1, 2]",
    "fields": b'{"choices": [], "content": "x"}',
    "twice": b'{"choices": []}{"choices": []}',
    "surrogate": b'{"choices": [{"message": {"content": "\\ud800"}}]}',
}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


@contextlib.contextmanager
def serving(faults=None, **options):
    """A Teacher that answers until the block is left."""
    teacher = Teacher(faults, **options)
    teacher.server = _Server(("127.0.0.1", 0), _Handler)
    teacher.server.teacher = teacher
    thread = threading.Thread(target=teacher.server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield teacher
    finally:
        teacher.server.shutdown()
        teacher.server.server_close()
