"""What another tool recorded is served to the very tokens that it was recorded for."""

import datasets
import numpy as np
import pytest
import tiny_foreign
import torch
from test_distillkit import EXACT

from limbeck.cache.read import CacheReader
from limbeck.converting.foreign import foreign
from limbeck.data.rows import open_rows
from limbeck.errors import DataError, LimbeckError
from limbeck.sources.packed import packed
from limbeck.teachers.cached import cached
from limbeck.types import Wanted

GIVEN = {"teacher": "some/teacher"}


def convert(tool, path, new, **options):
    return foreign(tool, path, new, tokenizer=tiny_foreign.tokenizer(), **GIVEN | options)


def prepared(path, made, **how):
    datasets.Dataset.from_dict(tiny_foreign.axolotl_rows(made, **how)).save_to_disk(str(path))


def served(new, **options):
    """The source and the teacher of a recipe."""
    source = packed(tiny_foreign.tokenizer(), path=str(new / "rows"), shuffled=False)
    about = {"kind": "topk+rest", "k": 8, "values": "float32"} | options
    return source, cached(path=str(new / "cache"), **about)


@pytest.mark.parametrize("tool", ["distillkit", "axolotl", "axolotl, own"])
def test_each_token_that_counts_has_what_was_said_of_it(tmp_path, tool):
    made = tiny_foreign.samples()
    if tool == "distillkit":
        tiny_foreign.distillkit(tmp_path / "old", made, EXACT)
    else:
        prepared(tmp_path / "old", made, own=tool.endswith("own"))
    done = convert(tool.partition(",")[0], tmp_path / "old", tmp_path / "new")
    source, teacher = served(tmp_path / "new")
    assert done.rows == source.rows == 6
    assert done.tokens == sum(len(ids) - 1 for ids, _, _ in made)
    assert source.length == max(len(ids) for ids, _, _ in made) - 1
    for row, (ids, kept, logs) in enumerate(made):
        batch = source.batch([row])
        places = len(ids) - 1
        assert batch.input_ids[0, :places].tolist() == ids[:-1].tolist()
        assert batch.labels[0, :places].tolist() == ids[1:].tolist()
        assert (batch.weights[0, places:] == 0).all()
        counted = batch.counted.numpy()
        assert counted.tolist() == list(range(0 if tool == "distillkit" else 1, places))
        found = teacher.signal(batch, Wanted()).topk
        assert (found.ids.numpy() == kept[counted]).all()
        assert np.abs(found.logprobs.numpy() - logs[counted]).max() < 1e-5
        whole = found.logprobs.exp().sum(1) + found.rest.exp()
        torch.testing.assert_close(whole, torch.ones(len(counted)), atol=1e-5, rtol=0)


def test_padding_is_a_document_of_its_own(tmp_path):
    made = tiny_foreign.samples()
    tiny_foreign.distillkit(tmp_path / "old", made, EXACT)
    convert("distillkit", tmp_path / "old", tmp_path / "new")
    rows = open_rows(tmp_path / "new" / "rows")
    short = min(range(6), key=lambda row: len(made[row][0]))
    tokens = len(made[short][0])
    batch = rows.batch([short], (0,))
    assert batch.document_ids[0].tolist() == [0] * tokens + [1] * (rows.length - tokens)
    assert batch.position_ids[0].tolist() == [*range(tokens), *range(rows.length - tokens)]


def test_label_bytes_are_those_of_the_text(tmp_path):
    made = tiny_foreign.samples()
    tiny_foreign.distillkit(tmp_path / "old", made, EXACT)
    convert("distillkit", tmp_path / "old", tmp_path / "new")
    batch = open_rows(tmp_path / "new" / "rows").batch(range(6), (0,) * 6)
    names = tiny_foreign.tokenizer().convert_ids_to_tokens
    # Byte-level tokens are spelled with one character a byte.
    expected = sum(len(name) for ids, _, _ in made for name in names(ids[1:].tolist()))
    assert int(batch.label_bytes.sum()) == expected


