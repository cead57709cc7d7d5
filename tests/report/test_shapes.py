"""Files of a run that somebody changed: the report is written, or the file is named and nothing is raised but our errors."""

import copy
import json
import random

import pytest
import tiny_report
import tiny_whole

from limbeck import contrasting, files, judging
from limbeck.errors import Damaged, LimbeckError
from limbeck.folder import Folder
from limbeck.measurement import Evaluate
from limbeck.report import collect, render

OTHERS = ("x", [1], {"a": 1}, None)
LOST = object()


def places(value, depth=4):
    """The places in a value, each a path of keys."""
    yield ()
    items = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()  # fmt: skip
    for key, inner in items if depth else ():
        yield from ((key, *rest) for rest in places(inner, depth - 1))


def changed(value, place, other):
    """A copy with something else at a place, or without it."""
    if not place:
        return other
    whole = here = copy.deepcopy(value)
    for key in place[:-1]:
        here = here[key]
    if other is LOST:
        del here[place[-1]]
    else:
        here[place[-1]] = other
    return whole


def every(run):
    """Each file of a run with its values, all of a log and one of another."""
    for path in sorted(run.rglob("*.json*")):
        lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        yield path, [json.loads(line) for line in lines]


def test_whatever_stands_in_a_file_a_report_is_written_or_the_file_is_named(tmp_path):
    run, other = tiny_whole.folder(tmp_path / "a"), tiny_whole.folder(tmp_path / "b", seed=1)
    changes = [
        (path, values, at, place, to)
        for path, values in every(run)
        for at in {0, len(values) - 1}
        for place in places(values[at])
        for to in (OTHERS + (LOST,) * bool(place))
    ]
    assert len(changes) > 1000
    refused = []
    for path, values, at, place, to in random.Random(7).sample(changes, 70):
        whole = path.read_bytes()
        told = [changed(value, place, to) if n == at else value for n, value in enumerate(values)]
        path.write_text("".join(json.dumps(one) + "\n" for one in told))
        try:
            render.write(run)
            contrasting.contrast([run, other])
        except LimbeckError as reason:
            refused.append((path.name, str(reason)))
        path.write_bytes(whole)
    assert 20 < len(refused) < 70
    assert all(name in told for name, told in refused)


@pytest.mark.parametrize(
    ("name", "place", "to", "told"),
    [
        ("evaluation/agreement.json", ("models", "student", "kl_to_teacher"), "0.5", r"agreement\.json has '0\.5' at 'models\.student\.kl_to_teacher'; wanted: a valid number.*evaluate"),
        ("evaluation/tokens.json", ("tokens", 0, "said"), {}, r"tokens\.json has .* at 'tokens\.0'; wanted: in 'said' each model"),
        ("evaluation/layers.json", ("students", 0, "paired"), [1, 9], r"layers\.json has .*; wanted: a column of 'cka'"),
        ("evaluation/layers.json", ("students", 0, "paired"), [1], r"wanted: a row of 'cka'"),
        ("provenance.json", (), [1], r"provenance\.json has \[1\] in all; wanted: a valid dictionary\. Bring back"),
        ("log.jsonl", (), {"a": 1}, r"log\.jsonl, line 1, has no 'stage'"),
    ],
)  # fmt: skip
def test_what_was_found_and_where_is_told(tmp_path, name, place, to, told):
    run = tiny_report.folder(tmp_path)
    value = json.loads((run / name).read_text().splitlines()[0] if "log" in name else (run / name).read_text())  # fmt: skip
    (run / name).write_text(json.dumps(changed(value, place, to)) + "\n")
    with pytest.raises(Damaged, match=told):
        collect.facts(run)


def test_sums_of_other_rows_than_are_named_are_refused(tmp_path):
    run = tiny_report.folder(tmp_path)
    path = run / "evaluation/agreement.json"
    more = {"rows_of": ["a", "b"], "row_sums": {"student": {"kl": [0.5, 0.25, 0.125]}}}
    files.write_json(path, files.read_json(path) | more)
    with pytest.raises(Damaged, match="wanted: sums in 'row_sums' of each of 'rows_of'"):
        contrasting.contrast([run])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"", "recipe.yaml has None in all"),
        (b"telemetry: 5", "recipe.yaml has 5 at 'telemetry'"),
        (b"seed: no number", "recipe.yaml has 'no number' at 'seed'"),
        (b"\xff\xfe", "recipe.yaml: not UTF-8"),
    ],
)
def test_a_recipe_that_is_none_any_more_is_named(tmp_path, text, told):
    run = tiny_report.folder(tmp_path)
    (run / "recipe.yaml").write_bytes(text)
    with pytest.raises(LimbeckError, match=told):
        render.write(run)


def test_a_verdict_needs_its_figures(tmp_path):
    run = tiny_report.folder(tmp_path)
    path = run / "evaluation/bits_per_byte.json"
    plain = files.read_json(path)
    for model, told in (("student", "not measured"), ("control", "no control arm")):
        files.write_json(path, changed(plain, ("models", model), {}))
        assert told in collect.verdict(collect.facts(run))


@pytest.mark.parametrize("text", ["{}", "[1]", "3"])
def test_an_evaluation_whose_account_is_another_is_done_again(tmp_path, text):
    path = Folder(tmp_path).evaluation("models")
    path.parent.mkdir()
    path.write_text(text)
    asked = Evaluate.model_validate({"source": {"text": {"path": "x"}}})
    assert not judging.done(Folder(tmp_path), asked)
