"""The command chooses who reads the old cache, and says what a recipe needs."""

import pytest
import tiny_foreign
from test_distillkit import EXACT
from test_version1 import old
from typer.testing import CliRunner

from limbeck.cache.read import CacheReader
from limbeck.cli import app
from limbeck.converting.command import convert
from limbeck.errors import RecipeError


def test_a_cache_of_version_1_needs_no_option(tmp_path):
    old(tmp_path / "old")
    said = convert(tmp_path / "old", tmp_path / "new")
    assert "kind: topk+rest, k: 4, values: float32" in said
    assert len(CacheReader(tmp_path / "new")) == 5


def test_the_command_line_converts_a_capture_of_another_tool(tmp_path):
    tiny_foreign.distillkit(tmp_path / "old", tiny_foreign.samples(), EXACT)
    tiny_foreign.tokenizer().save_pretrained(tmp_path / "tokenizer")
    line = ["convert", "--from", "distillkit", "--teacher", "some/teacher", "--values", "code8"]
    line += [
        "--tokenizer",
        str(tmp_path / "tokenizer"),
        str(tmp_path / "old"),
        str(tmp_path / "new"),
    ]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 0, done.output
    assert "0 samples of fewer than two tokens or of no known place were passed over" in done.output
    assert f"packed: {{path: {tmp_path / 'new' / 'rows'}}}" in done.output
    assert "kind: topk+rest, k: 8, values: code8" in done.output
    assert CacheReader(tmp_path / "new" / "cache").about.teacher_name == "some/teacher"


def test_another_tool_is_refused_with_those_that_are_read(tmp_path):
    with pytest.raises(RecipeError, match="Did you mean 'distillkit'"):
        convert(tmp_path, tmp_path / "new", origin="destillkit")


@pytest.mark.parametrize("given", [{"tokenizer": "x"}, {"teacher": "y"}, {}])
def test_what_is_not_in_the_other_cache_must_be_given(tmp_path, given):
    with pytest.raises(RecipeError, match=r"--tokenizer.*--teacher"):
        convert(tmp_path, tmp_path / "new", origin="axolotl", **given)
