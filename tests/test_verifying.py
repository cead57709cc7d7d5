"""Every committed folder is checked again, and every damaged one is named."""

import pytest
import tiny_cache

from limbeck import files
from limbeck.cache.format import write_about
from limbeck.errors import Damaged, LimbeckError
from limbeck.verifying import verify


@pytest.fixture
def place(tmp_path):
    for name in ("one", "deep/two", "deep/three"):
        with files.committed(tmp_path / name) as partial:
            (partial / "text").write_text(name)
            (partial / "more").write_bytes(bytes(100))
    return tmp_path


def test_folders_files_and_bytes_are_counted(place):
    said = verify(place)
    assert said.startswith("3 committed folders, 6 files, 321 bytes")
    assert verify(place / "deep").startswith("2 committed folders, 4 files")


def test_every_damaged_file_is_named_and_not_only_the_first(place):
    (place / "one/text").write_text("eno")
    (place / "deep/two/more").unlink()
    with pytest.raises(Damaged, match="2 damaged, of 3 committed folders") as caught:
        verify(place)
    assert f"{place}/one/text" in str(caught.value)
    assert f"{place}/deep/two/more is missing" in str(caught.value)


def test_a_manifest_in_a_committed_folder_need_be_none_of_ours(place):
    with files.committed(place / "mirror") as partial:
        (partial / "app").mkdir()
        (partial / "app/manifest.json").write_text('{"name": "an app"}')
    assert verify(place).startswith("4 committed folders, 7 files")


def test_what_a_killed_process_left_half_written_is_not_looked_at(place):
    left = place / ".partial-1-00000000-four"
    left.mkdir()
    (left / "manifest.json").write_text("{")
    assert verify(place).startswith("3 committed folders")


def test_what_a_cache_says_of_itself_is_checked_too(place):
    with files.committed(place / "cache/shards/x") as partial:
        (partial / "text").write_text("x")
    write_about(place / "cache", tiny_cache.about())
    verify(place)
    raw = (place / "cache/cache.json").read_bytes()
    (place / "cache/cache.json").write_bytes(raw.replace(b'"k":5', b'"k":6'))
    with pytest.raises(Damaged, match=r"cache/cache\.json"):
        verify(place)


def test_a_folder_with_nothing_committed_is_no_success(tmp_path):
    with pytest.raises(LimbeckError, match="holds nothing committed"):
        verify(tmp_path)
    with pytest.raises(LimbeckError, match="There is no folder"):
        verify(tmp_path / "nowhere")
