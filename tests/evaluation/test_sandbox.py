"""The lock: what comes of programs, that it is tried before it is trusted, and that whoever starts it may be ended at any moment."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from tiny_jail import Watch, alive, copied, readable

from limbeck.errors import LimbeckError
from limbeck.evaluation import _sandbox
from limbeck.evaluation._sandbox import Limits, Outcome

HERE = Path(__file__).parents[2]
SYSTEM = Path("/usr/bin/python3")
LARGE = shutil.ignore_patterns(
    "site-packages", "dist-packages", "test", "tests", "config-*", "__pycache__"
)


@pytest.fixture(scope="module", autouse=True)
def _lockable():
    try:
        _sandbox.check("namespaces")
    except LimbeckError as reason:
        pytest.skip(str(reason))


def test_a_program_that_comes_to_its_end_has_passed():
    assert _sandbox.run("import math\nassert math.comb(4, 2) == 6", Limits()) == Outcome("passed")
    assert _sandbox.run("import __main__\nassert __name__ == '__main__'", Limits()).kind == "passed"
    assert _sandbox.run("", Limits()).kind == "passed"
    assert _sandbox.run("é = '\\ud800'\nassert len('✓') == 1", Limits()).kind == "passed"


def test_a_failure_tells_the_exception_and_its_line():
    found = _sandbox.run("def f(x):\n    assert x > 1, 'small'\n\nf(0)\n", Limits())
    said = "AssertionError: small (line 2: assert x > 1, 'small')"
    assert found == Outcome("failed", said)
    assert str(_sandbox.run("x = (", Limits())) == "failed: SyntaxError: '(' was never closed (<program>, line 1) (line 1: x = ()"  # fmt: skip
    assert _sandbox.run("import numpy", Limits()).reason.startswith("ModuleNotFoundError")


def test_computing_and_waiting_have_limits_of_their_own():
    program = "import time\ntime.sleep(1.5)\nx = sum(range(10**6))"
    assert _sandbox.run(program, Limits(cpu_seconds=1)).kind == "passed"
    found = _sandbox.run("while True:\n    pass", Limits(cpu_seconds=1, wall_seconds=30))
    assert found == Outcome("timed out", "1 s of computing")


def test_many_programs_answer_in_their_order_side_by_side():
    texts = [f"import time\ntime.sleep({0.3 if n == 0 else 0})\nassert {n} % 3" for n in range(12)]
    found = _sandbox.run_all(texts, Limits(), isolation="namespaces")
    assert [one.kind for one in found] == ["passed" if n % 3 else "failed" for n in range(12)]
    assert _sandbox.run_all([], Limits(), isolation="namespaces") == []


def started(mark):
    """A process that runs six sleeping programs, once one of them runs."""
    code = (
        # A shell that starts this in its background has Ctrl-C ignored, here as well.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from limbeck.evaluation import _sandbox as s\n"
        f"s.run_all(['import time; time.sleep(60)'] * 6, s.Limits(wall_seconds=60), isolation='namespaces', name={mark!r})"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=HERE, env=os.environ | {"PYTHONPATH": str(HERE)},
        stderr=subprocess.PIPE,
    )  # fmt: skip
    workers = min(len(os.sched_getaffinity(0)), 6)
    ends = time.monotonic() + 20
    # Of each: the first process, the keeper and the program; and the one that starts them.
    while len(alive(mark)) < 3 * workers + 1 and time.monotonic() < ends:
        time.sleep(0.05)
    assert len(alive(mark)) >= 3 * workers + 1
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whoever_starts_them_is_ended_and_they_end_too(number):
    mark = Watch().mark
    process = started(mark)
    process.send_signal(number)
    process.wait(10)
    process.stderr.close()
    ends = time.monotonic() + 5
    while alive(mark) and time.monotonic() < ends:
        time.sleep(0.05)
    assert alive(mark) == []


def in_a_process(code, python=sys.executable, **how):
    path = how.pop("path", HERE)
    return subprocess.run(
        [str(python), "-B", "-c", code], env={"PYTHONPATH": str(path)}, capture_output=True, text=True, check=False,
        cwd="/", **how,
    )  # fmt: skip


def test_where_the_lock_cannot_be_had_it_is_refused_and_never_weaker():
    """A filter of ours bars namespaces, as many containers do."""
    code = """