def test_places_that_make_no_sense_do_not_count(tmp_path):
    made = tiny_foreign.samples()
    made[0][2][1] = -np.inf
    made[1][1][0, 1] = made[1][1][0, 0]
    tiny_foreign.distillkit(tmp_path / "old", made, EXACT)
    done = convert("distillkit", tmp_path / "old", tmp_path / "new")
    assert done.lost == 2
    source, _ = served(tmp_path / "new")
    weights = source.batch([0, 1]).weights
    assert weights[0, :3].tolist() == [1, 0, 1]
    assert weights[1, :2].tolist() == [0, 1]


def test_what_rounding_puts_above_one_is_scaled_to_it(tmp_path):
    made = tiny_foreign.samples()
    for _, _, logs in made:
        logs -= np.log(np.exp(logs).sum(1, keepdims=True)) - 0.005
    tiny_foreign.distillkit(tmp_path / "old", made, EXACT)
    convert("distillkit", tmp_path / "old", tmp_path / "new")
    source, teacher = served(tmp_path / "new")
    found = teacher.signal(source.batch([0]), Wanted()).topk
    torch.testing.assert_close(
        found.logprobs.exp().sum(1), torch.ones(len(found.ids)), atol=1e-5, rtol=0
    )
    assert (found.rest == -torch.inf).all()


def test_a_place_whose_ids_have_no_probability_left_is_all_rest(tmp_path):
    made = tiny_foreign.samples()
    made[0][2][1] = -1e4
    tiny_foreign.distillkit(tmp_path / "old", made, EXACT)
    convert("distillkit", tmp_path / "old", tmp_path / "new")
    source, teacher = served(tmp_path / "new")
    assert teacher.signal(source.batch([0]), Wanted()).topk.rest[1] == 0


