"""Places that are hostile: names, links, folders, patterns, files that are none, and lists of data sets."""

import json
import os
from pathlib import Path
from typing import Any

import hostile
from hostile import AFTER, GOOD, STAY, Case, File, jsonl

ROWS = jsonl(GOOD, AFTER)
BAD = jsonl(GOOD, b"\xff", AFTER)


def named(name: str) -> Case:
    """A file of an odd name: read as any other, and its bad row is told by its name."""
    return Case(f"the name {ascii(name)[:40]}", {name: BAD}, STAY, ((name, 2, "utf-8"),))


NAMES = [
    named(name)
    for name in (
        " .jsonl", "-rf.jsonl", "a b\tc.jsonl", "a\nb.jsonl", "[red]a[/b].jsonl", "*.jsonl", "?.jsonl", "[a].jsonl",
        "{a,b}.jsonl", "$(id).jsonl", "`id`.jsonl", "%s%n.jsonl", "a:b@c.jsonl", "é\u0301\U0001f600.jsonl",
        "\u202egpj.jsonl", "a\x1b[31m.jsonl", "\udcff\udcfe.jsonl", "..jsonl", "a.txt.jsonl", "A.JSONL", "x" * 240 + ".jsonl",
        "train/../a.jsonl", "~.jsonl", "null.jsonl", "'\".jsonl", "#.jsonl", "\\.jsonl",
    )
]  # fmt: skip


def no(
    name: str, path: str, reason: str, files: dict[str, File] | None = None, **more: Any
) -> Case:
    """A path at which nothing can be read."""
    return Case(f"place: {name}", files or {"a.jsonl": ROWS}, whole=reason, path=path, **more)


def fifo(place: Path) -> None:
    os.mkfifo(place)


