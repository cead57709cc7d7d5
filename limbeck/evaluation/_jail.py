"""Runs one program where it can reach nothing. `_sandbox.py` starts this file as a process of its own, with the standard library alone.

Three processes: the first makes namespaces and waits, and is beside the room. The second, the keeper, furnishes the room,
gives up its rights, keeps the time and alone reports what became of the program, which is the third. The keeper is the
first process of its namespace: nothing inside can end it, and when it ends the kernel ends all that is inside. It ends, too,
when whoever started it does.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import secrets
import select
import signal
import struct
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

Job = dict[str, Any]
Verdict = dict[str, str]

NO_ROOM = 3
"""Exit status where the program could not be locked in; the reason stands in the error output."""
NAME = "<program>"

_ROOM = "/proc"  # there is one everywhere, and nothing of it is wanted inside
_LONGEST = 65_536
_TOLD = 300
_LIBRARY = ctypes.CDLL(None, use_errno=True)
# Of <sched.h>, <sys/mount.h>, <sys/prctl.h> and <linux/mount.h>.
_NAMESPACES = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x20000000 | 0x40000000
_USERS = 0x10000000
_BIND, _ALL_BELOW, _PRIVATE, _NO_SETUID, _NO_DEVICES, _DETACHED = 0x1000, 0x4000, 0x40000, 2, 4, 2
_SET_ATTRIBUTES, _FROM_HERE, _RECURSIVE = 442, -100, 0x8000
_READ_ONLY_ATTRIBUTES = 1 | 2 | 4  # and neither set-user-id nor devices
_ON_PARENTS_DEATH, _DUMPABLE, _SECCOMP, _BOUNDS, _NO_NEW_RIGHTS = 1, 4, 22, 24, 38
_NOBODY = 65534
# Ids that systemd hands out for services of no account; so low that rootless containers have them.
_STRANGERS = range(61184, 65520)
_LIMITS = {errno.EFBIG: "file size", errno.ENOSPC: "disk", errno.EMFILE: "open files", errno.EAGAIN: "processes"}  # fmt: skip


def main() -> NoReturn:
    """Reads the job, makes the room and waits for the keeper."""
    os.umask(0o022)
    (length,) = struct.unpack("=Q", _read(8))
    job: Job = json.loads(_read(length))
    _prctl(_ON_PARENTS_DEATH, signal.SIGKILL)
    if os.getppid() != job["parent"]:
        os._exit(NO_ROOM)
    null = os.open(os.devnull, os.O_RDWR)
    try:
        # Where memory is short, the kernel ends the program and not what started it.
        Path("/proc/self/oom_score_adj").write_text("1000")
        if not job["namespaces"]:
            _keep(job, null)
        sys.path[:] = [os.path.realpath(path) for path in sys.path]
        _part()
        keeper = os.fork()
        if not keeper:
            _keep(job, null)
    except OSError as reason:
        _no_room(reason)
    status = os.waitstatus_to_exitcode(os.waitpid(keeper, 0)[1])
    os._exit(status if status >= 0 else NO_ROOM)


def _read(count: int) -> bytes:
    found = b""
    while len(found) < count:
        found += (part := os.read(0, count - len(found)))
        if not part:
            os._exit(NO_ROOM)
    return found


def _no_room(reason: OSError) -> NoReturn:
    os.write(2, f"{reason.filename or 'system call'}: {reason.strerror}\n".encode())
    os._exit(NO_ROOM)


def _call(name: str, *given: Any) -> None:
    """A function of the C library; a failure says its name."""
    if _LIBRARY[name](*given) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), name)


def _prctl(option: int, value: int) -> None:
    _call("prctl", option, *map(ctypes.c_ulong, (value, 0, 0, 0)))


def _part() -> None:
    """Leaves network, processes, mounts, host name and messages of the machine; without root by a namespace of users."""
    user, group = os.geteuid(), os.getegid()
    _call("unshare", _NAMESPACES if user == 0 else _NAMESPACES | _USERS)
    if user != 0:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{_NOBODY} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{_NOBODY} {group} 1")


def _mount(source: str | None, place: str, kind: str | None, flags: int, data: str = "") -> None:
    words = [None if word is None else os.fsencode(word) for word in (source, place, kind)]
    _call("mount", *words, ctypes.c_ulong(flags), data.encode())


def _read_only(place: str, attributes: int, flags: int) -> None:
    wanted = ctypes.create_string_buffer(struct.pack("=QQQQ", attributes, 0, 0, 0), 32)
    _call("syscall", ctypes.c_long(_SET_ATTRIBUTES), _FROM_HERE, os.fsencode(place), flags, wanted, ctypes.c_size_t(32))  # fmt: skip


def _furnish(job: Job) -> None:
    """A root of its own: what Python needs, read-only, and an empty folder in memory."""
    _mount(None, "/", None, _PRIVATE | _ALL_BELOW)
    _mount("tmpfs", _ROOM, "tmpfs", _NO_SETUID | _NO_DEVICES, "size=1m,mode=755")
    # Before what is shown: Python may lie below /tmp.
    folder = f"{_ROOM}/tmp"  # noqa: S108
    Path(folder).mkdir()
    size = job["limits"]["folder_bytes"]
    _mount("tmpfs", folder, "tmpfs", _NO_SETUID | _NO_DEVICES, f"size={size},nr_inodes=1000,mode=777")  # fmt: skip
    for path in job["shown"]:
        place = _ROOM + path
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        if Path(path).is_symlink():  # such as /lib
            Path(place).symlink_to(Path(path).readlink())
            continue
        Path(place).mkdir(exist_ok=True) if Path(path).is_dir() else Path(place).touch()
        _mount(path, place, None, _BIND | _ALL_BELOW)
        if path != os.devnull:
            _read_only(place, _READ_ONLY_ATTRIBUTES, _RECURSIVE)
    _read_only(_ROOM, _READ_ONLY_ATTRIBUTES, 0)
    os.chdir(_ROOM)
    _call("pivot_root", b".", b".")
    _call("umount2", b".", _DETACHED)
    os.chdir("/tmp")  # noqa: S108 (the room's own)


def _give_up() -> None:
    """Whatever root may do; an id of no account where this is root. No later exec can bring it back."""
    for right in range(64):
        if _LIBRARY["prctl"](_BOUNDS, ctypes.c_ulong(right), 0, 0, 0) < 0:
            break
    if os.geteuid() == 0:
        stranger = _STRANGERS.start + secrets.randbelow(len(_STRANGERS))
        os.setgroups([])
        os.setresgid(stranger, stranger, stranger)
        os.setresuid(stranger, stranger, stranger)
    _call("capset", struct.pack("=Ii", 0x20080522, 0), bytes(24))
    _prctl(_NO_NEW_RIGHTS, 1)


def _keep(job: Job, null: int) -> NoReturn:
    """The keeper: starts the program, waits no longer than allowed, and says what became of it."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one signal that Python listens to
        if job["namespaces"]:
            os.setsid()
            _prctl(_ON_PARENTS_DEATH, signal.SIGKILL)
            _furnish(job)
            _give_up()
            _prctl(_ON_PARENTS_DEATH, signal.SIGKILL)  # which giving up rights undoes
        _prctl(_DUMPABLE, 0)  # closes its memory to what it starts
        told, telling = os.pipe()
        words, wording = os.pipe()
        program = os.fork()
    except OSError as reason:
        _no_room(reason)
    if not program:
        _be_program(job, (null, telling, words))
    # The word that a verdict begins with, made when the program no longer shares this memory.
    word = secrets.token_hex(16).encode()
    os.write(wording, word)
    os.close(telling)
    late = _wait(program, job["limits"]["wall_seconds"])
    _, status, used = os.wait4(program, 0)
    os.set_blocking(told, False)
    said = b"" if late else _said(told, word)
    verdict = _verdict(status, late, used.ru_utime + used.ru_stime, job)
    os.write(1, said or json.dumps(verdict).encode())
    os._exit(0)


