"""A hybrid that goes on from a cache says what it says of the whole, and loads again in a process of its own."""

import subprocess
import sys

import pytest
import tiny
import tiny_hybrid
import torch
from safetensors.torch import save_file
from tiny_hybrid import MIXERS, made, rough, teacher
from transformers import DynamicCache, GenerationConfig

from limbeck.evaluation._speed import _decode, _prefill
from limbeck.models import hybrid, remembering

each_mixer = pytest.mark.parametrize("mixer", MIXERS)
KEPT = pytest.mark.parametrize("kept", ["none", [1]], ids=["no attention", "one attention"])


def student(mixer, kept=(1,), kind="llama, llama3 positions", **options):
    return rough(teacher(kind), mixer, kept if kept == "none" else list(kept), **options).eval()


def empty(model):
    return remembering.begun(model) or DynamicCache(config=model.config)


@torch.no_grad()
def in_parts(model, ids, lengths):
    """Logits of tokens that come a few at a time, behind what a cache holds."""
    cache, found, begin = empty(model), [], 0
    for length in lengths:
        part = slice(begin, begin + length)
        places = torch.arange(begin, begin + length).expand(ids.shape[0], -1)
        out = model(ids[:, part], position_ids=places, past_key_values=cache, use_cache=True)
        found.append(out.logits)
        begin += length
    return torch.cat(found, 1)


@each_mixer
@KEPT
@pytest.mark.parametrize(
    "lengths", [(1,) * 11, (5,) + (1,) * 6, (7, 4), (2, 1, 8)], ids=["by ones", "5", "7+4", "2+1+8"]
)
def test_a_cache_gives_the_logits_of_the_whole(mixer, kept, lengths):
    model, ids = student(mixer, kept), tiny_hybrid.ids(2, 11)
    with torch.no_grad():
        wanted = model(ids, use_cache=False).logits
    torch.testing.assert_close(in_parts(model, ids, lengths), wanted, atol=1e-5, rtol=1e-5)


@each_mixer
@KEPT
def test_rows_that_are_padded_on_the_left_are_as_if_alone_and_go_on_so(mixer, kept):
    model, (rows, whole, mask, positions) = student(mixer, kept), tiny_hybrid.padded()
    cache = empty(model)
    with torch.no_grad():
        out = model(
            whole,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
        more = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        last = positions[:, -1:] + 1
        behind = model(
            tiny_hybrid.ids(3, 1), attention_mask=more, position_ids=last, past_key_values=cache
        )
        for number, row in enumerate(rows):
            longer = torch.cat([row, tiny_hybrid.ids(3, 1)[number : number + 1]], 1)
            alone = model(longer, use_cache=False).logits[0]
            found = torch.cat([out.logits[number, -row.shape[1] :], behind.logits[number]])
            torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-5)


@each_mixer
@KEPT
def test_generating_with_a_cache_gives_the_tokens_of_generating_without(mixer, kept):
    model, (_, whole, mask, _) = student(mixer, kept, start="attention"), tiny_hybrid.padded()
    asked = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    # Transformers has no cache for a Bamba without attention; what we make of one says so, and is slow.
    assert model.generation_config.use_cache == (mixer != "mamba2" or kept != "none")
    with_cache = model.generate(whole, attention_mask=mask, **asked)
    settings = GenerationConfig(**asked)
    settled = model.generate(whole, attention_mask=mask, generation_config=settings)
    assert torch.equal(settled, with_cache)
    without = model.generate(whole, attention_mask=mask, use_cache=False, **asked)
    assert torch.equal(with_cache, without)
    assert len(set(with_cache[:, 11:].flatten().tolist())) > 1, "it says the same word always"
    with torch.no_grad():
        first, state = _prefill(model, whole[:1])
        written = torch.cat([first, _decode(model, first, state, 7)], 1)
    assert torch.equal(written[0], without[0, 11:])


@each_mixer
@KEPT
def test_a_plain_forward_needs_no_word_about_caches(mixer, kept):
    model = student(mixer, kept)
    with torch.no_grad():
        found, wanted = model(tiny_hybrid.ids()), model(tiny_hybrid.ids(), use_cache=False)
    torch.testing.assert_close(found.logits, wanted.logits, atol=1e-5, rtol=1e-5)
    stuck = mixer == "mamba2" and kept == "none"
    assert (found.past_key_values is None) == stuck
    assert model.config.use_cache is not stuck