NONE = "there is no such file or folder"
PLACES = [
    no("a file that is not there", "b.jsonl", NONE),
    no("a file in a file", "a.jsonl/b.jsonl", NONE),
    no("a name of 5,000 characters", "x" * 5_000 + ".jsonl", NONE, named="xxx"),
    no("a name of 300 characters", "x" * 300 + ".jsonl", NONE),
    no("a NUL in the name", "a\0.jsonl", NONE),
    no("half a surrogate in the name", "a\ud800.jsonl", NONE, named="a"),
    no("a user who is not there", "~nobody-of-this-name/a.jsonl", NONE),
    no("a folder that is called as a file", "a.jsonl", "holds no text file", {"a.jsonl": None}),
    no("an empty folder", "a", "holds no text file", {"a": None}),
    no("a folder of settings", ".", "holds no text file", {"a.json": b"{}", "b.yaml": b""}),
    no("a folder of hidden files", ".", "holds no text file", {".a.jsonl": ROWS, ".b/c.jsonl": ROWS}),
    no("a link to nothing", "a.jsonl", NONE, {"a.jsonl": Path("gone.jsonl")}),
    no("a link to itself", "a.jsonl", NONE, {"a.jsonl": Path("a.jsonl")}),
    no("a pipe that nobody writes to", "a.jsonl", NONE, {"a.jsonl": fifo}),
    no("a folder of a pipe", ".", "holds no text file", {"a.jsonl": fifo}),
    no("a device", "/dev/zero", NONE),
    no("a file that gives an error when it is read", "a.jsonl", "cannot be read", {"a.jsonl": Path("/proc/self/mem")}),
    no("such a file of a chat", "a.jsonl", "cannot be read", {"a.jsonl": Path("/proc/self/mem")}, source="chat"),
    no("such a table", "a.parquet", "cannot be read", {"a.parquet": Path("/proc/self/mem")}),
    no("such an array", "a.json", "cannot be read", {"a.json": Path("/proc/self/mem")}, source="chat"),
    *(no(f"the ending {end}", f"a{end}", "not a kind of text", {f"a{end}": ROWS})
      for end in (".csv", ".json", ".jsonl.bz2", ".jsonl.zst", ".zip", ".jsonl~", ".jsonl.gz.part", "")),
    no("a pattern that nothing matches", "b*.jsonl", "no text file matches"),
    no("a pattern of other kinds", "*.md", "no text file matches", {"a.md": b"a"}),
    no("a pattern that is open", "a[", "no text file matches|no such file"),
    no("a split that is not there", ".", "no split 'train'. It has: test", {"test.jsonl": ROWS}),
    no("a saved dataset of another split", ".", "no split 'train'", {"dataset_dict.json": b"{}", "test/a.jsonl": ROWS}, named="train"),
    Case("place: a link to a file", {"a.jsonl": Path("b.data"), "b.data": BAD}, STAY, (("a.jsonl", 2, "utf-8"),)),
    Case("place: a link to a folder", {"a": Path("b"), "b/c.jsonl": BAD}, STAY, (("a/c.jsonl", 2, "utf-8"),)),
    Case("place: a folder that links to itself", {"a/b.jsonl": BAD, "a/c": Path()}, STAY, (("a/b.jsonl", 2, "utf-8"),)),
    no("a dangling link in a folder", "a", "not there", {"a/b.jsonl": ROWS, "a/c.jsonl": Path("gone")}),
    no("a dangling link among others", "a/*", "not there", {"a/b.jsonl": ROWS, "a/c.jsonl": Path("gone")}, named="c.jsonl"),
    Case("place: a pipe in a folder", {"a/b.jsonl": ROWS, "a/c.jsonl": fifo}, STAY, path="a"),
    Case("place: an empty file in a folder", {"a/b.jsonl": ROWS, "a/c.jsonl": b""}, STAY, path="a"),
    Case("place: bad rows in each of three kinds", {"a.jsonl": BAD, "b.txt": b"\xff", "c.jsonl.gz": hostile.packed(BAD)}, STAY * 2,
         (("a.jsonl", 2, "utf-8"), ("b.txt", 1, "UTF-8"), ("c.jsonl.gz", 2, "utf-8")), path="."),
    Case("place: a pattern over folders", {"a/b/c.jsonl": BAD, "a/d.jsonl": ROWS}, STAY * 2, (("a/b/c.jsonl", 2, "utf-8"),), path="**/*.jsonl"),
    Case("place: a held-out file beside", {"train.jsonl": BAD, "test.jsonl": b"\xff"}, STAY, (("train.jsonl", 2, "utf-8"),), path="."),
]  # fmt: skip

INFO = "dataset_info.json"


def info(name: str, entry: Any, reason: str, *, raw: bytes | None = None, **files: File) -> Case:
    """A list of data sets of which one cannot be given."""
    given = json.dumps({"one": entry}).encode() if raw is None else raw
    held = {INFO: given, "rows.jsonl": ROWS, "out/secret.json": ROWS} | {
        key.replace("__", "/").replace("_json", ".json"): value for key, value in files.items()
    }
    return Case(f"list: {name}"[:70], held, whole=reason, path=INFO, named=INFO, source="chat", options={"dataset": "one"})  # fmt: skip


def fields(key: str, *values: Any, reason: str = "", **more: Any) -> list[Case]:
    """What an entry must not say of one thing."""
    return [
        info(f"{key} {value!r}", {"file_name": "rows.jsonl", **more, key: value}, reason or key)
        for value in values
    ]


