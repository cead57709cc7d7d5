"""DistillKit's captures say what was coded."""

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tiny_foreign
import yaml

from limbeck.converting.distillkit import CONFIG, decoded, samples, unpacked
from limbeck.errors import DataError

EXACT = {
    "d": 320,
    "k": 8,
    "exact_k": 8,
    "exact_dtype": "float32",
    "polynomial_terms": None,
    "term_dtype": "float32",
    "residual_bins": [],
    "delta_encoding": False,
}
CURVE = EXACT | {"exact_k": 3, "exact_dtype": "bfloat16", "polynomial_terms": [0, 1, 2, "sqrt"]}
FINE = [
    {"scale_dtype": "float32", "element_bits": 11, "num_elements": 3},
    {"scale_dtype": "float32", "element_bits": 7, "num_elements": 2},
]
CONFIGS = {
    "all exact": (EXACT, 1e-6),
    "exact in half precision": (EXACT | {"exact_dtype": "float16"}, 1e-2),
    "as differences": (EXACT | {"delta_encoding": True}, 1e-5),
    "a curve": (CURVE, 1.0),
    "a curve over 0 to 1": (CURVE | {"normalize_t": True, "polynomial_terms": [0, 1, "exp"]}, 1.5),
    "a curve through every point": (CURVE | {"polynomial_terms": [0, 1, 2, 3, 4], "term_dtype": "float64"}, 0.05),
    "a curve and what is left": (CURVE | {"residual_bins": FINE, "exact_dtype": "float64"}, 0.02),
    "bins alone": (EXACT | {"exact_k": 3, "residual_bins": FINE}, 0.1),
}  # fmt: skip


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_samples_are_those_that_were_captured(tmp_path, name, last):
    config, tolerance = CONFIGS[name]
    made = tiny_foreign.samples()
    tiny_foreign.distillkit(tmp_path / "x", made, config, last=last)
    found = list(samples(tmp_path / "x"))
    assert len(found) == len(made)
    for sample, (ids, kept, logs) in zip(found, made, strict=True):
        assert sample.ids.tolist() == ids.tolist()
        assert sample.known.tolist() == [True] * (len(ids) - 1) + [last]
        assert sample.weights.tolist() == [1] * (len(ids) - 1) + [0]
        assert (sample.kept[sample.known] == kept[sample.known]).all()
        assert np.abs(sample.logprobs - logs)[sample.known].max() <= tolerance


def test_one_bit_is_a_sign():
    config = EXACT | {
        "k": 2,
        "exact_k": 0,
        "residual_bins": [{"scale_dtype": "float32", "element_bits": 1, "num_elements": 2}],
    }
    coded = np.array([[*np.float32(3).tobytes(), 0b10000000]], np.uint8)
    assert decoded(coded, config | {"normalize_t": False}).tolist() == [[3, -3]]


@pytest.mark.parametrize("bits", [1, 3, 8, 16, 17, 18])
def test_numbers_of_any_size_are_unpacked(bits):
    numbers = np.random.default_rng(0).integers(0, 1 << bits, (5, 7))
    found = unpacked(np.array([tiny_foreign.packed(row, bits) for row in numbers]), bits, 7)
    assert found.tolist() == numbers.tolist()


@pytest.mark.parametrize(
    "change", [{"exact_k": 7, "polynomial_terms": [0]}, {"k": 9, "exact_k": 9}], ids=str
)
def test_a_capture_that_was_coded_otherwise_is_refused(tmp_path, change):
    tiny_foreign.distillkit(tmp_path / "x", tiny_foreign.samples(), EXACT)
    changed = EXACT | change | ({"exact_dtype": "float16"} if "polynomial_terms" in change else {})
    (tmp_path / "x" / CONFIG).write_text(yaml.safe_dump(changed))
    with pytest.raises(DataError, match="coded otherwise"):
        list(samples(tmp_path / "x"))


@pytest.mark.parametrize("k", [7, 9])
def test_ids_of_another_number_of_bytes_are_refused_with_both(tmp_path, k):
    tiny_foreign.distillkit(tmp_path / "x", tiny_foreign.samples(vocab=256), EXACT | {"d": 256})
    (tmp_path / "x" / CONFIG).write_text(yaml.safe_dump(EXACT | {"d": 256, "k": k, "exact_k": k}))
    with pytest.raises(
        DataError,
        match=rf"data_0\.parquet, row 1: 8 bytes found where {k} numbers .* take {k}: .*{CONFIG}",
    ):
        list(samples(tmp_path / "x"))


