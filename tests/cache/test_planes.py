"""Planes come back as they were written, and pieces take what belongs to their tokens."""

import subprocess
import sys

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load_file

from limbeck import files
from limbeck.cache import planes
from limbeck.errors import Damaged

MANY = {
    "bytes": np.arange(7, dtype=np.uint8),
    "signed": np.arange(-3, 3, dtype=np.int8).reshape(2, 3),
    "ids": np.arange(5, dtype=np.uint16),
    "halves": np.linspace(0, 1, 4).astype(np.float16),
    "floats": np.linspace(0, 1, 4).astype(np.float32),
    "doubles": np.linspace(0, 1, 3),
    "starts": np.array([0, 2**40], np.uint64),
    "empty": np.zeros((0, 4), np.uint8),
}


def test_planes_are_read_as_written_and_by_every_reader_of_safetensors(tmp_path):
    planes.write(tmp_path / "x", MANY)
    for found in (planes.mapped(tmp_path / "x"), load_file(tmp_path / "x")):
        assert set(found) == set(MANY)
        for name, plane in MANY.items():
            assert found[name].dtype == plane.dtype
            np.testing.assert_array_equal(found[name], plane)


def test_mapped_planes_cannot_be_written_to(tmp_path):
    planes.write(tmp_path / "x", MANY)
    with pytest.raises(ValueError, match="read-only"):
        planes.mapped(tmp_path / "x")["bytes"][0] = 1


@pytest.mark.parametrize(
    "bytes_",
    [b"", b"\x01", b"\xff" * 40, b"\x02\0\0\0\0\0\0\0[]", b"\x08" + b"\0" * 7 + b'{"a": 1}'],
)
def test_what_holds_no_planes_is_refused_by_name(tmp_path, bytes_):
    (tmp_path / "x").write_bytes(bytes_)
    with pytest.raises(Damaged, match="no planes"):
        planes.mapped(tmp_path / "x")


def test_a_piece_takes_its_tokens_and_those_of_them_that_are_chosen():
    values, chosen = np.arange(10), np.array([True, False, True])
    whole = planes.Piece({}, 0, 4, 7, None, 0)
    some = planes.Piece({}, 0, 4, 7, chosen, 0)
    assert whole.take(values).tolist() == [4, 5, 6]
    assert some.take(values).tolist() == [4, 6]


def test_a_piece_picks_all_values_of_a_chosen_token():
    some = planes.Piece({}, 0, 0, 3, np.array([True, False, True]), 0)
    counts = np.array([2, 3, 1], np.uint8)
    assert some.pick(np.arange(6), counts).tolist() == [0, 1, 5]


def test_rows_begin_where_the_values_of_the_tokens_before_end():
    counts, tokens = np.array([2, 0, 3, 255, 255], np.uint8), np.array([0, 2, 2, 5])
    assert planes.starts(counts, tokens).tolist() == [0, 2, 2, 515]


WRITES = """
import errno, resource, sys
from pathlib import Path
import numpy as np
from limbeck.cache import planes
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    planes.write(Path(sys.argv[1]), {"ids": np.zeros(100_000, "u1")})
except OSError as reason:
    assert (reason.errno, reason.filename) == (errno.EFBIG, sys.argv[1]), reason
    print("told")
"""


def test_a_file_for_which_there_is_no_room_is_an_error_of_the_system(tmp_path):
    words = [sys.executable, "-c", WRITES, str(tmp_path / "a.safetensors")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.stdout == "told\n", done.stderr


def test_an_error_that_is_not_the_systems_stays_the_librarys(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"")
    with pytest.raises(SafetensorError), files.written_by(SafetensorError, path):
        load_file(path)