OUT = "leads out of"
LISTS = [
    *(info(name, {}, "cannot be read", raw=raw) for name, raw in (
        ("cut", b'{"one": {'), ("of NaN", b'{"one": NaN}'), ("a name twice", b'{"one": {}, "one": {}}'), ("bad bytes", b'{"\xff": 1}'),
        ("100,000 deep", b"[" * 100_000), ("of no byte", b""), ("UTF-16", '{"one": {}}'.encode("utf-16")))),
    *(info(f"a list that is {raw.decode()}", {}, "no data set 'one'", raw=raw) for raw in (b"[]", b"3", b"null", b'"one"', b"{}", b'{"ones": {}}')),
    *(info(f"an entry that is {value!r}", value, "no data set 'one'") for value in (None, 3, "rows.jsonl", ["rows.jsonl"], True)),
    *fields("file_name", None, 3, True, ["rows.jsonl"], {"a": 1}, "", reason="no file_name"),
    *fields("file_name", "../secret.json", "/etc/passwd", "a/../../b.json", "../data/../../x", "out/../../x.json", reason=OUT),
    *fields("file_name", "a\0.json", "a\ud800.json", reason="file_name"),
    *fields("file_name", "*.json", "out*/secret.json", reason="one file or folder"),
    info("a link that leads out", {"file_name": "way.json"}, OUT, way_json=Path("/etc/hostname")),
    info("a link to itself", {"file_name": "loop.json"}, "is no place", loop_json=Path("loop.json")),
    info("a folder that leads out", {"file_name": "in"}, OUT, in__way_json=Path("/etc/hostname")),
    *fields("hf_hub_url", "../secret.json", "/etc/passwd", "a/../b", "http://x/y", "a", "a/b/c", "..", "./a", 3, "a/b\n", file_name=None, reason="hf_hub_url|no file_name"),
    *fields("subset", 3, ["a"], "../a", file_name=None, hf_hub_url="a/b", reason="subset"),
    *fields("formatting", "xml", 3, None, ["alpaca"], {"a": 1}, True),
    *fields("num_samples", 0, -1, 1.5, "5", True, [1], {"a": 1}, float("1e300")),
    *fields("split", 3, ["train"], "../train", True, {"a": 1}),
    *fields("columns", 3, "prompt", ["prompt"], {"a": "b"}, {"prompt": 3}, {"prompt": None}, {"images": "images"}),
    *fields("tags", 3, ["a"], {"a": "b"}, {"role_tag": 3}, {"user_tag": "x", "assistant_tag": "x"}, {"system_tag": "gpt"}, formatting="sharegpt"),
    *fields("script_url", "x.py", reason="names code to run"),
    *fields("ranking", True, reason="rankings"),
    *fields("cloud_file_name", "s3://a/b", reason="cloud"),
    *fields("secret", 1, reason="'secret' is not understood"),
]  # fmt: skip


def listed(name: str, entry: dict[str, Any], bad: dict[str, Any], reason: str) -> Case:
    """A row of a data set in a list that is set aside; it is alone, since each needs a template."""
    held = {
        INFO: json.dumps({"one": {"file_name": "rows.jsonl", **entry}}).encode(),
        "rows.jsonl": jsonl(bad),
    }
    return Case(f"list: {name}", held, whole=f"rows.jsonl:1: .*{reason}", path=INFO, named="rows.jsonl", source="chat", options={"dataset": "one"})  # fmt: skip


SHARED = {"formatting": "sharegpt"}
READ = [
    *(
        listed(f"turns {value!r}"[:60], SHARED, {"conversations": value}, reason)
        for value, reason in (
            (None, "not a list"), (3, "not a list"), ({"a": 1}, "not a list"), ([], "no turn of the assistant"), ([3], "no tag"),
            ([{"from": ["human"], "value": "a"}], "no tag"), ([{"from": {"a": 1}}], "no tag"), ([{"from": None}], "no tag"),
            ([{"from": "wizard"}], "no tag"), ([{"from": "gpt", "value": 3}], "int stands"), ([{"from": "gpt", "value": "\0"}], "a NUL"),
            ([{"from": "function_call", "value": "{"}], "not JSON"), ([{"from": "gpt", "value": "a", "weight": -1}], "weight"),
        )
    ),
    listed("no column of the name", {"columns": {"prompt": "q"}}, {"instruction": "a", "output": "b"}, "no instruction"),
    listed("an answer that is a number", {}, {"instruction": "a", "output": 3}, "int stands"),
    listed("a history that is a number", {"columns": {"history": "h"}}, {"instruction": "a", "output": "b", "h": 3}, "history is int"),
    listed("tools that are no JSON", SHARED | {"columns": {"tools": "t"}}, {"conversations": [{"from": "gpt", "value": "a"}], "t": "{"}, "not JSON"),
]  # fmt: skip

CASES = [*NAMES, *PLACES, *LISTS, *READ]
