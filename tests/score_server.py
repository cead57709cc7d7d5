"""A server on loopback that runs a model and tells log-probabilities of prompts, as vLLM does and as an echo.

`python score_server.py FOLDER` serves a model and tokenizer of a folder and prints its port.
"""

import collections
import contextlib
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch


class Scoring:
    """A model that is served. most: scores of a token that are told. hidden: paths that are not there.

    faults: {n-th request for scores, from 0: (status, text)}. tempered: whether scores follow the request's temperature.
    """

    def __init__(self, model, tokenizer, *, most=20, hidden=(), faults=None, tempered=False):
        self.model, self.tokenizer = model.eval(), tokenizer
        self.most, self.hidden, self.faults = most, hidden, faults or {}
        self.tempered, self.changed = tempered, lambda answer: answer
        self.asked = collections.Counter()
        self.bodies, self.headers = [], []
        self.lock = threading.Lock()
        self.on_the_way = self.most_at_once = 0
        self.delay = 0.0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    @torch.no_grad()
    def scores(self, ids, temperature):
        """Of each token but the first: log-probabilities (vocab,)."""
        logits = self.model(torch.tensor([ids]), use_cache=False).logits[0, :-1]
        precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return (precise / (temperature if self.tempered else 1.0)).log_softmax(-1)

    def likeliest(self, row, k, own):
        """Ids that are told of a token: the k likeliest and the one that stands there."""
        best = row.topk(min(k, row.shape[-1])).indices.tolist()
        return best + ([own] if own not in best else [])

    def vllm(self, body, ids):
        told = [None]
        for row, own in zip(self.scores(ids, body["temperature"]), ids[1:], strict=True):
            order = row.argsort(descending=True).tolist()
            told.append(
                {
                    str(one): {
                        "logprob": row[one].item(),
                        "rank": order.index(one) + 1,
                        "decoded_token": self.tokenizer and self.tokenizer.decode([one]),
                    }
                    for one in self.likeliest(row, body["prompt_logprobs"], own)
                }
            )
        return {"text": "x", "finish_reason": "length", "prompt_logprobs": told}

    def echo(self, body, ids):
        told = [None]
        for row, own in zip(self.scores(ids, body["temperature"]), ids[1:], strict=True):
            best = self.likeliest(row, body["logprobs"], own)
            name = "token_id:{}".format if body["return_tokens_as_token_ids"] else str
            told.append({name(one): row[one].item() for one in best})
        return {"text": "", "finish_reason": "length", "logprobs": {"top_logprobs": told}}

    def answer(self, path, body):
        """(status, body) of a request."""
        if path in self.hidden:
            return 404, {"error": "not found"}
        if path == "/tokenize":
            said = self.tokenizer(body["prompt"], add_special_tokens=body["add_special_tokens"])
            return 200, {"tokens": said["input_ids"], "count": len(said["input_ids"])}
        with self.lock:
            fault = self.faults.get(self.asked["completions"])
            self.asked["completions"] += 1
        if fault:
            return fault[0], {"error": fault[1]}
        if max(body.get("prompt_logprobs", 0), body.get("logprobs", 0)) > self.most:
            return 400, {"error": f"requested more scores than the max allowed, {self.most}"}
        form = self.vllm if "prompt_logprobs" in body else self.echo
        choices = [form(body, ids) | {"index": n} for n, ids in enumerate(body["prompt"])]
        return 200, {"model": body["model"], "choices": choices[::-1]}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        scoring = self.server.scoring
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with scoring.lock:
            scoring.bodies.append(body)
            scoring.headers.append(dict(self.headers))
            scoring.on_the_way += 1
            scoring.most_at_once = max(scoring.most_at_once, scoring.on_the_way)
        try:
            time.sleep(scoring.delay)
            status, said = scoring.answer(self.path.removeprefix("/v1"), body)
        finally:
            with scoring.lock:
                scoring.on_the_way -= 1
        raw = json.dumps(scoring.changed(said)).encode()
        with contextlib.suppress(OSError):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            if status == 429:
                self.send_header("Retry-After", "0")
            self.end_headers()
            self.wfile.write(raw)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


@contextlib.contextmanager
def scoring(model, tokenizer, **options):
    """A Scoring that answers until the block is left."""
    found = Scoring(model, tokenizer, **options)
    found.server = _Server(("127.0.0.1", 0), _Handler)
    found.server.scoring = found
    thread = threading.Thread(target=found.server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield found
    finally:
        found.server.shutdown()
        found.server.server_close()


if __name__ == "__main__":
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
    with scoring(loaded, AutoTokenizer.from_pretrained(sys.argv[1]), most=64) as served:
        print(served.url, flush=True)
        threading.Event().wait()
