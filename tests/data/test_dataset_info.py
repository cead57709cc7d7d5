"""A dataset_info.json of LLaMA-Factory is read as it is; what leads out of its folder or runs code is not."""

import json

import pytest

from limbeck.data.dataset_info import entry
from limbeck.data.layouts import example
from limbeck.errors import DataError

INFO = {
    "plain": {"file_name": "plain.json"},
    "renamed": {
        "file_name": "sub/renamed.jsonl",
        "columns": {"prompt": "q", "query": "ctx", "response": "a", "system": "s", "history": "h"},
        "num_samples": 5,
    },
    "shared": {
        "file_name": "shared.json",
        "formatting": "sharegpt",
        "columns": {"messages": "talk", "system": "sys", "tools": "functions"},
        "tags": {
            "role_tag": "who",
            "content_tag": "what",
            "user_tag": "me",
            "assistant_tag": "you",
        },
    },
    "openai": {"file_name": "openai.json", "formatting": "openai"},
    "hub": {"hf_hub_url": "owner/name", "subset": "small", "split": "test"},
}
ROWS = {
    "plain": {"instruction": "Q", "input": "", "output": "A"},
    "renamed": {"q": "Q", "ctx": "", "a": "A", "s": None, "h": []},
    "shared": {
        "talk": [{"who": "me", "what": "Q"}, {"who": "you", "what": "A"}],
        "sys": "",
        "functions": "",
    },
    "openai": {
        "messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    },
}


@pytest.fixture
def info(tmp_path):
    path = tmp_path / "dataset_info.json"
    path.write_text(json.dumps(INFO))
    return path


@pytest.mark.parametrize("name", ROWS)
def test_rows_of_every_formatting_are_understood(info, name):
    found = entry(info, name)
    turns = example(found.renamed(ROWS[name]), found.layout).turns
    assert [(turn.role, turn.text) for turn in turns] == [("user", "Q"), ("assistant", "A")]


def test_where_and_how_much_is_told(info):
    assert entry(info, "renamed").path == str(info.parent / "sub/renamed.jsonl")
    assert entry(info, "renamed").most == 5
    assert entry(info, "hub").path == "owner/name:small"
    assert entry(info, "hub").split == "test"


def test_a_system_prompt_in_a_column_of_its_own_is_heard(info):
    row = ROWS["shared"] | {"sys": "Be short."}
    found = entry(info, "shared")
    assert example(found.renamed(row), found.layout).turns[0].text == "Be short."


def test_an_unknown_name_or_tag_is_refused_with_what_there_is(info):
    with pytest.raises(DataError, match="Did you mean 'shared'"):
        entry(info, "sharedd")
    row = {"talk": [{"who": "wizard", "what": "Q"}]}
    with pytest.raises(DataError, match=r"talk\[0\] is of 'wizard', which is no tag"):
        entry(info, "shared").renamed(row)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"file_name": "../../secret.json"}, "leads out of"),
        ({"file_name": "/etc/passwd"}, "leads out of"),
        ({"script_url": "x.py", "file_name": "a.json"}, "names code to run"),
        ({"file_name": "a.json", "ranking": True}, "rankings"),
        ({"file_name": "a.json", "formatting": "xml"}, "formatting is 'xml'"),
        ({"file_name": "a.json", "columns": {"images": "images"}}, "images"),
        ({"file_name": "a.json", "secret": 1}, "'secret' is not understood"),
        ({}, "no file_name"),
    ],
    ids=str,
)
def test_what_cannot_be_given_is_refused(tmp_path, given, reason):
    path = tmp_path / "dataset_info.json"
    path.write_text(json.dumps({"one": given}))
    with pytest.raises(DataError, match=reason):
        entry(path, "one")
