"""An unfinished conversion is gone on with by its own input only."""

import pytest
import test_foreign
import tiny_foreign
from test_distillkit import EXACT

from limbeck import files
from limbeck.converting.unfinished import INPUT, begin_or_go_on, digests
from limbeck.errors import CacheMismatch, Damaged


def broken_off(folder, monkeypatch, write):
    """A conversion whose first shard is written, and nothing more."""
    write(folder / "old")
    monkeypatch.setattr("limbeck.converting.foreign.write_rows", test_foreign.broken)
    with pytest.raises(KeyboardInterrupt):
        convert(folder)
    monkeypatch.undo()
    assert len(list((folder / "new" / "cache" / "shards").iterdir())) == 1


def convert(folder):
    return test_foreign.convert("distillkit", folder / "old", folder / "new")


def capture(path, less=0.0):
    made = [(ids, kept, logs - less) for ids, kept, logs in tiny_foreign.samples()]
    if path.exists():
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    tiny_foreign.distillkit(path, made, EXACT)


def test_other_numbers_for_the_same_tokens_are_refused(tmp_path, monkeypatch):
    broken_off(tmp_path, monkeypatch, capture)
    capture(tmp_path / "old", less=1.0)
    with pytest.raises(
        CacheMismatch, match=r"another input: data_0\.parquet had SHA-256.*remove"
    ) as caught:
        convert(tmp_path)
    assert str(digests([tmp_path / "old" / "data_0.parquet"])["data_0.parquet"]) in str(
        caught.value
    )
    assert not (tmp_path / "new" / "rows").exists()


def test_the_same_bytes_go_on_without_a_shard_written_twice(tmp_path, monkeypatch):
    broken_off(tmp_path, monkeypatch, capture)
    (shard,) = (tmp_path / "new" / "cache" / "shards").iterdir()
    written = shard.stat().st_mtime_ns
    capture(tmp_path / "old")
    assert convert(tmp_path).rows == 6
    assert shard.stat().st_mtime_ns == written


def test_another_configuration_is_another_input(tmp_path, monkeypatch):
    broken_off(tmp_path, monkeypatch, capture)
    with (tmp_path / "old" / "compression_config.yaml").open("a") as stream:
        stream.write("normalize_t: true\n")
    with pytest.raises(CacheMismatch, match=r"compression_config\.yaml had SHA-256"):
        convert(tmp_path)


def test_a_file_more_is_another_input(tmp_path, monkeypatch):
    broken_off(tmp_path, monkeypatch, capture)
    raw = (tmp_path / "old" / "data_0.parquet").read_bytes()
    (tmp_path / "old" / "data_2.parquet").write_bytes(raw)
    with pytest.raises(CacheMismatch, match=r"data_2\.parquet had SHA-256 none"):
        convert(tmp_path)


def test_a_saved_dataset_is_known_by_its_bytes(tmp_path, monkeypatch):
    made = tiny_foreign.samples()
    test_foreign.prepared(tmp_path / "old", made)
    new = tmp_path / "new"
    monkeypatch.setattr("limbeck.converting.foreign.write_rows", test_foreign.broken)
    with pytest.raises(KeyboardInterrupt):
        test_foreign.convert("axolotl", tmp_path / "old", new)
    monkeypatch.undo()
    test_foreign.prepared(tmp_path / "other", [(i, k, logs - 1.0) for i, k, logs in made])
    with pytest.raises(CacheMismatch, match="another input: data-00000"):
        test_foreign.convert("axolotl", tmp_path / "other", new)
    assert test_foreign.convert("axolotl", tmp_path / "old", new).rows == 6


def test_shards_of_an_unknown_input_are_refused(tmp_path, monkeypatch):
    broken_off(tmp_path, monkeypatch, capture)
    (tmp_path / "new" / INPUT).unlink()
    with pytest.raises(CacheMismatch, match=rf"no {INPUT}: of which input it is, is unknown"):
        convert(tmp_path)


def test_a_record_that_says_nothing_is_refused(tmp_path):
    files.write_bytes(tmp_path / INPUT, files.sealed({}))
    with pytest.raises(Damaged, match="says nothing of files"):
        begin_or_go_on(tmp_path, tmp_path / "shards", {})