def _wait(program: int, seconds: float) -> bool:
    """Waits until the program ends, at most so long; whether it had to be ended. Ends with whoever started all of it."""
    ends = time.monotonic() + seconds
    poll, end = select.poll(), os.pidfd_open(program)
    poll.register(end, select.POLLIN)
    poll.register(0, select.POLLHUP)
    while (left := ends - time.monotonic()) > 0:
        seen = [number for number, _ in poll.poll(left * 1000)]
        if 0 in seen:
            os.kill(program, signal.SIGKILL)
            os._exit(NO_ROOM)
        if end in seen:
            return False
    os.kill(program, signal.SIGKILL)
    return True


def _said(told: int, word: bytes) -> bytes:
    """What stands behind the word, if anything does. Whether it is a verdict, is judged outside: it may be forged."""
    try:
        lines = os.read(told, _LONGEST).split(b"\n")
    except BlockingIOError:  # something else holds the other end still
        return b""
    return next((line[len(word) :] for line in lines if line.startswith(word)), b"")


def _verdict(status: int, late: bool, used: float, job: Job) -> Verdict:
    """What became of a program that said nothing."""
    code = os.waitstatus_to_exitcode(status)
    if late:
        return {"kind": "timed out", "reason": f"{job['limits']['wall_seconds']} s of time"}
    if code == -signal.SIGXCPU or (
        code == -signal.SIGKILL and used >= job["limits"]["cpu_seconds"]
    ):
        return {"kind": "timed out", "reason": f"{job['limits']['cpu_seconds']} s of computing"}
    told = f"left with status {code} before its tests were through"
    if code < 0:
        told = f"ended by signal {-code} ({signal.strsignal(-code)})"
    return {"kind": "failed", "reason": told}


