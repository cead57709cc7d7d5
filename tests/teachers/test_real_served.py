"""The real teacher through a real server, in a process of its own, says what it says in this one."""

import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from transformers import AutoTokenizer

from limbeck.sampling.scorer import Scores
from limbeck.selection.likeliest import likeliest
from limbeck.teachers.live import live
from limbeck.teachers.remote import remote
from limbeck.types import Wanted

pytestmark = pytest.mark.slow

MODEL = Path(__file__).parents[2] / "models/SmolLM2-135M-Instruct"
SERVER = Path(__file__).parents[1] / "score_server.py"


@pytest.fixture
def url():
    if not (MODEL / "config.json").is_file():
        pytest.skip("models/SmolLM2-135M-Instruct is missing: run `limbeck fetch smollm2`")
    process = subprocess.Popen([sys.executable, SERVER, MODEL], stdout=subprocess.PIPE, text=True)
    try:
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("protocol", ["vllm", "echo"])
def test_scores_through_a_server_are_those_in_this_process(url, protocol):
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    rows = tiny.batch(2, 96, vocab=len(tokenizer), documents=(40, 56))
    here = live(model=str(MODEL), dtype="float32", device="cpu", vocab=len(tokenizer))
    wanted = likeliest(here.signal(rows, Wanted()).distribution(slice(None)), 64)
    place = Scores(url=url, model="smollm2", protocol=protocol)
    found = remote(tokenizer, server=place, k=64).signal(rows, Wanted()).topk
    gaps = [
        (found.logprobs - wanted.logprobs).abs().max(),
        (found.rest.exp() - wanted.rest.exp()).abs().max(),
    ]
    print(
        f"{protocol}: {len(found.ids)} tokens, log-probabilities apart by {gaps[0]:.1e}, masses of the rest by {gaps[1]:.1e}"
    )
    # Ids change places where two of them are as likely but for rounding.
    assert (found.ids == wanted.ids).double().mean() > 0.995
    torch.testing.assert_close(found.logprobs, wanted.logprobs, atol=1e-4, rtol=0)
    # What is left of 1 has the rounding of what was told.
    torch.testing.assert_close(found.rest.exp(), wanted.rest.exp(), atol=5e-5, rtol=0)
