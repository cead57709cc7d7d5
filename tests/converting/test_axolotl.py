"""axolotl's prepared data sets say what stands in them."""

import datasets
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