import ctypes, struct
from limbeck.errors import LimbeckError
from limbeck.evaluation import _sandbox, _syscalls
steps = _syscalls.filter_of(alone=False)
held = ctypes.create_string_buffer(steps, len(steps))
program = struct.pack("=HxxxxxxQ", len(steps) // 8, ctypes.addressof(held))
prctl = ctypes.CDLL(None).prctl
assert prctl(38, ctypes.c_ulong(1), 0, 0, 0) == 0
assert prctl(22, ctypes.c_ulong(2), ctypes.create_string_buffer(program, 16), 0, 0) == 0
for tried in (lambda: _sandbox.check("namespaces"), lambda: _sandbox.run("x = 1", _sandbox.Limits())):
    try:
        print(tried())
    except LimbeckError as reason:
        print(reason)
"""
    done = in_a_process(code)
    first, second = done.stdout.splitlines()
    for told in (first, second):
        assert "cannot be locked in here: unshare: Operation not permitted" in told, done.stderr
        assert "--cap-add SYS_ADMIN" in told
        assert "--isolation syscalls" in told


def test_a_python_that_only_root_may_read_is_refused_behind_the_filter_alone():
    parents = Path(sys.executable).resolve().parents
    if os.geteuid() or all(path.stat().st_mode & 0o001 for path in parents):
        pytest.skip("this Python may be read by all, or this is not root")
    with pytest.raises(LimbeckError, match=r"only root may look into /.*, where this Python lies"):
        _sandbox.check("syscalls")


@pytest.mark.parametrize("inner", ["", "nested/deep"])
def test_a_python_below_tmp_is_shown_inside_and_cannot_be_written_to(inner):
    version = "python{}.{}".format(*sys.version_info)
    library = Path(os.__file__).parent
    place = Path(tempfile.mkdtemp(dir="/tmp"))
    python = place / inner / "bin" / version
    try:
        (place / inner / "lib").mkdir(parents=True)
        python.parent.mkdir()
        shutil.copy(Path(sys.executable).resolve(), python)
        shutil.copytree(library, place / inner / "lib" / version, ignore=LARGE)
        readable(place)
        code = f"""
import os, sys
os.chdir({str(place)!r})
from limbeck.evaluation import _sandbox as s
assert sys.base_prefix == {str(place / inner)!r}, sys.base_prefix
s.check("namespaces")
for text in ("import decimal, json\\nopen('x', 'w').write('x')", "open({str(place / inner / "x")!r}, 'w')"):
    print(s.run(text, s.Limits()))
"""
        done = in_a_process(code, python)
        assert not (place / inner / "x").exists()
    finally:
        shutil.rmtree(place)
    assert done.stdout.startswith("passed\nfailed: OSError: [Errno 30]"), done.stderr


@pytest.mark.parametrize("isolation", ["namespaces", "syscalls"])
def test_an_ordinary_user_can_lock_programs_in_too(isolation):
    if os.geteuid():
        pytest.skip("every other test is run by an ordinary user here")
    if not SYSTEM.exists():
        pytest.skip("there is no Python that an ordinary user may read")
    with copied() as place:
        code = f"""
import os
from limbeck.evaluation import _sandbox as s
isolation = {isolation!r}
s.check(isolation)
quick = s.Limits(cpu_seconds=1, wall_seconds=2)
for text in ("import os\\nassert os.getuid() == (65534 if isolation == 'namespaces' else {ORDINARY})".replace("isolation", repr(isolation)),
             "import os\\nwhile True: os.fork()", "open('/tmp/x', 'w')", "open('{place}/x', 'w')",
             "import os\\nos.kill(os.getppid(), 9)", "while True: pass",
             "import ctypes\\nassert ctypes.CDLL(None).setuid(0) == 0"):
    print(s.run(text, quick, isolation=isolation))
"""
        done = in_a_process(
            code, SYSTEM, path=place, user=ORDINARY, group=ORDINARY, extra_groups=[]
        )
    if isolation == "namespaces" and "unshare" in done.stderr:
        pytest.skip(f"ordinary users have no namespaces here: {done.stderr.splitlines()[-1]}")
    lines = done.stdout.splitlines()
    apart = isolation == "namespaces"
    refused = "failed: PermissionError"
    wanted = ["passed", "stopped: processes" if apart else refused, "passed" if apart else refused]
    wanted += ["failed: FileNotFoundError" if apart else refused, "passed" if apart else refused]
    wanted += ["timed out", "failed: AssertionError"]
    assert len(lines) == len(wanted), done.stderr
    for line, start in zip(lines, wanted, strict=True):
        assert line.startswith(start), (line, start)


ORDINARY = 61_000
