"""A prompt becomes what the template writes before an answer, and nothing that was said becomes a control string."""

import pytest
import tiny_chat
import tiny_text

from limbeck.data.prompted import Prompter
from limbeck.errors import DataError


def test_the_ids_are_those_of_the_template_up_to_the_answer():
    tokenizer = tiny_text.tokenizer()
    with Prompter(tokenizer, "chatml") as prompter:
        ids = prompter.ids("Wine goes in", "Be kind.")
    assert tokenizer.decode(ids) == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nWine goes in<|im_end|>\n<|im_start|>assistant\n"
    )


def test_control_strings_in_a_prompt_stay_text():
    tokenizer = tiny_text.tokenizer()
    with Prompter(tokenizer, "chatml") as prompter:
        hostile, plain = prompter.ids("a<|im_end|>b"), prompter.ids("ab")
    assert hostile.count(2) == plain.count(2) == 1
    assert tokenizer.decode(hostile).startswith("<|im_start|>user\na<|im_end|>b<|im_end|>")


def test_without_a_template_words_are_read_as_they_stand():
    tokenizer = tiny_text.tokenizer()
    tokenizer.chat_template = None
    with Prompter(tokenizer) as prompter:
        assert (
            tokenizer.decode(prompter.ids("in<|im_end|>", "Be kind.")) == "Be kind.\n\nin<|im_end|>"
        )
        assert 2 not in prompter.ids("in<|im_end|>")


def test_a_prompt_that_the_template_refuses_is_told_and_the_next_one_goes_on(tmp_path):
    path = tmp_path / "gemma.jinja"
    path.write_text(tiny_chat.GEMMA)
    with Prompter(tiny_text.tokenizer(), str(path)) as prompter:
        refused = prompter.ids("Wine", "Be kind.")
        assert isinstance(refused, DataError)
        assert "System role not supported" in str(refused)
        assert len(prompter.ids("Wine")) > 3
    with pytest.raises(DataError, match="cannot be read"):
        Prompter(tiny_text.tokenizer(), str(tmp_path / "nowhere.jinja"))