@pytest.mark.parametrize("more", [3.0, 1e4])
def test_logits_are_no_probabilities_and_are_refused(tmp_path, more):
    made = tiny_foreign.samples()
    for _, _, logs in made:
        logs += more
    tiny_foreign.distillkit(tmp_path / "old", made, EXACT)
    with pytest.raises(DataError, match=r"more than 1\.01 at 47 of 47 places; wanted 1 at most"):
        convert("distillkit", tmp_path / "old", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_one_place_of_many_that_has_too_much_probability_does_not_count(tmp_path):
    made = tiny_foreign.samples(count=20)
    made[0][2][1] += 3.0
    tiny_foreign.distillkit(tmp_path / "old", made, EXACT)
    assert convert("distillkit", tmp_path / "old", tmp_path / "new").lost == 1
    source, _ = served(tmp_path / "new")
    assert source.batch([0]).weights[0, :3].tolist() == [1, 0, 1]


def test_a_sample_that_stands_twice_is_kept_once(tmp_path):
    made = tiny_foreign.samples()
    tiny_foreign.distillkit(tmp_path / "old", [*made, made[2]], EXACT)
    done = convert("distillkit", tmp_path / "old", tmp_path / "new")
    assert (done.rows, done.twice) == (6, 1)


@pytest.mark.parametrize("at", [0, 3, 6])
@pytest.mark.parametrize("tool", ["distillkit", "axolotl"])
def test_samples_from_which_nothing_is_learnt_are_passed_over_and_counted(tmp_path, tool, at):
    made = tiny_foreign.samples()
    if tool == "distillkit":
        one = (np.array([5]), np.zeros((0, 8), int), np.zeros((0, 8)))
        tiny_foreign.distillkit(tmp_path / "old", [*made[:at], one, *made[at:]], EXACT)
    else:
        rows = tiny_foreign.axolotl_rows(made)
        for column in rows.values():
            column.insert(at, [])
        datasets.Dataset.from_dict(rows).save_to_disk(str(tmp_path / "old"))
    done = convert(tool, tmp_path / "old", tmp_path / "new")
    assert (done.rows, done.k, done.passed_over) == (6, 8, 1)
    assert done.tokens == sum(len(ids) - 1 for ids, _, _ in made)


def test_a_mask_of_noughts_is_refused(tmp_path):
    rows = tiny_foreign.axolotl_rows(tiny_foreign.samples())
    rows["target_mask"] = [[[0] * len(one) for one in lists] for lists in rows["target_mask"]]
    datasets.Dataset.from_dict(rows).save_to_disk(str(tmp_path / "old"))
    with pytest.raises(DataError, match="of which anything is known; 6 samples found"):
        convert("axolotl", tmp_path / "old", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_capture_of_which_every_place_makes_no_sense_is_refused(tmp_path):
    made = tiny_foreign.samples()
    for _, _, logs in made:
        logs[:, -1] = -np.inf
    tiny_foreign.distillkit(tmp_path / "old", made, EXACT)
    with pytest.raises(DataError, match="0 tokens are known, and 47 places made no sense"):
        convert("distillkit", tmp_path / "old", tmp_path / "new")
    assert not (tmp_path / "new" / "rows").exists()


@pytest.mark.parametrize("wrong", [-5, 320, 1_000_000])
def test_the_id_that_is_wrong_is_named_with_its_row(tmp_path, wrong):
    rows = tiny_foreign.axolotl_rows(tiny_foreign.samples())
    rows["input_ids"][2][3] = wrong
    datasets.Dataset.from_dict(rows).save_to_disk(str(tmp_path / "old"))
    with pytest.raises(
        DataError, match=f"old, row 3: id {wrong:,} found; the tokenizer has 0 to 319"
    ):
        convert("axolotl", tmp_path / "old", tmp_path / "new")


def test_a_conversion_that_was_broken_off_goes_on(tmp_path, monkeypatch):
    tiny_foreign.distillkit(tmp_path / "old", tiny_foreign.samples(), EXACT)
    convert("distillkit", tmp_path / "old", tmp_path / "whole")
    monkeypatch.setattr("limbeck.converting.foreign.write_rows", broken)
    with pytest.raises(KeyboardInterrupt):
        convert("distillkit", tmp_path / "old", tmp_path / "new")
    monkeypatch.undo()
    convert("distillkit", tmp_path / "old", tmp_path / "new")
    for part in ("rows", "cache/shards"):
        files = [
            sorted(p.read_bytes() for p in (tmp_path / n / part).rglob("*.bin"))
            for n in ("new", "whole")
        ]
        assert files[0] == files[1]
    assert len(CacheReader(tmp_path / "new" / "cache")) == 6


def broken(folder, rows, **options):
    """The power goes after the first shard."""
    next(iter(rows))
    raise KeyboardInterrupt


def test_ids_of_another_tokenizer_are_refused(tmp_path):
    tiny_foreign.distillkit(tmp_path / "old", tiny_foreign.samples(vocab=400), EXACT | {"d": 400})
    with pytest.raises(DataError, match="the tokenizer has"):
        convert("distillkit", tmp_path / "old", tmp_path / "new")


def test_a_cache_whose_ids_do_not_fit_its_tokens_is_refused(tmp_path):
    made = [(ids, kept[::-1], logs) for ids, kept, logs in tiny_foreign.samples()]
    tiny_foreign.distillkit(tmp_path / "old", made, EXACT)
    with pytest.raises(DataError, match="of 100 places"):
        convert("distillkit", tmp_path / "old", tmp_path / "new")


def test_a_folder_that_is_there_is_not_written_over(tmp_path):
    tiny_foreign.distillkit(tmp_path / "old", tiny_foreign.samples(), EXACT)
    convert("distillkit", tmp_path / "old", tmp_path / "new")
    with pytest.raises(LimbeckError, match="exists already"):
        convert("distillkit", tmp_path / "old", tmp_path / "new")
