"""What is printed of a source is what its batches hold: every token, and which of them count."""

import pytest
import tiny_chat
import tiny_folder
import torch
from rich.console import Console
from tiny_chat import TALKS, TOKENIZER, source

from limbeck import examples
from limbeck.cli import app
from limbeck.sources.text import text

SPECIAL = set(TOKENIZER.all_special_ids)


def plain(one):
    return examples.drawn(one, TOKENIZER, SPECIAL, marked=True).plain


def test_what_the_assistant_says_stands_between_brackets(tmp_path):
    found = {plain(one) for one in examples.examples(source(tmp_path), 9)}
    assert len(found) == 4
    start = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n"
    assert (
        f"{start}What is kept?<|im_end|>\n<|im_start|>assistant\n\u27e6What is light.<|im_end|>\u27e7\n"
        in found
    )
    assert f"{start}Be silent.<|im_end|>\n<|im_start|>assistant\n\u27e6<|im_end|>\u27e7\n" in found


def test_as_many_are_shown_as_are_asked_for(tmp_path):
    assert len(list(examples.examples(source(tmp_path), 3))) == 3
    assert len(list(examples.examples(source(tmp_path, TALKS * 9), 30))) == 30


def test_a_weight_is_told(tmp_path):
    data = source(tmp_path, [{"messages": TALKS[0], "weight": 0.5}])
    assert "\u27e6\u00d70.5 What is light." in plain(next(examples.examples(data, 1)))


def test_of_a_text_every_token_but_the_first_counts(tmp_path):
    (tmp_path / "a.txt").write_text("Some text.")
    data = text(
        TOKENIZER,
        path=str(tmp_path / "a.txt"),
        length=16,
        packing="best_fit",
        prepared=str(tmp_path),
    )
    (one,) = examples.examples(data, 5)
    assert [weight > 0 for weight in one.weights] == [False] + [True] * (len(one.ids) - 1)
    assert TOKENIZER.decode(one.ids) == "Some text.<|im_end|>"


def test_what_a_terminal_would_obey_is_spelled(tmp_path):
    data = source(tmp_path, [tiny_chat.messages("\x1b[2J", "b\x9b")])
    shown = plain(next(examples.examples(data, 1)))
    assert "\\x1b[2J" in shown
    assert "\\x9b" in shown
    assert "\x1b" not in shown


def test_on_a_terminal_what_counts_has_a_colour(tmp_path):
    (one,) = examples.examples(source(tmp_path, TALKS[:1]), 1)
    drawn = examples.drawn(one, TOKENIZER, SPECIAL, marked=False)
    counted = [drawn.plain[span.start : span.end] for span in drawn.spans if "green" in span.style]
    assert counted == ["What is light.", "<|im_end|>"]
    console = Console(force_terminal=True, color_system="standard")
    with console.capture() as captured:
        console.print(drawn)
    assert "\x1b[1;32mWhat is light." in captured.get()


def test_the_command_prints_plan_counts_and_examples(tmp_path, capsys):
    path = tiny_folder.written(
        tmp_path,
        control=False,
        stages=[tiny_folder.stage(tmp_path, source=tiny_folder.talk(tmp_path))],
    )
    app(["show", str(path), "--sample", "2"], standalone_mode=False)
    said = capsys.readouterr()
    assert "conversations, " in said.err
    assert said.out.count("tokens count") == 2
    assert "\u27e6" in said.out


@pytest.mark.parametrize("length", [1, 5])
def test_padding_is_no_example(length):
    zeros = torch.zeros(1, length, dtype=torch.int64)
    batch = examples.Batch(zeros, zeros, zeros, zeros, zeros.float(), zeros, ("a",))
    assert list(examples.documents(batch)) == []
