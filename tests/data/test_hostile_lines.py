"""A hostile line of JSON is named or set aside, alone; see hostile.py for what a case says."""

import hostile
import pytest
from hostile_lines import CASES

pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_hostile_line_stops_the_work_by_its_place_or_is_kept_as_it_is(tmp_path, case):
    hostile.stops(case, tmp_path)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_hostile_line_alone_is_set_aside(tmp_path, case):
    hostile.sets_aside(case, tmp_path)