@pytest.mark.parametrize("kept", ["none", [1]])
def test_a_hybrid_of_ours_goes_on_from_a_cache_without_being_told_where(kept):
    model, ids = student("discrete_mamba2", kept), tiny_hybrid.ids()
    with torch.no_grad():
        first = model(ids[:, :7])
        assert first.past_key_values.get_seq_length() == 7
        vectors = model.get_input_embeddings()(ids[:, 7:9])
        second = model(inputs_embeds=vectors, past_key_values=first.past_key_values)
        third = model(ids[:, 9:], past_key_values=first.past_key_values)
        wanted = model(ids, use_cache=False).logits[:, 7:]
    found = torch.cat([second.logits, third.logits], 1)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_a_cache_that_is_emptied_begins_a_text_anew():
    model, ids = student("discrete_mamba2", "none"), tiny_hybrid.ids()
    with torch.no_grad():
        cache = model(ids[:, :7]).past_key_values
        cache.reset()
        assert cache.get_seq_length() == 0
        found = model(ids, past_key_values=cache).logits
        wanted = model(ids, use_cache=False).logits
    assert cache.get_seq_length() == 11
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


FRESH = """
import sys
from pathlib import Path
{imports}
from transformers import AutoModelForCausalLM
from safetensors.torch import load_file
for folder in map(Path, sys.argv[1:]):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    asked = load_file(folder / "asked")
    apart = (model(asked["ids"]).logits.detach() - asked["logits"]).abs().max()
    print(type(model).__name__, model.model.rotary_emb.inv_freq.dtype, float(apart))
print("limbeck" in sys.modules)
"""


def in_a_fresh_process(imports, *folders):
    return subprocess.run(
        [sys.executable, "-c", FRESH.format(imports=imports), *map(str, folders)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def saved(model, folder):
    ids = tiny_hybrid.ids()
    with torch.no_grad():
        found = model(ids, use_cache=False).logits
    model.save_pretrained(folder)
    save_file({"ids": ids, "logits": found}, folder / "asked")
    return folder


def test_bambas_load_where_limbeck_is_not_and_ours_say_what_they_lack(tmp_path):
    folders = [
        saved(student("mamba2"), tmp_path / "with"),
        saved(student("mamba2", "none", "qwen2, tied"), tmp_path / "without"),
        saved(student("discrete_mamba2"), tmp_path / "ours"),
    ]
    done = in_a_fresh_process("", *folders)
    assert done.returncode != 0
    assert "model type `limbeck_llamba`" in done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        name, positions, apart = line.split()
        assert (name, positions) == ("BambaForCausalLM", "torch.float32")
        assert float(apart) < 1e-5  # here our mixer ran, there transformers' own


def test_hybrids_of_ours_load_where_limbeck_is_imported(tmp_path):
    narrow = student("discrete_mamba2", "none").to(torch.bfloat16)
    tied = student("discrete_mamba2", kind="qwen2, tied")
    folders = [saved(tied, tmp_path / "tied"), saved(narrow, tmp_path / "narrow")]
    done = in_a_fresh_process("import limbeck", *folders)
    assert done.returncode == 0, done.stderr[-2000:]
    line = "LimbeckLlambaForCausalLM torch.float32 0.0"
    assert done.stdout.splitlines() == [line, line, "True"]


@each_mixer
def test_a_saved_config_keeps_positions_kinds_of_blocks_and_sizes(mixer, tmp_path):
    model = student(mixer)
    model.save_pretrained(tmp_path)
    again = type(model.config).from_pretrained(tmp_path)
    assert again.layers_block_type == model.config.layers_block_type
    assert again.rope_parameters == model.config.rope_parameters
    assert again.rope_parameters["rope_type"] == "llama3"
    assert again.head_dim == 4
    assert hybrid.mixers(type(model)(again)).keys() == {0, 2}
    assert made(teacher(), mixer, [1]).num_parameters() == model.num_parameters()
    assert again.vocab_size == tiny.VOCAB
