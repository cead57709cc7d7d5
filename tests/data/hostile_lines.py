"""Lines of JSON that are hostile by their bytes, characters, numbers, shape or field, and some that only look it."""

from pathlib import Path

from hostile import AFTER, GOOD, STAY, Case, between, harmless, jsonl

UTF8 = {
    "a lone continuation": b"\x80",
    "a first byte alone": b"\xc3",
    "two of three bytes": b"\xe2\x82",
    "one of three bytes": b"\xe2",
    "three of four bytes": b"\xf0\x9f\x98",
    "an overlong slash": b"\xc0\xaf",
    "an overlong NUL": b"\xc0\x80",
    "an overlong three": b"\xe0\x80\xaf",
    "half a surrogate pair": b"\xed\xa0\x80",
    "CESU-8": b"\xed\xa0\xbd\xed\xb8\x80",
    "beyond U+10FFFF": b"\xf4\x90\x80\x80",
    "five bytes": b"\xf8\x88\x80\x80\x80",
    "0xff": b"\xff",
    "Latin-1": b"\xe9t\xe9",
}
PLACES = {
    "at the start of a string": b'{"text": "%sa"}',
    "inside a string": b'{"text": "a%sa"}',
    "at the end of a string": b'{"text": "a%s"}',
    "in a key": b'{"text": "a", "k%s": 1}',
    "before the object": b'%s{"text": "a"}',
    "behind the object": b'{"text": "a"}%s',
}
# Each kind of damage in a string, and each place with a damage of its own.
BYTES = [
    between(f"UTF-8: {what} {where}", PLACES[where].replace(b"%s", UTF8[what]), "utf-8|UTF-8")
    for number, what in enumerate(UTF8)
    for where in (
        "inside a string",
        list(PLACES)[number % len(PLACES)] if number % len(PLACES) != 1 else "in a key",
    )
]

JSON = "not readable as JSON"
CHARACTERS = [
    between("NUL byte", b'{"text": "a\x00b"}', JSON),
    between("NUL escape", b'{"text": "a\\u0000b"}', "a NUL character at offset 1"),
    between("only NULs", b"\x00" * 50, JSON),
    *(
        between(f"control byte {one:#x}", b'{"text": "a%cb"}' % one, "control character")
        for one in (0x01, 0x08, 0x0B, 0x1F)
    ),
    harmless("control escape", b'{"text": "a\\u0001\\u001bb"}', "a\x01\x1bb"),
    harmless("DEL", b'{"text": "a\x7fb"}', "a\x7fb"),
    between("high surrogate", b'{"text": "a\\ud800"}', r"lone surrogate U\+D800 at offset 1"),
    between("low surrogate", b'{"text": "\\udfffa"}', r"lone surrogate U\+DFFF"),
    between("reversed surrogates", b'{"text": "\\udc00\\ud800"}', "lone surrogate"),
    between("two high surrogates", b'{"text": "\\ud83d\\ud83d\\ude00"}', "lone surrogate"),
    harmless("a whole pair", b'{"text": "\\ud83d\\ude00"}', "\U0001f600"),
    harmless("a surrogate in another key", b'{"text": "a", "\\ud800": "\\udc00"}', "a"),
    between("a surrogate in the key", b'{"tex\\ud800": "a"}', "no field 'text'"),
    between("bad escape", b'{"text": "\\x41"}', JSON),
    between("cut escape", b'{"text": "\\u12"}', JSON),
    between("escape of a line end", b'{"text": "a\\', JSON),
    harmless("U+2028 and U+2029", '{"text": "a\u2028b\u2029c"}'.encode(), "a\u2028b\u2029c"),
    harmless("U+0085", '{"text": "a\u0085b"}'.encode(), "a\u0085b"),
    harmless("U+FEFF inside", '{"text": "a\ufeffb\ufeff"}'.encode(), "a\ufeffb\ufeff"),
    harmless("U+FFFE and U+FFFF", '{"text": "\ufffe\uffff"}'.encode(), "\ufffe\uffff"),
    harmless("U+FFFD", '{"text": "a\ufffd"}'.encode(), "a\ufffd"),
    harmless("bidirectional marks", '{"text": "a\u202eb\u2066"}'.encode(), "a\u202eb\u2066"),
    harmless("a hundred accents", f'{{"text": "e{chr(0x301) * 100}"}}'.encode(), "e" + "\u0301" * 100),
    harmless("said control strings", b'{"text": "<|im_end|></s>"}', "<|im_end|></s>"),
    between("BOM", b'\xef\xbb\xbf{"text": "a"}', "BOM"),
    between("UTF-16 with a BOM", '{"text": "a"}'.encode("utf-16"), "utf-8"),
    between("UTF-16 LE", '{"text": "a"}'.encode("utf-16-le"), JSON),
    between("UTF-32", '{"text": "a"}'.encode("utf-32"), "utf-8"),
    harmless("UTF-7 is text", b'{"text": "+AGE-"}', "+AGE-"),
]  # fmt: skip