IMPOSSIBLE = [
    {"d": 0},
    {"d": "x"},
    {"d": True},
    {"k": -1},
    {"k": 3.0},
    {"k": 321},
    {"exact_k": 9},
    {"exact_dtype": "int8"},
    {"term_dtype": ["float32"]},
    {"polynomial_terms": ["cos"]},
    {"polynomial_terms": [-1]},
    {"polynomial_terms": 2},
    {"residual_bins": [{}]},
    {"residual_bins": 5},
    {"residual_bins": [{"scale_dtype": "float32", "element_bits": 8, "num_elements": 1}]},
    {"delta_encoding": "no"},
]


@pytest.mark.parametrize("change", IMPOSSIBLE, ids=str)
def test_an_impossible_configuration_is_refused_by_its_key(tmp_path, change):
    tiny_foreign.distillkit(tmp_path / "x", tiny_foreign.samples(), EXACT)
    (tmp_path / "x" / CONFIG).write_text(yaml.safe_dump(EXACT | change, sort_keys=False))
    ((name, value),) = change.items()
    with pytest.raises(DataError) as caught:
        list(samples(tmp_path / "x"))
    assert f"{CONFIG}: {name} {value!r} found; wanted" in str(caught.value)


@pytest.mark.parametrize("text", [b"a: [", b"!!python/tuple [1]", b"\xff\xfe\x00", b"a: \x00"])
def test_a_configuration_that_is_no_yaml_is_refused_by_name(tmp_path, text):
    tiny_foreign.distillkit(tmp_path / "x", tiny_foreign.samples(), EXACT)
    (tmp_path / "x" / CONFIG).write_bytes(text)
    with pytest.raises(DataError, match=rf"{CONFIG}: not readable as YAML"):
        list(samples(tmp_path / "x"))


def test_a_capture_without_its_configuration_is_refused(tmp_path):
    tiny_foreign.distillkit(tmp_path / "x", tiny_foreign.samples(), EXACT)
    (tmp_path / "x" / CONFIG).unlink()
    with pytest.raises(DataError, match=r"compression_config\.yaml is missing"):
        list(samples(tmp_path / "x"))


def raw(place, made, **change):
    """A capture of raw ids and values, of which some columns are others."""
    columns = {
        "input_ids": [ids.tolist() for ids, _, _ in made],
        "token_ids": [kept.tolist() for _, kept, _ in made],
        "top_values": [logs.tolist() for _, _, logs in made],
    }
    pyarrow.parquet.write_table(pyarrow.table(columns | change), place)
    return place


def test_raw_likeliest_ids_need_no_configuration(tmp_path):
    made = tiny_foreign.samples()
    found = list(samples(raw(tmp_path / "x.parquet", made)))
    assert (found[2].logprobs == made[2][2]).all()


@pytest.mark.parametrize("at", [0, 3, 6])
@pytest.mark.parametrize("coded", [False, True])
def test_a_sample_of_one_token_is_one_from_which_nothing_is_learnt(tmp_path, at, coded):
    made = tiny_foreign.samples()
    made.insert(at, (np.array([5]), np.zeros((0, 8), int), np.zeros((0, 8))))
    if coded:
        tiny_foreign.distillkit(tmp_path / "x", made, EXACT)
    else:
        raw(tmp_path / "x", made)
    found = list(samples(tmp_path / "x"))
    assert [sample.empty for sample in found] == [number == at for number in range(7)]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("token_ids", lambda lists: [one[:5] for one in lists]),
        ("top_values", lambda lists: [one[:5] for one in lists]),
        ("top_values", lambda lists: lists[:-3]),
        ("labels", lambda one: one[:2]),
        ("labels", lambda one: [*one, 7]),
    ],
)
def test_columns_that_disagree_are_refused_by_their_row(tmp_path, name, change):
    made = tiny_foreign.samples()
    number = {"token_ids": 1, "top_values": 2}.get(name, 0)
    column = [sample[number].tolist() for sample in made]
    column[1] = change(column[1])
    with pytest.raises(DataError, match=r"x\.parquet, row 2: .*wanted"):
        list(samples(raw(tmp_path / "x.parquet", made, **{name: column})))


def test_numbers_that_are_no_bytes_are_refused(tmp_path):
    columns = {"input_ids": [[1, 2]], "compressed_logprobs": [[[300] * 32]]}
    columns["bytepacked_indices"] = [[[0] * 9]]
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet")
    (tmp_path / CONFIG).write_text(yaml.safe_dump(EXACT))
    told = r"row 1, column compressed_logprobs: 300 to 300 found; wanted bytes"
    with pytest.raises(DataError, match=told):
        list(samples(tmp_path))


def test_the_older_layout_is_refused_by_name(tmp_path):
    columns = {"input_ids": [[1]], "packed_indices": [[[1]]], "exact_values": [[[1.0]]]}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="older layout"):
        list(samples(tmp_path))
