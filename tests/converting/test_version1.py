"""A cache of format 1 is the same numbers in format 2."""

import shutil

import pytest
import tiny
import tiny_cache
import torch
from safetensors.torch import save_file

from limbeck import files
from limbeck.cache.format import shard_name
from limbeck.cache.read import CacheReader
from limbeck.converting.version1 import version1
from limbeck.errors import CacheMismatch, Damaged

LIBRARIES = {"python": "3.11", "torch": "2.11"}


def old(path, *, rows=5, k=4, floats=torch.float32, vocab=tiny.VOCAB):
    """A cache of two shards as format 1 wrote it; the addresses and what was kept of them."""
    said = {
        "teacher": "a" * 64,
        "tokenizer": "b" * 64,
        "vocab": vocab,
        "k": k,
        "length": tiny_cache.LENGTH,
        "logprobs": str(floats).removeprefix("torch."),
        "version": 1,
    }
    files.write_bytes(
        path / "cache.json",
        files.sealed(said | {"teacher_name": "some/teacher", "libraries": LIBRARIES}),
    )
    identity = files.digest(files.canonical(said))
    kept = tiny_cache.top(3 * tiny.randn(rows * tiny_cache.LENGTH, vocab), k)
    addresses = [f"{row:032x}" for row in range(rows)]
    shape = (rows, tiny_cache.LENGTH, k)
    narrow = torch.uint16 if vocab <= 65_536 else torch.int32
    for begin, end in ((0, 3), (3, rows)):
        shard = path / "shards" / shard_name(addresses[begin:end])
        with files.committed(shard, {"cache": identity}) as partial:
            tensors = {
                "ids": kept.ids.to(narrow).view(shape)[begin:end],
                "logprobs": kept.logprobs.to(floats).view(shape)[begin:end],
                "rest": kept.rest.to(floats).view(shape[:2])[begin:end],
            }
            save_file({n: t.contiguous() for n, t in tensors.items()}, partial / "rows.safetensors")
            rows_of = {"addresses": addresses[begin:end], "tokens": addresses[begin:end]}
            files.write_bytes(partial / "rows.json", files.canonical(rows_of))
    return addresses, kept


@pytest.mark.parametrize("vocab", [tiny.VOCAB, 70_000])
@pytest.mark.parametrize("floats", [torch.float16, torch.float32, torch.float64])
def test_the_numbers_are_those_that_were_recorded(tmp_path, floats, vocab):
    addresses, kept = old(tmp_path / "old", floats=floats, vocab=vocab)
    about = version1(tmp_path / "old", tmp_path / "new")
    reader = CacheReader(tmp_path / "new", about)
    found = tiny_cache.read(reader, addresses)
    assert torch.equal(found.ids, kept.ids)
    assert torch.equal(found.logprobs, kept.logprobs.to(floats))
    assert torch.equal(found.rest, kept.rest.to(floats))
    assert [reader.tokens(address) for address in addresses] == addresses
    assert (about.teacher_name, about.libraries) == ("some/teacher", LIBRARIES)


def test_one_byte_a_number_may_be_asked_for(tmp_path):
    addresses, kept = old(tmp_path / "old")
    about = version1(tmp_path / "old", tmp_path / "new", values="code8")
    found = tiny_cache.read(CacheReader(tmp_path / "new", about), addresses)
    torch.testing.assert_close(
        found.logprobs[:, 0].double(), kept.logprobs[:, 0], atol=0.07, rtol=0
    )


def test_a_conversion_that_was_broken_off_ends_with_the_same_bytes(tmp_path):
    old(tmp_path / "old")
    version1(tmp_path / "old", tmp_path / "whole")
    version1(tmp_path / "old", tmp_path / "again")
    first = sorted((tmp_path / "again" / "shards").iterdir())[0]
    for path in first.iterdir():
        path.unlink()
    first.rmdir()
    version1(tmp_path / "old", tmp_path / "again")
    assert tiny_cache.contents(tmp_path / "again") == tiny_cache.contents(tmp_path / "whole")


