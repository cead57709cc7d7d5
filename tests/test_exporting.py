"""What leaves the house loads without us, says the same, and comes to exist only where it does."""

import signal
import threading

import psutil
import pytest
import tiny
import tiny_text
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from limbeck import files
from limbeck.errors import LimbeckError
from limbeck.exporting import about, check, export
from limbeck.training.signals import Stop


def exported(folder, student, *, dtype="float32", tokenizer=None):
    probe = torch.randint(0, 320, (1, 12), generator=tiny.generator())
    return export(
        student, tokenizer or tiny_text.tokenizer(), folder,
        dtype=dtype, max_difference=1e-4, probe=probe, card="a card",
    )  # fmt: skip


def student(**changes):
    return tiny.llama(vocab=320, **changes)


def test_an_exported_folder_is_an_ordinary_model_with_the_same_weights(tmp_path):
    place, made = tmp_path / "export", student(tied=True)
    assert exported(place, made) < 1e-6
    loaded = AutoModelForCausalLM.from_pretrained(place)
    assert loaded.config.tie_word_embeddings
    for name, tensor in made.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    words = AutoTokenizer.from_pretrained(place)
    assert words("Wine goes in").input_ids == tiny_text.tokenizer()("Wine goes in").input_ids
    assert files.verify(place).about == about("float32", "last")
    assert (place / "README.md").read_text() == "a card"
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


@pytest.mark.parametrize(
    ("master", "dtype"), [(torch.float32, "bfloat16"), (torch.float64, "float32")], ids=str
)
def test_weights_leave_in_the_dtype_that_is_asked_for_and_stay_as_they_are_here(
    tmp_path, master, dtype
):
    made = student(dtype=master)
    difference = exported(tmp_path / "export", made, dtype=dtype)
    assert 0 < difference < 0.1
    kept = load_file(tmp_path / "export/model.safetensors")
    assert {tensor.dtype for tensor in kept.values()} == {getattr(torch, dtype)}
    assert made.dtype == master


def test_a_student_that_says_something_else_when_reloaded_is_not_exported(tmp_path):
    made = student()
    made.model.rotary_emb.inv_freq *= 3  # computed from the config, so in no file
    with pytest.raises(LimbeckError, match=r"logits differ by .*Nothing was exported"):
        exported(tmp_path / "export", made)
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_is_wanted_otherwise_is_not_taken_for_done(tmp_path):
    place = tmp_path / "export"
    exported(place, student())
    check(place, "float32", "last")
    with pytest.raises(LimbeckError, match=r"written with dtype float32; the recipe says bfloat16"):
        check(place, "bfloat16", "last")
    with pytest.raises(LimbeckError, match=r"written with checkpoint last; the recipe says best"):
        check(place, "float32", "best")


def test_what_a_narrow_dtype_changes_is_told(tmp_path):
    made = student()
    difference = exported(tmp_path / "export", made, dtype="bfloat16")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "export", dtype="auto")
    probe = torch.randint(0, 320, (1, 12), generator=tiny.generator())
    with torch.no_grad():
        told = (loaded(probe).logits.float() - made(probe).logits).abs().max()
    assert difference == pytest.approx(float(told), rel=0.05)


def test_a_student_that_float16_cannot_hold_is_not_exported(tmp_path):
    made = student()
    with torch.no_grad():
        made.model.layers[0].mlp.down_proj.weight.mul_(1e8)
    with pytest.raises(LimbeckError, match=r"float16 .* not finite\. Nothing was exported"):
        exported(tmp_path / "export", made, dtype="float16")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_could_be_code_is_not_exported(tmp_path):
    class Words:
        def save_pretrained(self, folder):
            (folder / "tokenization_tiny.py").write_text("import os")

    with pytest.raises(LimbeckError, match=r"export wrote \['tokenization_tiny\.py'\]"):
        exported(tmp_path / "export", student(), tokenizer=Words())
    assert list(tmp_path.iterdir()) == []


def test_an_export_is_finished_though_every_process_is_asked_to_stop(tmp_path, handlers):
    stop, found = Stop().install(), threading.Event()

    def ask():
        """As a scheduler does: the process that loads the export again, and this one."""
        while not found.is_set():
            for child in psutil.Process().children():
                if "limbeck.models.reload" not in child.cmdline():
                    continue  # such as multiprocessing's own, which other tests need
                found.set()
                child.send_signal(signal.SIGTERM)
                child.send_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGTERM)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        assert exported(tmp_path / "export", student()) < 1e-6
    finally:
        found.set()
        asking.join()
    assert stop.reason == "SIGTERM"


def test_what_is_exported_is_never_written_over(tmp_path):
    (tmp_path / "export").mkdir()
    with pytest.raises(LimbeckError, match="exists already"):
        exported(tmp_path / "export", student())


def test_a_tokenizer_with_several_chat_templates_is_exported_whole(tmp_path):
    words = tiny_text.tokenizer()
    words.chat_template = {"default": "{{ messages }}", "tools": "{{ tools }}"}
    place = tmp_path / "export"
    exported(place, student(), tokenizer=words)
    assert AutoTokenizer.from_pretrained(place).chat_template == words.chat_template
    (place / "additional_chat_templates").rename(tmp_path / "aside")
    with pytest.raises(LimbeckError, match="is missing"):
        files.verify(place)