def _be_program(job: Job, ends: tuple[int, int, int]) -> NoReturn:
    """The third process: takes its limits and its filter, runs the text and tells the keeper."""
    me, (_, telling, words) = os.getpid(), ends
    word = os.read(words, 16)  # the other half stays in the pipe, not in memory
    verdict: Verdict = {"kind": "failed", "reason": "it could not be told why"}
    try:
        os.setsid()
        _limit(job, ends)
        _run(job["program"])
        verdict = {"kind": "passed", "reason": ""}
    except BaseException as reason:  # whatever a program may raise, SystemExit too
        try:
            verdict = _failed(reason, job["program"])
        except BaseException:  # of an exception that cannot be looked at
            verdict["reason"] = "an exception that cannot be shown"
    if os.getpid() != me:
        os._exit(1)  # a child that the program made speaks for nobody
    os.write(telling, word + os.read(words, 16) + json.dumps(verdict).encode() + b"\n")
    os._exit(0)


def _limit(job: Job, ends: tuple[int, int, int]) -> None:
    null, *kept = ends
    for number in range(64):  # this process is young, its numbers are low
        if number < 3:
            os.dup2(null, number)
        elif number not in kept:
            os.closerange(number, number + 1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if not job["namespaces"]:
        _give_up()
        _prctl(_ON_PARENTS_DEATH, signal.SIGKILL)
    for name, value in job["resources"].items():
        # A signal at the limit of computing, and the end a second behind it.
        resource.setrlimit(vars(resource)[name], (value, value + (name == "RLIMIT_CPU")))
    steps = bytes.fromhex(job["filter"])
    held = ctypes.create_string_buffer(steps, len(steps))
    program = struct.pack("=HxxxxxxQ", len(steps) // 8, ctypes.addressof(held))
    _call("prctl", _SECCOMP, ctypes.c_ulong(2), ctypes.create_string_buffer(program, 16), 0, 0)


def _run(text: str) -> None:
    module = ModuleType("__main__")
    sys.modules["__main__"] = module
    sys.argv = [NAME]
    exec(compile(text, NAME, "exec"), vars(module))  # noqa: S102 (what all of this is for)


def _failed(reason: BaseException, program: str) -> Verdict:
    """Which limit stopped it, or the exception with its line."""
    limit = _LIMITS.get(reason.errno or 0) if isinstance(reason, OSError) else None
    if limit or isinstance(reason, MemoryError):
        return {"kind": "stopped", "reason": limit or "memory"}
    told = f"{type(reason).__name__[:_TOLD]}: {str(reason)[:_TOLD]}".rstrip(": ")
    number = reason.lineno if isinstance(reason, SyntaxError) else None
    step = reason.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_filename == NAME:
            number = step.tb_lineno
        step = step.tb_next
    lines = program.splitlines()
    if number is not None and 0 < number <= len(lines):
        told += f" (line {number}: {lines[number - 1].strip()[:_TOLD]})"
    return {"kind": "failed", "reason": told}


if __name__ == "__main__":
    main()