def test_another_cache_is_not_added_to(tmp_path):
    old(tmp_path / "old")
    version1(tmp_path / "old", tmp_path / "new")
    with pytest.raises(CacheMismatch, match="values float32, this recipe has values code8"):
        version1(tmp_path / "old", tmp_path / "new", values="code8")


def test_a_changed_byte_is_refused(tmp_path):
    old(tmp_path / "old")
    place = next((tmp_path / "old").glob("shards/*/rows.safetensors"))
    raw = bytearray(place.read_bytes())
    raw[-1] ^= 1
    place.write_bytes(raw)
    with pytest.raises(Damaged, match=r"rows\.safetensors"):
        version1(tmp_path / "old", tmp_path / "new")


def test_a_renamed_shard_is_refused(tmp_path):
    old(tmp_path / "old")
    shard = next((tmp_path / "old" / "shards").iterdir())
    shard.rename(shard.with_name("f" * 32))
    with pytest.raises(Damaged, match="moved or renamed"):
        version1(tmp_path / "old", tmp_path / "new")


def test_what_is_no_cache_of_format_1_is_refused(tmp_path):
    with pytest.raises(CacheMismatch, match="no cache"):
        version1(tmp_path, tmp_path / "new")
    tiny_cache.written(tmp_path / "newer", tiny_cache.about())
    with pytest.raises(CacheMismatch, match="version 2 found; wanted 1"):
        version1(tmp_path / "newer", tmp_path / "new")


def test_a_cache_that_does_not_say_all_is_refused_in_words(tmp_path):
    old(tmp_path / "old")
    place = tmp_path / "old" / "cache.json"
    said = files.parse_sealed(place.read_bytes(), "cache.json")
    short = {key: value for key, value in said.items() if key not in ("k", "sha256")}
    files.write_bytes(place, files.sealed(short))
    with pytest.raises(Damaged, match="says nothing of k;"):
        version1(tmp_path / "old", tmp_path / "new")


def listed(text):
    return lambda shard: (shard / "rows.json").write_text(text)


DAMAGED = {
    "another shape": lambda shard: save_file(
        {"ids": torch.zeros(2, 3)}, shard / "rows.safetensors"
    ),
    "junk": lambda shard: (shard / "rows.safetensors").write_bytes(b"junkjunkjunk"),
    "no tensors": lambda shard: (shard / "rows.safetensors").unlink(),
    "no rows": lambda shard: (shard / "rows.json").unlink(),
    "no addresses": listed('{"tokens": []}'),
    "addresses that are no list": listed('{"addresses": 5, "tokens": []}'),
    "addresses that are no text": listed('{"addresses": [5], "tokens": ["x"]}'),
    "tokens that are no list": listed('{"addresses": ["x"], "tokens": 6}'),
    "fewer tokens": listed('{"addresses": ["x"], "tokens": []}'),
    "a list": listed("[]"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_shard_that_was_sealed_again_is_refused_by_its_file(tmp_path, name):
    old(tmp_path / "old")
    for shard in sorted((tmp_path / "old" / "shards").iterdir()):
        about = files.verify(shard).about
        DAMAGED[name](shard)
        (shard / files.MANIFEST).unlink()
        files.seal(shard, about)
    with pytest.raises(Damaged, match=r"shards/[0-9a-f]{32}/rows\.(json|safetensors)"):
        version1(tmp_path / "old", tmp_path / "new")


def test_a_cache_without_its_shards_is_refused(tmp_path):
    old(tmp_path / "old")
    shutil.rmtree(tmp_path / "old" / "shards")
    with pytest.raises(Damaged, match="old/shards is missing"):
        version1(tmp_path / "old", tmp_path / "new")
    assert not (tmp_path / "new").exists()
