"""A generation that cannot be is refused with its path, and a key that stands in a recipe is not repeated."""

import re
from pathlib import Path

import pytest
import tiny_generation as tiny
from tiny_generation import CANARY

from limbeck import loading
from limbeck.errors import RecipeError
from limbeck.generating import loaded

REMOTE = {"url": "https://teacher.example/v1", "model": "m"}


def wrong(place, **changes):
    with pytest.raises(RecipeError) as found:
        loaded.build(tiny.tree(place, "http://127.0.0.1:1/v1", **changes))
    return str(found.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samplng": {}}, "recipe: no key 'samplng' here. Did you mean 'sampling'?"),
        ({"limits": {"tries": 0}}, "limits.tries: Input should be greater than 0 Found 0."),
        ({"teacher": {"local": {"model": "m"}}}, "teacher: wanted one of openai, anthropic"),
        ({"prompts": {"documents": {"path": "a", "tokens": 1}}}, "prompts: wanted one of"),
        ({"spend": {"cap": 1}}, "spend.cap needs prices"),
        ({"whole": {"openai": REMOTE | {"url": "http://there/v1"}}}, "wanted https"),
        ({"whole": {"openai": REMOTE | {"url": "https://a:b@c/v1"}}}, "neither name and password"),
        ({"whole": {"openai": REMOTE | {"url": "https://c/v1?key=1"}}}, "nor ? or #"),
        ({"whole": {"openai": REMOTE | {"url": "file:///etc/passwd"}}}, "wanted http(s)"),
        ({"whole": {"openai": REMOTE | {"body": {"n": 2}}}}, "'n' is set by other keys"),
        ({"whole": {"openai": REMOTE | {"key": "MY_KEY"}}}, "nothing limits it"),
        (
            {"whole": {"openai": {"url": "http://there/v1", "model": "m", "key": "K", "plain_http": True}}},
            "no key is sent over plain http",
        ),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_told_with_its_place(tmp_path, changes, message):
    assert message in wrong(tmp_path, **changes)


@pytest.mark.parametrize(
    "remote",
    [
        REMOTE | {"key": CANARY},
        {"url": "https://teacher.example/v1", "key": CANARY},
        REMOTE | {"api_key": CANARY},
        REMOTE | {"key": [CANARY]},
        {"url": f"https://user:{CANARY}@teacher.example", "model": "m"},
    ],
)
def test_a_key_in_a_recipe_is_refused_and_not_repeated(tmp_path, remote):
    assert CANARY not in wrong(tmp_path, whole={"openai": remote})


def test_a_dumped_generation_is_the_same(tmp_path):
    asked = loaded.build(tiny.tree(tmp_path, "http://127.0.0.1:1/v1"))
    assert loaded.build(loading.parse_yaml(loaded.dump(asked), "x")) == asked


def test_the_recipes_on_the_page_load():
    page = Path(__file__).parents[2] / "docs/generate.md"
    blocks = re.findall(r"^```yaml\n(.*?)^```", page.read_text(), flags=re.M | re.S)
    whole, *parts = (loading.parse_yaml(block, "docs/generate.md") for block in blocks)
    for part in ({}, *parts):
        for one in loaded.build(whole | part).filters:
            loading.checked(one, "filters", "docs/generate.md")
    assert parts
