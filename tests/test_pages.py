"""Memory that was freed is there at once for the next step, or goes back at once where that is asked for."""

import json
import subprocess
import sys

import pytest

from limbeck import pages

STEPS = """
import json, os, resource, sys
from limbeck import pages

if not getattr(pages, sys.argv[1])():
    sys.exit(77)
def resident():
    with open('/proc/self/statm') as status:
        return int(status.read().split()[1]) * os.sysconf('SC_PAGE_SIZE') // 2**20


def step():
    held = [b'.' * (8 * 2**20) for _ in range(10)]  # freed at once


before = resident()
step()
step()
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
print(json.dumps({'faults': faults, 'kept': resident() - before}))
"""


def after_three_steps(policy: str) -> dict[str, int]:
    """Page faults of the third of three steps that take and free 80 MiB, and MiB that the process keeps."""
    done = subprocess.run(
        [sys.executable, "-c", STEPS, policy], capture_output=True, text=True, check=False
    )
    if done.returncode == 77:
        pytest.skip("another C library than glibc")
    found: dict[str, int] = json.loads(done.stdout)
    return found


def test_large_blocks_come_without_page_faults_the_second_time():
    found = after_three_steps("keep")
    assert found["faults"] < 1000
    assert found["kept"] >= 80


def test_large_blocks_go_back_when_they_are_freed():
    assert after_three_steps("give_back")["kept"] < 8


def test_freed_memory_is_returned_where_that_is_asked_for():
    assert pages.trim() == sys.platform.startswith("linux")
