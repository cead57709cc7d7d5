"""Strange text stays where it is put, as CommonMark reads it: no heading, no tag, no end of a fence comes of it."""

import pytest
import tiny_report
from markdown_it import MarkdownIt

from limbeck import files
from limbeck.report import collect, markup, render

STRANGE = ("a`b", "``", "` x", " x ", "x\n\n# H\n", "\r# H", "", "   ", "<b>`", "a ``` b `")


def read(text):
    return MarkdownIt("commonmark").enable("table").parse(text)


def inline(tokens, kind):
    return [one.content for token in tokens for one in token.children or [] if one.type == kind]


@pytest.mark.parametrize("text", STRANGE)
def test_code_within_a_line_is_one_piece_of_the_whole_text(text):
    tokens = read(f"- After {markup.code(text)}, more")
    assert [token.type for token in tokens].count("inline") == 1
    (found,) = inline(tokens, "code_inline")
    if text.strip() and "\n" not in text and "\r" not in text:
        assert found == text
    else:
        assert files.parse_json(found.encode(), "here") == text


@pytest.mark.parametrize("text", ["```", "~~~\n````\n```", "a: `b`", ""])
def test_a_fence_is_closed_by_itself_alone(text):
    fence = markup.fence(text)
    (token,) = read(f"{fence}yaml\n{text}\n{fence}\n")
    assert (token.type, token.content) == ("fence", f"{text}\n")


def test_a_table_keeps_its_columns():
    tokens = read("\n".join(markup.table(["a|b", "c"], [["<i>1", "2\n|3"]])))
    cells = [token.content for token in tokens if token.type == "inline"]
    assert cells == ["a|b", "c", "\\<i>1", "2 |3"]


def test_a_report_has_no_headings_and_no_tags_but_its_own(tmp_path):
    breaks = "a`b\n\n# H\n<!-- \n```\n"
    recipe = "name: tiny\nprompt: |\n  ```\n  # mine\n"
    run = tiny_report.folder(tmp_path, name="<b>t\n# n", prompt=breaks, recipe=recipe)
    provenance = files.read_json(run / "provenance.json")
    files.write_json(run / "provenance.json", provenance | {"command": breaks})
    tokens = read(render.markdown(collect.facts(run)))
    titles = [tokens[at + 1].content for at, one in enumerate(tokens) if one.type == "heading_open"]
    assert titles == ["\\<b>t # n", "Cost", "Recipe", "Provenance"]
    assert [one.content for one in tokens if one.type == "fence"] == [recipe]
    assert not inline(tokens, "html_inline")
    assert not [one for one in tokens if one.type == "html_block"]
    said = [one for one in inline(tokens, "code_inline") if one[0] == '"']
    # The prompt, what three models wrote behind it, and the command.
    assert sum(breaks in files.parse_json(one.encode(), "here") for one in said) == 5
