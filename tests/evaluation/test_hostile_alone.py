"""Behind the filter alone, programs of an ordinary user steer, signal and change nothing of that user's: not even by detours."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_jail import copied

SYSTEM = Path("/usr/bin/python3")
ORDINARY = 61_000

LIBRARY = "import ctypes\nc = ctypes.CDLL(None, use_errno=True)\n"
OWNED = "import fcntl, os, time\nr, w = os.pipe()\nfcntl.fcntl(r, {command}, {owner})\nfcntl.fcntl(r, 10, 9)\n"
OWNED += "fcntl.fcntl(r, 4, fcntl.fcntl(r, 3) | 0o20000)\nos.write(w, b'x')\ntime.sleep(0.2)"
FOREIGN = {
    "sched_setparam": "VICTIM, bytes(4)", "sched_setaffinity": "VICTIM, 8, b'1234567' b'8'",
    "shmat": "SEGMENT, None, 0", "shmctl": "SEGMENT, 0, None", "semop": "SEMAPHORES, bytes([0, 0, 1, 0, 0, 0]), 1",
    "semctl": "SEMAPHORES, 0, 0", "semtimedop": "SEMAPHORES, bytes([0, 0, 1, 0, 0, 0]), 1, None",
    "msgsnd": "QUEUE, bytes([1, *[0] * 15]), 8, 0", "msgrcv": "QUEUE, bytes(64), 8, 0, 2048", "msgctl": "QUEUE, 0, None",
}  # fmt: skip
FILE = "import fcntl, os\nfd = os.open('FILE', os.O_RDONLY)\n"
PROGRAMS = {
    "an owner of its pipe": OWNED.format(command=8, owner="VICTIM"),
    "its keeper as owner": OWNED.format(command=8, owner="os.getppid()"),
    "an owner by kind": OWNED.format(command=15, owner="(1).to_bytes(4, 'little') + (VICTIM).to_bytes(4, 'little')"),
    "an owner by ioctl": "import fcntl, os\nr, w = os.pipe()\nfcntl.ioctl(r, 0x8901, (VICTIM).to_bytes(4, 'little'))",
    "an owner of sockets": "import fcntl, os\nr, w = os.pipe()\nfcntl.ioctl(r, 0x8902, (VICTIM).to_bytes(4, 'little'))",
    "signals by ioctl": "import fcntl, os\nr, w = os.pipe()\nfcntl.ioctl(r, 0x5452, (1).to_bytes(4, 'little'))",
    # Nobody sets an owner: it is the foreground of the terminal.
    "a terminal that signals": (
        "import fcntl, os, time\nt = os.open('TERMINAL', os.O_RDONLY | os.O_NOCTTY)\nfcntl.fcntl(t, 4, 0o20000)\n"
        "time.sleep(0.3)"
    ),
    "a terminal's settings": (
        "import os, termios\nt = os.open('TERMINAL', os.O_RDONLY | os.O_NOCTTY)\n"
        "termios.tcsetattr(t, 0, termios.tcgetattr(t))"
    ),
    "a lease": FILE + "fcntl.fcntl(fd, 1024, 0)",
    "notice of changes": "import fcntl, os\nfcntl.fcntl(os.open('/usr', os.O_RDONLY), 1026, 1)",
    "a lock": FILE + "fcntl.flock(fd, fcntl.LOCK_EX)",
    "attributes of a file": FILE + "fcntl.ioctl(fd, 0x40086602, bytes(8))",
    "ioprio_set": LIBRARY + "assert c.syscall(IOPRIO, 1, VICTIM, 3 << 13) == 0, ctypes.get_errno()",
    "sched_setattr": LIBRARY + (
        "asked = (48).to_bytes(4, 'little') + (3).to_bytes(4, 'little') + bytes(40)\n"
        "assert c.syscall(SCHEDULE, VICTIM, asked, 0) == 0, ctypes.get_errno()"
    ),
    "move_pages": LIBRARY + "assert c.syscall(MOVE, VICTIM, 0, None, None, None, 0) == 0, ctypes.get_errno()",
    "migrate_pages": LIBRARY + "assert c.syscall(MIGRATE, VICTIM, 8, bytes(8), bytes(8)) == 0, ctypes.get_errno()",
    "mq_unlink": LIBRARY + "import errno\nc.syscall(UNLINK, b'limbeck-none')\nassert ctypes.get_errno() != errno.EPERM",
} | {
    name: LIBRARY + f"c.shmat.restype = ctypes.c_long\nassert c.{name}({given}) != -1, ctypes.get_errno()"
    for name, given in FOREIGN.items()
}  # fmt: skip

# Starts a victim on a terminal of its own where somebody types, makes what a program may reach for, and runs it.
DRIVER = """
import ctypes, fcntl, os, subprocess, sys, threading, time
from limbeck.evaluation import _sandbox, _syscalls
text, column = sys.stdin.read(), int(os.uname().machine != "x86_64")
c, (master, slave) = ctypes.CDLL(None), os.openpty()
victim = subprocess.Popen(
    [sys.executable, "-c", "import fcntl, time\\nfcntl.ioctl(0, 0x540E, 0)\\nprint('up', flush=True)\\ntime.sleep(60)"],
    stdin=slave, stdout=subprocess.PIPE, start_new_session=True)
