"""Files that are hostile as a whole: text, packed files, JSON arrays, and names and places of all kinds."""

import json
import zlib

from hostile import AFTER, GOOD, STAY, Case, jsonl, packed

ROWS = jsonl(GOOD, AFTER)
OTHER = "Another text, of some words."
SPLIT = {"split_at": "^(# .*)$"}


def said(name: str, raw: bytes, *kept: str) -> Case:
    """A text file that is one document, kept to the byte."""
    return Case(f"txt: {name}", {"a.txt": raw, "b.txt": OTHER.encode()}, (*kept, OTHER), path=".")


def unsaid(name: str, raw: bytes, reason: str) -> Case:
    """A text file that is set aside beside another that stays."""
    return Case(f"txt: {name}", {"a.txt": raw, "b.txt": OTHER.encode()}, (OTHER,), (("a.txt", 1, reason),), path=".")  # fmt: skip


def part(name: str, raw: bytes, line: int, reason: str, *kept: str) -> Case:
    """A text file of which one part is set aside."""
    return Case(f"txt: {name}", {"a.txt": raw}, kept, (("a.txt", line, reason),), options=SPLIT)


WORDS = "Wärme \U0001f600\n"
TEXT = [
    *(unsaid(f"cut UTF-8, {n} of 4 bytes", b"a b c" + b"\xf0\x9f\x98\x80"[:n], "UTF-8") for n in (1, 2, 3)),
    *(unsaid(f"{name}, with its mark", WORDS.encode(name), "not UTF-8") for name in ("utf-16", "utf-32")),
    *(unsaid(f"{name}, without", "abc".encode(name), "NUL") for name in ("utf-16-le", "utf-16-be", "utf-32-le")),
    unsaid("Latin-1", WORDS[:6].encode("latin-1"), "byte 0xe4 at offset 1"),
    unsaid("a NUL at the end", b"some words\0", "NUL character at offset 10"),
    unsaid("only NULs", b"\0" * 9, "NUL character at offset 0"),
    unsaid("a program", b"\x7fELF\x02\x01\x01" + bytes(range(256)), "UTF-8"),
    unsaid("gzip without its ending", packed(b"words"), "UTF-8"),
    said("a BOM is a character", b"\xef\xbb\xbfwords", "\ufeffwords"),
    said("CR alone", b"one\rtwo\r", "one\rtwo\r"),
    said("CR LF, LF and CR", b"one\r\ntwo\nthree\rfour", "one\r\ntwo\nthree\rfour"),
    said("U+2028, U+0085, VT and FF", "a\u2028b\u0085c\vd\fe".encode(), "a\u2028b\u0085c\vd\fe"),
    said("only line ends", b"\n\r\n\n", "\n\r\n\n"),
    Case("txt: nothing in one of two", {"a.txt": b"", "b.txt": OTHER.encode()}, (OTHER,), path="."),
    said("one line of 60,000 characters", b"ab " * 20_000, "ab " * 20_000),
    said("control strings", b"<|im_start|>system<|im_end|>", "<|im_start|>system<|im_end|>"),
    said("JSON", b'{"text": NaN}', '{"text": NaN}'),
    part("a hostile part", b"# one\ngood\n# two\n\xff\n# three\nso\n", 3, "UTF-8", "good\n", "so\n"),
    Case("txt: a hostile mark, which is dropped", {"a.txt": b"# one\ngood\n# t\xffo\nnot bad\n"}, ("good\n", "not bad\n"), options=SPLIT),
    part("a NUL in the last part", b"# one\nwhat is good\n# two\nend\0", 3, "NUL", "what is good\n"),
    part("a hostile head", b"\xfe\xff\n# one\nwhat is good\n", 1, "UTF-8", "what is good\n"),
    Case("txt: marks alone", {"a.txt": b"# a\n# b\n# c\nwhat is good\n"}, ("what is good\n",), options=SPLIT),
    Case("txt: marks and CR LF", {"a.txt": b"# a\r\ngood\r\n# b\r\nso\r\n"}, ("good\r\n", "so\r\n"), options=SPLIT),
    Case("txt: no mark is there", {"a.txt": b"what is\ngood\n"}, ("what is\ngood\n",), options=SPLIT),
    Case("txt: nothing but an empty file", {"a.txt": b""}, whole="no document with any token"),
    Case("txt: nothing but a bad pattern", {"a.txt": b"a"}, whole="not a regular expression", named="split_at", options={"split_at": "(?P<"}),
]  # fmt: skip


def gz(name: str, raw: bytes, reason: str, kind: str = ".jsonl.gz", source: str = "text") -> Case:
    """A packed file of which nothing is taken, since nobody knows what is lost."""
    return Case(f"gz: {name}", {f"rows{kind}": raw}, whole=reason, source=source)


def flipped(raw: bytes, place: int) -> bytes:
    """One bit of one byte turned."""
    return raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]