def beside(value: bytes) -> bytes:
    return b'{"text": "a", "n": ' + value + b"}"


NUMBERS = [
    between("NaN", beside(b"NaN"), "NaN is not a JSON number"),
    between("Infinity", beside(b"Infinity"), "Infinity is not"),
    between("-Infinity", beside(b"[[-Infinity]]"), "-Infinity is not"),
    between("1e400", beside(b"1e400"), "1e400 is too large"),
    between("-1e400", beside(b"-1e400"), "too large"),
    between("a float of many digits", beside(b"9" * 400 + b".0"), "too large"),
    between("5,000 digits", beside(b"7" * 5_000), JSON),
    harmless("4,000 digits", beside(b"7" * 4_000), "a"),
    harmless("1e-400", beside(b"1e-400"), "a"),
    harmless("-0.0", beside(b"-0.0"), "a"),
    *(
        between(f"the number {one}", beside(one.encode()), JSON)
        for one in ("0x10", "01", ".5", "1.", "+1", "1_000", "- 1", "1e", "nan", "inf")
    ),
]

SHAPES = [
    between("a key twice", b'{"text": "a", "text": "b"}', "a key stands twice"),
    between("a key twice, once escaped", b'{"text": "a", "\\u0074ext": "b"}', "stands twice"),
    between("a key twice inside", b'{"text": "a", "m": [{"k": 1, "k": 1}]}', "stands twice"),
    between("100,000 lists", b'{"text": "a", "d": ' + b"[" * 100_000, JSON),
    between("100,000 closed lists", beside(b"[" * 100_000 + b"]" * 100_000), JSON),
    between("100,000 objects", b'{"a":' * 100_000, JSON),
    harmless("500 lists in a key beside", beside(b"[" * 500 + b"]" * 500), "a"),
    between("a key of 100,000 bytes", b'{"' + b"k" * 100_000 + b'": 1}', "no field 'text'"),
    between("50,000 keys", b"{" + b",".join(b'"%d": 1' % n for n in range(50_000)) + b"}", "no field"),
    between("two objects", b'{"text": "a"}{"text": "b"}', "Extra data"),
    between("two objects and a comma", b'{"text": "a"}, {"text": "b"}', "Extra data"),
    between("a comma behind", b'{"text": "a"},', "Extra data"),
    between("a comma inside", b'{"text": "a",}', JSON),
    between("no colon", b'{"text" "a"}', JSON),
    between("single quotes", b"{'text': 'a'}", JSON),
    between("no quotes", b"{text: a}", JSON),
    between("words of Python", b'{"text": "a", "b": True, "c": None}', JSON),
    between("a comment", b'{"text": "a"} // no', "Extra data"),
    between("YAML", b"text: a", JSON),
    between("CSV", b"text,a", JSON),
    between("XML", b"<text>a</text>", JSON),
    between("a pickle", b"\x80\x04\x95\x0b\x00.", "utf-8"),
    between("every byte but the line's end", bytes(n for n in range(256) if n != 10), "utf-8|JSON"),
    *(
        between(f"cut behind {cut.decode()}", cut, JSON)
        for cut in (b"{", b'{"', b'{"text', b'{"text"', b'{"text":', b'{"text": "', b'{"text": "a',
                    b'{"text": "a"', b'{"text": "a",', b'{"text": "a", "n": [1', b'{"text": "a", "n": t')
    ),
    *(
        between(f"a row that is {raw.decode()}", raw, f"a JSON {kind}, not an object")
        for raw, kind in ((b"[]", "list"), (b'["text"]', "list"), (b'[{"text": "a"}]', "list"),
                          (b'"text"', "str"), (b"3", "int"), (b"-1.5", "float"), (b"true", "bool"),
                          (b"null", "NoneType"))
    ),
    between("an empty object", b"{}", r"no field 'text' \(it has: \)"),
]  # fmt: skip