victim.stdout.readline()
ended = threading.Event()
def typed():
    while not ended.wait(0.05):
        os.write(master, b"x\\n")
threading.Thread(target=typed, daemon=True).start()
made = {"SEGMENT": c.shmget(0, 4096, 0o1600), "SEMAPHORES": c.semget(0, 1, 0o1600), "QUEUE": c.msgget(0, 0o1600)}
calls = {"IOPRIO": "ioprio_set", "SCHEDULE": "sched_setattr", "MOVE": "move_pages", "MIGRATE": "migrate_pages", "UNLINK": "mq_unlink"}
made |= {word: _syscalls._NUMBERS[name][column] for word, name in calls.items()}
words = made | {"VICTIM": victim.pid, "TERMINAL": os.ttyname(slave), "FILE": sys.argv[1]}
for word, value in words.items():
    text = text.replace(word, str(value))
before = os.sched_getaffinity(victim.pid), os.sched_getscheduler(victim.pid)
try:
    print(_sandbox.run(text, _sandbox.Limits(cpu_seconds=2, wall_seconds=4), isolation="syscalls"))
    print(victim.poll(), (os.sched_getaffinity(victim.pid), os.sched_getscheduler(victim.pid)) == before)
finally:
    ended.set()
    victim.kill()
    c.shmctl(made["SEGMENT"], 0, None), c.semctl(made["SEMAPHORES"], 0, 0), c.msgctl(made["QUEUE"], 0, None)
"""


@pytest.fixture(scope="module")
def place():
    """The package's files where an ordinary user may read them, and a file of that user."""
    if not SYSTEM.exists():
        pytest.skip("there is no Python that an ordinary user may read")
    with copied() as found:
        (found / "own").write_text("x")
        if os.geteuid() == 0:
            os.chown(found / "own", ORDINARY, ORDINARY)
        tried = as_ordinary(
            "from limbeck.evaluation import _sandbox as s\ns.check('syscalls')", found
        )
        if tried.returncode:
            pytest.skip(tried.stderr.splitlines()[-1])
        yield found


def as_ordinary(code, place, *given, said=""):
    """Runs code in a process of an ordinary user: this one, or where this is root, another."""
    who = {"user": ORDINARY, "group": ORDINARY, "extra_groups": []} if os.geteuid() == 0 else {}
    python = SYSTEM if who else sys.executable
    return subprocess.run(
        [str(python), "-B", "-c", code, *given], env={"PYTHONPATH": str(place)}, cwd="/", input=said,
        capture_output=True, text=True, check=False, **who,
    )  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_belongs_to_the_same_user_is_out_of_reach(name, place):
    done = as_ordinary(DRIVER, place, str(place / "own"), said=PROGRAMS[name])
    assert len(lines := done.stdout.splitlines()) == 2, done.stderr
    refused = ("failed: PermissionError", "failed: AssertionError: 1 ", "failed: AssertionError (")
    refused += ("failed: error: (1,",)  # of termios
    assert lines[0].startswith(refused), lines[0]
    assert lines[1] == "None True"
