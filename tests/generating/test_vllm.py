"""vLLM's engine is asked in its own words. A module of that name stands in for it, with a real model behind the same interface."""

import sys

import pytest
import tiny_folder
import tiny_generation

from limbeck.sampling.answers import Drawing
from limbeck.sampling.vllm import Engine

pytestmark = pytest.mark.usefixtures("handlers")

# What of vLLM's interface is used (vllm.LLM, SamplingParams, RequestOutput), with transformers behind it.
STAND_IN = """
from dataclasses import dataclass, field
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

told = {}

@dataclass
class SamplingParams:
    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    max_tokens: int | None = 16

@dataclass
class Completion:
    text: str
    token_ids: list
    finish_reason: str | None

@dataclass
class RequestOutput:
    prompt_token_ids: list
    outputs: list = field(default_factory=list)

class LLM:
    def __init__(self, model, *, tokenizer=None, revision=None, tokenizer_revision=None, dtype="auto",
                 tensor_parallel_size=1, max_model_len=None, gpu_memory_utilization=0.9):
        if tensor_parallel_size > 1:
            raise ValueError("one device here")
        told.update(model=model, dtype=dtype, max_model_len=max_model_len)
        self.model = AutoModelForCausalLM.from_pretrained(model)
        self.tokenizer = AutoTokenizer.from_pretrained(model)

    def generate(self, prompts, sampling_params=None, *, use_tqdm=True):
        found = []
        for given, asked in zip(prompts, sampling_params, strict=True):
            torch.manual_seed(asked.seed % 2**63)
            ids = torch.tensor([given["prompt_token_ids"]])
            out = self.model.generate(ids, max_new_tokens=asked.max_tokens, do_sample=asked.temperature > 0,
                                      temperature=asked.temperature or None, top_p=asked.top_p)
            said = out[0, ids.shape[1]:].tolist()
            text = self.tokenizer.decode(said, skip_special_tokens=True)
            end = "stop" if said[-1] == self.tokenizer.eos_token_id else "length"
            found.append(RequestOutput(ids[0].tolist(), [Completion(text, said, end)]))
        return found
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_folder.teacher(tmp_path_factory.mktemp("vllm") / "teacher", layers=2))


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    (tmp_path / "vllm.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("vllm", None)


def written(place, model, **more):
    local = {"model": model, "rows": 4, "template": "chatml", "engine": "vllm", **more}
    return tiny_generation.written(place, "", shape="local", whole={"local": local}, count=7)


def test_an_engine_answers_every_prompt_and_the_same_after_a_loss(stand_in, tmp_path, model):
    path = written(tmp_path, model, engine_options={"max_model_len": 100})
    assert "7 answered, 0 failed" in tiny_generation.run(path)
    first = {row["id"]: row["response"] for row in tiny_generation.answers(tmp_path)}
    assert len(set(first.values())) > 3
    assert sys.modules["vllm"].told == {"model": model, "dtype": "auto", "max_model_len": 100}
    book = tmp_path / "out/journal.jsonl"
    book.write_bytes(b"".join(book.read_bytes().splitlines(keepends=True)[:2]))
    tiny_generation.run(path, "teacher.local.rows=2")
    assert {row["id"]: row["response"] for row in tiny_generation.answers(tmp_path)} == first


def test_tokens_are_counted_and_ends_are_told(stand_in, model):
    engine = Engine(model, revision=None, dtype="auto", options={})
    one, two = engine.write([("a", [5, 6, 7]), ("b", [8])], Drawing(0.0, None, 3))
    assert (one.tokens_in, two.tokens_in) == (3, 1)
    assert one.tokens_out <= 3
    assert {one.finish, two.finish} <= {"stop", "length"}


def test_a_prompt_that_leaves_no_room_is_told_before_it_is_asked(stand_in, tmp_path, model):
    path = written(tmp_path, model, engine_options={"max_model_len": 8})
    assert "reads 8" in tiny_generation.refused(path)


def test_what_vllm_refuses_is_told(stand_in, tmp_path, model):
    path = written(tmp_path, model, engine_options={"tensor_parallel_size": 2})
    assert "one device here" in tiny_generation.refused(path)


def test_without_vllm_it_is_said_what_is_missing(tmp_path, model, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    assert "Install vllm" in tiny_generation.refused(written(tmp_path, model))


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"engine": "transformers", "engine_options": {"x": 1}}, "are for engine: vllm"),
        ({"engine_options": {"model": "y"}}, "is set by other keys"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, model, more, told):
    assert told in tiny_generation.refused(written(tmp_path, model, **more))
