"""Compares a run's report, as page and as plain text, with what the run's own files say; each raises AssertionError."""

import json
import re

import tiny_own
import tiny_own_charts
import tiny_traced

from limbeck.report import collect, render


def both(run):
    """The page, its charts, and the plain report."""
    held = tiny_traced.Held(run)
    found = collect.facts(run)
    page = tiny_traced.page(render.html(found))
    tables(page, held)
    sentences(page, held)
    tiny_own_charts.check(held, page.labels, tiny_traced.figures(page))
    words(page, held)
    nothing_else(page, held)
    markdown(render.markdown(found), held)


def tables(page, held):
    """Each table of the page, cell by cell."""
    wanted = {
        "Teacher, student, control": tiny_own.figures(held),
        "Cost": tiny_own.cost(held),
        "Provenance": tiny_own.provenance(held),
    }
    if held.benchmarks:
        wanted["Benchmarks"] = tiny_own.benchmarks(held)
    if "generation" in held.evaluation:
        wanted["How fast they read and write"] = tiny_own.speed(held)
    assert set(page.tables) == set(wanted)
    for heading, rows in wanted.items():
        assert page.tables[heading] == [[" ".join(cell.split()) for cell in row] for row in rows]


def paragraphs(held):
    """{heading: the paragraphs under it} of those that hold figures."""
    about = held.get("models")
    top = "Teacher, student, control"
    gaps = ", ".join(f"{value} of {name}" for name, value in tiny_own.gaps(held))
    found = {
        "": [tiny_own.verdict(held), *tiny_own.ended(held)],
        top: [
            f"On {about['rows']} held-out rows of {about['length']} tokens. Again: {about['command']}",
            f"Gap recovered, (control − student) / (control − teacher): {gaps}.",
        ],
    }
    if "generation" in held.evaluation:
        told = held.get("generation")
        found["How fast they read and write"] = [
            "Prompts of random tokens (length × how many at a time), each model in turn, in "
            f"{told['dtype']}: medians of {told['asked']['rounds']} rounds, {told['asked']['new_tokens']} tokens written behind each. "
            f"Again: {told['command']}"
        ]
    return found


def sentences(page, held):
    """Each sentence with a figure, in its place."""
    for heading, told in paragraphs(held).items():
        assert page.texts(heading, "p") == told


def words(page, held):
    """What is quoted: tokens, what models wrote, the recipe."""
    assert page.tokens == tiny_own.tokens(held)
    wrote = held.get("samples", "models")
    assert page.texts("What they write", "h3") == list(wrote)
    assert page.texts("What they write", "blockquote") == [text.strip() for text in wrote.values()]
    assert page.texts("Recipe", "pre") == [held.recipe_text]


def nothing_else(page, held):
    """No other text of the page holds a number that no file of the run does."""
    own = paragraphs(held)
    quoted = ("pre", "blockquote", "title", "h1")
    left = [
        text
        for heading, tag, text in page.blocks
        if tag not in quoted and text not in own.get(heading, ()) and not _quotes(heading, text)
    ]
    assert [number for text in left for number in tiny_traced.strangers(text, held)] == []


def _quotes(heading, text):
    """Whether a paragraph quotes a prompt or commands, whose numbers are nobody's figures."""
    said = {"What they write": "After the words", "Benchmarks": "By lm-evaluation-harness", "Where they disagree": "The first held-out row."}  # fmt: skip
    return heading in said and text.startswith(said[heading])


def markdown(text, held):
    """The plain report: every line that holds a figure is one that the run's files make, in the order of the page."""
    body, recipe = re.fullmatch(r"(.*)```yaml\n(.*)\n```\n.*", text, re.DOTALL).groups()
    assert recipe == held.recipe_text.strip()
    lines = [*body.splitlines(), *text.rpartition("## Provenance\n")[2].splitlines()]
    wanted = _lines(held)
    left = iter(lines)
    for line in wanted:
        assert line in left, line  # consumes what stands before it
    others = [line for line in lines if line not in wanted and not line.startswith("# ")]
    assert [number for line in others for number in tiny_traced.strangers(line, held)] == []
    assert len(lines) == len(wanted) + len(others) + 1


def _lines(held):
    about, wrote = held.get("models"), held.get("samples", "models")
    found = [tiny_own.verdict(held), *tiny_own.ended(held), *_rows(tiny_own.figures(held))]
    found += [f"- Gap recovered, {name}: {value} of (control - teacher)" for name, value in tiny_own.gaps(held)]  # fmt: skip
    found.append(f"Held-out text: {about['rows']} rows of {about['length']} tokens. Again: `{about['command']}`")  # fmt: skip
    if held.benchmarks:
        found += _rows(tiny_own.benchmarks(held))
        found += [f"Again: `{told['command']}`" for told in held.benchmarks]
    if "generation" in held.evaluation:
        found += [*_rows(tiny_own.speed(held)), f"Again: `{held.get('generation', 'command')}`"]
    found.append(f"After the words `{held.get('samples', 'prompt')}`:")
    for model, said in wrote.items():
        told = json.dumps(said.strip(), ensure_ascii=False)
        around = "``" if "`" in told else "`"
        found.append(f"- {model}: {around}{told}{around}")
    found += [f"- {name}: {value}" for name, value in tiny_own.cost(held)]
    return found + [f"- {name}: `{value}`" for name, value in tiny_own.provenance(held)]


def _rows(rows):
    first, *others = [f"| {' | '.join(row)} |" for row in rows]
    return [first, "|---" * len(rows[0]) + "|", *others]
