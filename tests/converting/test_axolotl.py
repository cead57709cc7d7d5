"""axolotl's prepared data sets say what stands in them."""

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tiny_foreign

from limbeck.converting.axolotl import samples
from limbeck.errors import DataError


@pytest.mark.parametrize("saved", ["dataset", "parquet"])
def test_samples_are_those_that_were_prepared(tmp_path, saved):
    made = tiny_foreign.samples()
    rows = tiny_foreign.axolotl_rows(made)
    if saved == "dataset":
        datasets.Dataset.from_dict(rows).save_to_disk(str(tmp_path / "x"))
    else:
        pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "x")
    found = list(samples(tmp_path / "x"))
    assert len(found) == len(made)
    for sample, (ids, kept, logs) in zip(found, made, strict=True):
        assert sample.ids.tolist() == ids.tolist()
        assert sample.known.tolist() == [True] * (len(ids) - 1) + [False]
        # Labels 0 and 1 do not count, and a label stands one place before its token.
        assert sample.weights.tolist() == [0] + [1] * (len(ids) - 2) + [0]
        assert (sample.kept == kept).all()
        assert (sample.logprobs[sample.known] == logs[sample.known]).all()


def test_a_data_set_that_is_not_prepared_is_refused(tmp_path):
    table = pyarrow.table({"messages": ["x"], "logprobs": ["y"]})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"messages, logprobs found.*axolotl preprocess"):
        list(samples(tmp_path))


def changed(folder, change, row=2):
    """A prepared data set of which one row of some columns is another."""
    rows = tiny_foreign.axolotl_rows(tiny_foreign.samples())
    for name, value in change.items():
        rows[name][row] = value(rows[name][row])
    pyarrow.parquet.write_table(pyarrow.table(rows), folder / "x.parquet")
    return folder


NARROW = {"narrower": lambda lists: [one[:3] for one in lists], "shorter": lambda one: one[:-2]}
NARROW["longer"] = lambda one: one + one[:1]
PLACES = ("target_token_ids", "target_logprobs", "target_mask")
APART = [(name, how) for name in PLACES for how in NARROW]
APART += [("labels", "shorter"), ("labels", "longer"), ("input_ids", "longer")]


@pytest.mark.parametrize(("name", "how"), APART)
def test_columns_that_disagree_are_refused(tmp_path, name, how):
    place = changed(tmp_path, {name: NARROW[how]})
    with pytest.raises(DataError, match=r"x\.parquet, row 3: .*wanted as many of each"):
        list(samples(place))


@pytest.mark.parametrize("name", ["input_ids", "labels", *PLACES])
def test_null_in_the_place_of_a_list_is_refused(tmp_path, name):
    with pytest.raises(DataError, match=rf"x\.parquet, row 3, column {name}: null found"):
        list(samples(changed(tmp_path, {name: lambda _: None})))


def test_an_empty_sample_is_one_from_which_nothing_is_learnt(tmp_path):
    every = dict.fromkeys(["input_ids", "labels", *PLACES], lambda _: [])
    found = list(samples(changed(tmp_path, every)))
    assert [sample.empty for sample in found] == [False, False, True, False, False, False]
    assert found[2].weights.shape == found[2].known.shape == (0,)


@pytest.mark.parametrize("number", [None, np.nan])
def test_a_probability_that_is_no_number_is_told_and_not_passed_over(tmp_path, number):
    place = changed(
        tmp_path, {"target_logprobs": lambda lists: [[number, *lists[0][1:]], *lists[1:]]}
    )
    sample = list(samples(place))[2]
    assert sample.known[0]
    assert np.isnan(sample.logprobs[0, 0])
