"""A plan promises no more than is known of what a cache takes; test_cli.py reads whole plans."""

import pytest
import tiny_folder

from limbeck import assembly, showing


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kind": "topk+rest", "k": "32", "values": "float32"}, "about 0.20 GB, 196 bytes/token; "),
        ({"kind": "sample"}, r"bytes/token (at threshold 1/50 48 to 57 were measured; a flatter "),
        ({"kind": "rs"}, r"bytes/token (of 50 draws 68 were measured; a flatter teacher"),
    ],
)
def test_a_cache_whose_size_depends_on_the_text_is_told_with_what_was_measured(
    tmp_path, options, said
):
    teacher = {"model": str(tmp_path / "teacher"), "path": str(tmp_path / "cache")} | options
    asked = tiny_folder.short(tmp_path, "plan", teacher={"cached": teacher})
    sizes = assembly.student_on_meta(asked).config
    found = showing.cache_line(asked, sizes, 1_000_000)
    assert said in found
    assert found.startswith("about ")
    assert "at most" not in found