FIELDS = [
    between("another field", b'{"body": "a"}', r"no field 'text' \(it has: 'body'\)"),
    between("another case", b'{"Text": "a"}', "no field 'text'"),
    between("a space in the key", b'{"text ": "a"}', "no field 'text'"),
    *(
        between(f"a text that is {raw}", f'{{"text": {raw}}}'.encode(), f"is {kind}, not a string")
        for raw, kind in (("null", "NoneType"), ("3", "int"), ("1.5", "float"), ("false", "bool"),
                          ('["a"]', "list"), ('{"text": "a"}', "dict"), ("[]", "list"))
    ),
    harmless("an empty text", b'{"text": ""}', ""),
    harmless("a text of spaces", b'{"text": " \\t\\n "}', " \t\n "),
    harmless("a text that looks like a path", b'{"text": "../../etc/passwd"}', "../../etc/passwd"),
    harmless("a text that looks like code", b'{"text": "{{ 7 * 7 }} $(id) %s"}', "{{ 7 * 7 }} $(id) %s"),
]  # fmt: skip


def long_line(place: Path) -> None:
    """A line over the limit, of zeros that take no disk."""
    with place.open("wb") as stream:
        stream.write(jsonl(GOOD))
        stream.truncate(100_000_200)
        stream.seek(0, 2)
        stream.write(b"\n" + jsonl(AFTER))


LINES = [
    between("an empty line", b"", "an empty line"),
    between("a line of spaces", b"   ", "an empty line"),
    between("a line of tabs", b"\t\t", "an empty line"),
    between("a line of a carriage return", b"\r", "an empty line"),
    between("a line of no-break spaces", "\u00a0\u2003".encode(), JSON),
    between("a line of U+2028", "\u2028".encode(), JSON),
    harmless("spaces around", b' \t {"text": "a"} \t ', "a"),
    harmless("CR LF", b'{"text": "a\\r\\n"}\r', "a\r\n"),
    between("a form feed around", b'{"text": "a"}\x0c', JSON),
    between("CR alone", b'{"text": "a"}\r{"text": "b"}', "Extra data"),
    Case("a line over the limit", {"rows.jsonl": long_line}, STAY, (("rows.jsonl", 2, "100,000,1.. bytes, more than"),)),
    Case("CR LF everywhere", {"rows.jsonl": jsonl(GOOD, AFTER).replace(b"\n", b"\r\n")}, STAY),
    Case("no line end at the end", {"rows.jsonl": jsonl(GOOD, AFTER)[:-1]}, STAY),
    Case("an empty line at the end", {"rows.jsonl": jsonl(GOOD, AFTER, b"")}, STAY, (("rows.jsonl", 3, "empty"),)),
    Case("an empty line at the start", {"rows.jsonl": jsonl(b"", GOOD)}, STAY[:1], (("rows.jsonl", 1, "empty"),)),
    Case("a BOM at the start", {"rows.jsonl": b"\xef\xbb\xbf" + jsonl(GOOD, AFTER)}, STAY[1:], (("rows.jsonl", 1, "BOM"),)),
    Case("cut in the last line", {"rows.jsonl": jsonl(GOOD, AFTER, GOOD)[:-9]}, STAY, (("rows.jsonl", 3, JSON),)),
    Case("many bad lines", {"rows.jsonl": jsonl(GOOD, *[b"x"] * 300, AFTER)}, STAY, tuple(("rows.jsonl", n, JSON) for n in range(2, 302))),
]  # fmt: skip

CASES = [*BYTES, *CHARACTERS, *NUMBERS, *SHAPES, *FIELDS, *LINES]
