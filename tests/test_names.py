"""Names are addresses: listing imports nothing, finding imports one file, a wrong name is told its neighbour."""

import subprocess
import sys

import pytest

from limbeck import names
from limbeck.errors import RecipeError


@pytest.mark.parametrize("family", names.FAMILIES)
def test_every_member_is_found_under_its_name_and_has_a_line(family):
    for name, line in names.members(family).items():
        found = names.find(family, name)
        assert found.__name__ == name
        assert line.endswith((".", ":")), line
        assert found.__doc__, name


def test_listing_imports_no_torch():
    code = "import sys; from limbeck import names; [names.members(f) for f in names.FAMILIES]; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_options_are_the_keyword_only_parameters():
    found = names.options(names.find("objectives", "forward_kl"))
    assert list(found) == ["temperature", "tail", "scale_t2"]
    assert found["temperature"].annotation is float


def test_a_wrong_name_is_told_its_neighbour():
    with pytest.raises(
        RecipeError, match=r"No 'foward_kl' in limbeck.objectives. Did you mean 'forward_kl'\?"
    ):
        names.find("objectives", "foward_kl")


def test_private_files_are_no_parts():
    assert not any(
        name.startswith("_") for family in names.FAMILIES for name in names.members(family)
    )
    with pytest.raises(RecipeError):
        names.find("objectives", "_kept")