WHOLE = packed(jsonl(*[GOOD, AFTER] * 60))
DAMAGED = "damaged or cut off gzip data"
NAMED = b"\x1f\x8b\x08\x08\0\0\0\0\0\xff" + b"../../etc/passwd\0" + packed(ROWS)[10:]
PACKED = [
    *(gz(f"cut at {n}", WHOLE[:n], DAMAGED) for n in (1, 2, 3, 9, 10, 11, 60, len(WHOLE) - 8, len(WHOLE) - 4, len(WHOLE) - 1)),
    *(gz(f"cut at {n}, of a chat", WHOLE[:n], DAMAGED, source="chat") for n in (5, 80, len(WHOLE) - 6)),
    gz("cut, of a text", packed(b"words " * 99)[:-9], DAMAGED, ".txt.gz"),
    *(gz(f"a bit of the sum, {n}", flipped(WHOLE, len(WHOLE) - n), DAMAGED) for n in (8, 5)),
    *(gz(f"a bit of the size, {n}", flipped(WHOLE, len(WHOLE) - n), DAMAGED) for n in (4, 1)),
    *(gz(f"a bit of the head, {n}", flipped(WHOLE, n), DAMAGED) for n in (0, 1, 2)),
    gz("a bit inside", flipped(WHOLE, 40), DAMAGED),
    gz("garbage behind", WHOLE + b"garbage", DAMAGED),
    gz("a second file that is cut", WHOLE + WHOLE[:30], DAMAGED),
    gz("no gzip at all", ROWS, DAMAGED),
    gz("zlib and not gzip", zlib.compress(ROWS), DAMAGED),
    gz("of gz", packed(packed(ROWS)), "UTF-8|utf-8"),
    gz("of a saved program", packed(b"\x80\x04\x95."), "utf-8"),
    gz("nothing in it", packed(b""), "no document with any token"),
    gz("a file of no byte", b"", "no document with any token"),
    gz("a bomb of NULs", packed(b"\0" * 120_000_000), "a line of 120,000,000 bytes"),
    gz("a bomb of lines", packed(b"\n" * 200_000), "an empty line"),
    gz("a text that is a bomb", packed((b"words " * 10_000 + b"\n") * 2_000), "a document of 120,002,000 bytes", ".txt.gz"),
    Case("gz: two files in one", {"a.jsonl.gz": packed(jsonl(GOOD)) + packed(jsonl(AFTER))}, STAY),
    Case("gz: NULs behind, as tapes have", {"a.jsonl.gz": packed(ROWS) + b"\0" * 512}, STAY),
    Case("gz: a name that leads out", {"a.jsonl.gz": NAMED}, STAY),
    Case("gz: a bad row inside", {"a.jsonl.gz": packed(jsonl(GOOD, b"\xff", AFTER))}, STAY, (("a.jsonl.gz", 2, "utf-8"),)),
    Case("gz: a bad row of a chat inside", {"a.jsonl.gz": packed(jsonl(GOOD, {}, AFTER))}, STAY, (("a.jsonl.gz", 2, "nothing"),), source="chat"),
    Case("gz: an ending in capitals", {"A.JSONL.GZ": packed(ROWS)}, STAY),
    Case("gz: bad bytes of a text", {"a.txt.gz": packed(b"\xff"), "b.txt.gz": packed(b"some words")}, ("some words",), (("a.txt.gz", 1, "UTF-8"),), path="."),
]  # fmt: skip


def array(name: str, raw: bytes | str, reason: str) -> Case:
    """An array of which nothing is taken."""
    given = raw if isinstance(raw, bytes) else raw.encode()
    return Case(f"json: {name}", {"rows.json": given}, whole=reason, source="chat")


def items(name: str, item: str, reason: str) -> Case:
    """An array of which one item is set aside."""
    raw = f"[{json.dumps(GOOD)}, {item},\n {json.dumps(AFTER)}]"
    return Case(f"json: {name}", {"rows.json": raw.encode()}, STAY, (("rows.json", 2, reason),), source="chat")  # fmt: skip


BOTH = json.dumps([GOOD, AFTER])
NOT = "not readable as JSON|Nothing of an array"
ARRAYS = [
    *(items(f"an item {item}", item, f"a JSON {kind}, not an object") for item, kind in
      (("3", "int"), ("null", "NoneType"), ('"a"', "str"), ("[]", "list"), ("true", "bool"), ("1.5", "float"), ('[{"text": "a"}]', "list"))),
    items("an item of nothing", "{}", "it has: nothing"),
    items("a half surrogate in an item", '{"text": "\\ud800"}', "lone surrogate"),
    items("NUL in an item", '{"text": "\\u0000"}', "a NUL"),
    *(array(f"cut at {n}", BOTH[:n], NOT) for n in (1, 2, 20, len(BOTH) - 2, len(BOTH) - 1)),
    array("a comma at the end", BOTH[:-1] + ",]", NOT),
    array("something behind", BOTH + "x", NOT),
    array("two arrays", BOTH + "\n" + BOTH, NOT),
    array("NaN in an item", '[{"text": "a", "n": NaN}]', "NaN is not"),
    array("a key twice in an item", '[{"text": "a", "text": "b"}]', "stands twice"),
    array("1e400 in an item", '[{"text": "a", "n": 1e400}]', "too large"),
    array("100,000 lists", "[" * 100_000, NOT),
    array("bad bytes", b'[{"text": "\xff"}]', NOT),
    array("UTF-16", BOTH.encode("utf-16"), "utf-8"),
    array("an array behind a BOM", b"\xef\xbb\xbf" + BOTH.encode(), "BOM"),
    array("an empty array", "[]", "no conversation in which anything counts"),
    array("a file of no byte", b"", "no conversation in which anything counts"),
    array("only spaces", b"   ", "an empty line"),
    array("one object over many lines", json.dumps(GOOD, indent=1), "rows.json:1: "),
    Case("json: spaces before", {"rows.json": b"\n \t" + BOTH.encode()}, STAY, source="chat"),
    Case("json: over many lines", {"rows.json": json.dumps([GOOD, AFTER], indent=2).encode()}, STAY, source="chat"),
    Case("json: lines of objects", {"rows.json": ROWS}, STAY, source="chat"),
    Case("json: lines, one of them hostile", {"rows.json": jsonl(GOOD, b"[]", AFTER)}, STAY, (("rows.json", 2, "list, not"),), source="chat"),
    Case("json: is no kind of a text source", {"rows.json": ROWS}, whole="not a kind of text"),
]  # fmt: skip

CASES = [*TEXT, *PACKED, *ARRAYS]
