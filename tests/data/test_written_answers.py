"""Invariant 71: prompt, response, category and language come back to the character, and a bad line by its number."""

import json

import pytest
import tiny_chat

from limbeck.errors import DataError

SAID = (
    "```python\nprint('a\\n\\tb')\n```",
    "Zeile 1\r\nZeile 2\n\n\tZeile 4",
    "\u84b8\u7559 \u2028 \u0085 \U0001f468\u200d\U0001f469 e\u0301 \u00e9 \ufeff",
    'He said: "\\u00e9" \\ \x7f \u0000'.replace("\0", ""),
    "```\n````md\n```\ninner\n```\n````\n```",
)
ROWS = [
    {"prompt": f"Say {said}", "response": said, "category": "code", "language": "Python"}
    for said in SAID
]


@pytest.mark.parametrize("escaped", [True, False], ids=["escaped", "as it is"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"], ids=["LF", "CR LF"])
def test_what_was_written_is_what_is_learned(tmp_path, escaped, ending):
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps(row, ensure_ascii=escaped) + ending for row in ROWS]
    path.write_bytes("".join(lines).encode())
    data = tiny_chat.source(tmp_path, str(path), length=160)
    assert tiny_chat.answers(data) == sorted(f"{said}<|im_end|>" for said in SAID)
    whole = tiny_chat.TOKENIZER.decode(data.batch(range(data.rows)).input_ids.flatten())
    for row in ROWS:
        assert f"<|im_start|>user\n{row['prompt']}<|im_end|>" in whole


@pytest.mark.parametrize("number", [1, 3, 6])
def test_a_bad_line_among_them_is_told_by_its_number(tmp_path, number):
    rows = [*ROWS]
    rows.insert(number - 1, {"prompt": "a", "response": 3, "category": "code", "language": "C"})
    with pytest.raises(DataError, match=rf"rows\.jsonl:{number}: int stands where text should"):
        tiny_chat.source(tmp_path, rows)
