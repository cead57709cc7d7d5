"""What the pages say is true: files exist, commands are commands, recipes load, examples run."""

import importlib.util
import itertools
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import tiny
import tiny_cache
import torch
import yaml

from limbeck import assembly, fitting, loading, names
from limbeck.cache.kinds import KINDS
from limbeck.cache.planes import Piece
from limbeck.cache.read import CacheReader
from limbeck.cache.write import create_or_check, write_shard
from limbeck.cli import app
from limbeck.featuring import FeatureKeeper
from limbeck.planning import Planned

HERE = Path(__file__).parents[1]
PAGES = sorted([*HERE.glob("docs/**/*.md"), *HERE.glob("*.md"), *HERE.glob("benchmarks/*.md")])
# What the three pages on adding a part invent; nothing of the kind stands in the package.
INVENTED = re.compile(r"(top_gap|parrot|reset)\.py$")
ADDING = {"objective": "objectives", "teacher": "teachers", "student": "students"}


def named(page):
    return str(page.relative_to(HERE))


def blocks(page, language):
    """The code blocks of a page whose first line is ```language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.M | re.S)


def run(source, name):
    """A code block as a module."""
    module = types.ModuleType(name)
    exec(compile(source, name, "exec"), vars(module))
    return module


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_file_that_a_page_names_exists(page):
    text = page.read_text()
    rooms = "limbeck|tests|docs|recipes|benchmarks|changelog.d"
    found = re.findall(rf"`((?:{rooms})/[\w./-]*)`", text)
    missing = [path for path in found if not (HERE / path).exists() and not INVENTED.search(path)]
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    missing += [link for link in links if not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_command_that_a_page_names_is_one(page):
    known = {item.name or item.callback.__name__ for item in app.registered_commands}
    known |= {item.name for item in app.registered_groups}
    text = page.read_text()
    code = re.findall(r"`(limbeck [^`]+)`", text) + re.findall(r"^    (limbeck .+)$", text, re.M)
    wrong = [line for line in code if line.split()[1] not in known and line.split()[1] != "--help"]
    assert not wrong
    targets = set(re.findall(r"^([a-z-]+):", (HERE / "Makefile").read_text(), re.M))
    assert set(re.findall(r"`make ([a-z-]+)", text)) <= targets


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_recipe_on_a_page_loads_and_its_parts_exist(page):
    for block in blocks(page, "yaml"):
        tree = yaml.safe_load(block)
        if isinstance(tree, dict) and "stages" in tree:
            fitting.check(loading.build(loading.parse_yaml(block, named(page)), named(page)))


def test_a_recipe_on_a_page_can_be_planned_without_a_network():
    (block,) = blocks(HERE / "docs/methods/response.md", "yaml")
    student = assembly.student_on_meta(loading.build(yaml.safe_load(block)))
    assert sum(parameter.numel() for parameter in student.parameters()) == 1_235_814_400


def test_the_walk_passes_every_room():
    text = (HERE / "docs/walk.md").read_text()
    said = {"objectives", "models", "data", "training", "evaluation", "report"}
    passed = [
        path.relative_to(HERE).as_posix()
        for path in sorted(HERE.glob("limbeck/**/*.py"))
        if path.name not in ("__init__.py", "__main__.py")
        and not (path.parent.name == "objectives" and path.stem != "forward_kl")
        and not (path.parent.name in said and path.name.startswith("_"))
    ]
    assert not [path for path in passed if f"`{path}`" not in text]


def test_the_page_of_keys_is_what_its_script_writes():
    place = HERE / "docs/make_recipe_page.py"
    spec = importlib.util.spec_from_file_location("make_recipe_page", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text() == module.page(), "run 'make docs'"


@pytest.mark.parametrize("kind", ADDING)
def test_the_example_of_adding_a_part_runs_and_its_test_passes(kind, monkeypatch):
    page = (
        HERE / f"docs/add-an-{kind}.md" if kind == "objective" else HERE / f"docs/add-a-{kind}.md"
    )
    assert len(page.read_text().splitlines()) <= 60
    (source,), (test,) = blocks(page, f"python {kind}"), blocks(page, "python test")
    name = re.search(rf"limbeck/{ADDING[kind]}/(\w+)\.py", page.read_text())[1]
    monkeypatch.setitem(
        sys.modules,
        f"limbeck.{ADDING[kind]}.{name}",
        run(source, f"limbeck.{ADDING[kind]}.{name}"),
    )
    examples = [item for key, item in vars(run(test, "example")).items() if key.startswith("test_")]
    for example in examples:
        example()
    assert examples
    part = names.find("any", f"limbeck.{ADDING[kind]}.{name}.{name}")
    given = re.search(rf"`(?:{kind}: )?\{{{name}: (\{{.*?\}})\}}`", page.read_text())
    if given:
        assert set(yaml.safe_load(given[1])) <= set(names.options(part))


READABLE = [
    {"kind": "sample", "draws": 1},
    {"kind": "sample", "draws": 2},
    {"values": "code8"},
    {"values": "float16"},
    {"values": "float64"},
]


def page_reader():
    (source,) = blocks(HERE / "docs/cache-format.md", "python reader")
    return run(source, "reader")


@pytest.mark.parametrize("vocab", [tiny.VOCAB, 128_256, 262_144])
@pytest.mark.parametrize("settings", READABLE, ids=str)
def test_a_reader_written_from_the_page_reads_what_was_recorded(tmp_path, settings, vocab):
    about = tiny_cache.about(vocab=vocab, teacher_name="Elena's téacher", **settings)
    addresses, _, which = tiny_cache.written(tmp_path, about, rows=3)
    found, rows = page_reader().read(tmp_path)
    assert found["kind"] == about.kind
    assert set(rows) == set(addresses)
    for address, recorded in zip(addresses, which, strict=True):
        assert sorted(rows[address]) == recorded.nonzero().flatten().tolist()
        said = CacheReader(tmp_path).read([address], recorded[None], [0])
        for token, place in enumerate(sorted(rows[address])):
            one = said[token : token + 1]
            ids, weights = (
                one.ids.flatten(),
                one.weights if about.kind == "sample" else one.logprobs.exp(),
            )
            np.testing.assert_array_equal(rows[address][place][0], ids.numpy())
            np.testing.assert_allclose(
                rows[address][place][1], weights.flatten().numpy(), rtol=1e-3
            )


def test_a_reader_written_from_the_page_takes_of_two_shards_the_one_with_more(tmp_path):
    """Of eight rows each, so that the one with more comes first by name as well as last."""
    about = tiny_cache.about()
    addresses = [f"{row:032x}" for row in range(8)]
    create_or_check(tmp_path, about)
    for address, count in itertools.product(addresses, (1, about.length)):
        which = torch.arange(about.length)[None] < count
        made = tiny_cache.record(about, count)
        write_shard(tmp_path, [address], made, about, tokens=[address], recorded=which)
    assert len(list((tmp_path / "shards").iterdir())) == 16
    _, rows = page_reader().read(tmp_path)
    assert [len(rows[address]) for address in addresses] == [about.length] * 8


@pytest.mark.parametrize("numbers", ["bfloat16", "int8", "float32"])
def test_features_are_kept_as_the_page_says(tmp_path, numbers):
    (source,) = blocks(HERE / "docs/cache-format.md", "python features")
    page = run(source, "features")
    about = tiny_cache.about(kind="feature", numbers=numbers, share=0.4, width=70, channels=90)
    keeper = FeatureKeeper(about)
    np.testing.assert_array_equal(page.projection(vars(about)), keeper.projection.numpy())
    there = torch.rand(9, 30, generator=tiny.generator()) < 0.7
    addresses = tuple(f"{row:032x}" for row in range(9))
    rows = Planned(tuple(range(9)), addresses, (b"",) * 9).masked(there)
    long = FeatureKeeper(tiny_cache.about(kind="feature", share=0.4, length=30))
    for address, row, kept in zip(addresses, there, long.narrowed(rows).mask(30), strict=True):
        tokens = row.nonzero().flatten().tolist()
        assert page.kept(address, tokens, 30, 0.4) == kept.nonzero().flatten().tolist()
    vectors = torch.randn(11, 70, generator=tiny.generator(1))
    planes = KINDS["feature"].encode(vectors, about, np.array([0, 11]))
    piece = Piece(planes, 0, 0, 11, None, 0)
    read = KINDS["feature"].decode([piece], about).float().numpy()
    np.testing.assert_array_equal(page.vectors(planes), read)
    np.testing.assert_allclose(read, vectors.numpy(), atol=0.02)


def test_a_reader_written_from_the_page_refuses_a_changed_byte(tmp_path):
    tiny_cache.written(tmp_path, tiny_cache.about())
    (place,) = tmp_path.glob("shards/*/planes.safetensors")
    raw = bytearray(place.read_bytes())
    raw[-1] ^= 1
    place.write_bytes(raw)
    with pytest.raises(AssertionError, match=r"planes\.safetensors"):
        page_reader().read(tmp_path)
