"""Runs programs that nobody has read, each in a fresh process that can reach nothing (`_jail.py`), or refuses where that cannot be had."""

from __future__ import annotations

import json
import os
import select
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from limbeck.errors import LimbeckError
from limbeck.evaluation import _syscalls

Isolation = Literal["namespaces", "syscalls"]
Kind = Literal["passed", "failed", "timed out", "stopped"]

_JAIL = Path(__file__).with_name("_jail.py")
# What Python and its libraries are read from; the loader's cache and the device that swallows output.
_SHOWN = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/nix/store", "/etc/ld.so.cache", os.devnull)
_GRACE_SECONDS = 30.0  # to start and to end, on a machine that is busy otherwise
_MOST_WORKERS = 16
_MOST_SAID = 65_536
_MOST_TOLD = 999
_NO_ROOM = 3  # of _jail.py

# Tried before anything is trusted: no network, no name of a user, nothing to write but its own folder.
_PROBE = """
import os, socket
if {apart}:
    assert os.getpid() < 10 and sorted(os.listdir("/tmp")) == {seen}
    open("/tmp/own", "w").write("x")
for family in (socket.AF_INET, socket.AF_INET6):
    try:
        socket.socket(family).connect(("127.0.0.1", 1))
    except ConnectionRefusedError:
        raise SystemExit("the network is there")
    except OSError:
        pass
for path in {paths}:
    try:
        open(path + "/limbeck-probe", "w")
    except OSError:
        pass
    else:
        raise SystemExit(path + " can be written to")
assert os.getuid() != 0
"""


@dataclass(frozen=True)
class Limits:
    """What a program may use. processes: at once, threads and the keeper counted; not of ordinary users behind a filter alone."""

    cpu_seconds: int = 10
    wall_seconds: float = 20.0
    memory_bytes: int = 1 << 30
    file_bytes: int = 16 << 20
    folder_bytes: int = 32 << 20
    files: int = 64
    processes: int = 8


@dataclass(frozen=True)
class Outcome:
    """What became of a program. reason: the exception with its line, the signal, or the limit."""

    kind: Kind
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}" if self.reason else self.kind


def check(isolation: Isolation) -> None:
    """Raises where this machine cannot lock a program in so; tries the lock."""
    if not _syscalls.known():
        raise LimbeckError(
            f"Generated code is only run on Linux on x86-64 or ARM64; this is {sys.platform} on {os.uname().machine}. "
            "Evaluate in a Linux container or virtual machine."
        )
    apart = isolation == "namespaces"
    if not apart:
        _refuse_hidden()
    folders = {os.environ.get("HOME", "/"), str(Path.cwd()), "/tmp", "/dev/shm", str(_JAIL.parent)}  # noqa: S108
    seen, own = _in_memory() if apart else ([], set())
    probe = _PROBE.format(apart=apart, seen=seen, paths=sorted(folders - own))
    found = _run(probe, Limits(), isolation, "probe", _Running())
    if found.kind != "passed":
        raise _unlocked(isolation, f"a program that tried the lock {found}")


def _in_memory() -> tuple[list[str], set[str]]:
    """What is seen in the room's /tmp, and its folders that can be written to: /tmp, and those in which a Python lies."""
    below = [Path(path) for path in _shown() if path.startswith("/tmp/")]  # noqa: S108
    inside = {str(place) for path in below for place in path.parents} - {"/"}
    return sorted({path.parts[2] for path in below}), inside | {"/tmp"}  # noqa: S108


def _refuse_hidden() -> None:
    """Root's programs run as an account of nobody, which must be able to read Python."""
    python = Path(sys.executable).resolve()
    closed = [path for path in python.parents if not path.stat().st_mode & 0o001]
    if os.geteuid() == 0 and closed:
        raise LimbeckError(
            f"Generated code cannot be locked in here: it runs as an account of nobody, and only root may look into "
            f"{closed[-1]}, where this Python lies. Evaluate with a Python that all may read, such as that of the "
            "system, or as an ordinary user."
        )


def _unlocked(isolation: Isolation, reason: str) -> LimbeckError:
    if isolation == "syscalls":
        return LimbeckError(
            f"Generated code cannot be locked in here, not even by a filter of system calls: {reason}. "
            "Evaluate in a Linux container or virtual machine with Linux 5.3 or newer and seccomp."
        )
    return LimbeckError(
        f"Generated code cannot be locked in here: {reason}. Network, processes and files are kept apart by Linux "
        "namespaces (Linux 5.12 or newer). Allow them: on a desktop or server by 'sysctl kernel.unprivileged_userns_clone=1' "
        "and, on Ubuntu, 'sysctl kernel.apparmor_restrict_unprivileged_userns=0'; in a container by '--cap-add SYS_ADMIN "
        "--security-opt seccomp=unconfined --security-opt apparmor=unconfined'. Or accept that programs can read what you "
        "can read, though write, send and start nothing: isolation 'syscalls' (--isolation syscalls)."
    )


def run(
    program: str, limits: Limits, *, isolation: Isolation = "namespaces", name: str = "program"
) -> Outcome:
    """Runs a program's text to its end and says what became of it. name: what a list of processes shows."""
    return _alone(program, limits, isolation, name, _Running())


def run_all(
    programs: Sequence[str], limits: Limits, *, isolation: Isolation, name: str = "program"
) -> list[Outcome]:
    """The same for many, as many at once as there are cores. Broken off, it ends all that run."""
    running = _Running()
    workers = min(len(os.sched_getaffinity(0)), _MOST_WORKERS)
    with ThreadPoolExecutor(workers) as pool:
        asked = [pool.submit(_alone, text, limits, isolation, name, running) for text in programs]
        try:
            return [each.result() for each in asked]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            running.end()


class _Running:
    """The processes that run now."""

    def __init__(self) -> None:
        self._all: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self.ended = False

    def add(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._all.add(process)
            if self.ended:
                process.kill()

    def remove(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._all.discard(process)

    def end(self) -> None:
        """Kills them all, and whatever is begun from now on."""
        with self._lock:
            self.ended = True
            for process in self._all:
                process.kill()


def _alone(
    program: str, limits: Limits, isolation: Isolation, name: str, running: _Running
) -> Outcome:
    """Lets one program's keeper end without a verdict, as long as the lock itself still holds."""
    try:
        return _run(program, limits, isolation, name, running)
    except _Silent:
        if running.ended:
            raise
        check(isolation)
        return Outcome("failed", "its keeper ended without a word")


class _Silent(LimbeckError):
    """Nothing was reported, though the lock may be there."""


def _run(
    program: str, limits: Limits, isolation: Isolation, name: str, running: _Running
) -> Outcome:
    # In a session of its own, so that Ctrl-C in a terminal ends what started it and by that it.
    process = subprocess.Popen(  # noqa: S603 (this Python, and a file of ours)
        [sys.executable, "-I", "-S", "-B", str(_JAIL), name],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={}, cwd="/", start_new_session=True, bufsize=0,
    )  # fmt: skip
    with process:
        running.add(process)
        try:
            said = _told(process, _job(program, limits, isolation), limits.wall_seconds)
        finally:
            # Its end is the end of all that it started.
            process.kill()
            process.wait()
            running.remove(process)
        assert process.stderr is not None
        if not said:
            reason = os.read(process.stderr.fileno(), _MOST_SAID).decode(errors="replace").strip()
            ended = _unlocked(isolation, reason or f"it ended with status {process.returncode}")
            begun = not reason or process.returncode != _NO_ROOM
            raise _Silent(ended) if begun else ended
    return _outcome(said)


def _outcome(said: bytes) -> Outcome:
    """The verdict, which a program that takes its interpreter apart may have forged."""
    try:
        verdict = json.loads(said)
    except (ValueError, RecursionError):
        verdict = None
    match verdict:
        case {"kind": str(kind), "reason": str(reason), **more} if (
            kind in get_args(Kind) and not more
        ):
            return Outcome(cast("Kind", kind), _written(reason))
    return Outcome("failed", "what it reported of itself is no verdict")


def _written(reason: str) -> str:
    """A reason as every file can hold it: short, and lone surrogates by their numbers."""
    return reason.encode(errors="backslashreplace").decode()[:_MOST_TOLD]


def _job(program: str, limits: Limits, isolation: Isolation) -> bytes:
    """What the process is told, behind its length."""
    apart = isolation == "namespaces"
    resources = {
        "RLIMIT_CPU": limits.cpu_seconds,
        "RLIMIT_AS": limits.memory_bytes,
        "RLIMIT_FSIZE": limits.file_bytes,
        "RLIMIT_NOFILE": limits.files,
        "RLIMIT_CORE": 0,
        "RLIMIT_MEMLOCK": 0,
    }
    # Counted by user. Root's programs have ids of their own; an ordinary user's would count with all that this user runs.
    if apart or os.geteuid() == 0:
        resources["RLIMIT_NPROC"] = limits.processes
    job: dict[str, Any] = {
        "program": program,
        "parent": os.getpid(),
        "namespaces": apart,
        "shown": _shown(),
        "limits": asdict(limits),
        "resources": resources,
        "filter": _syscalls.filter_of(alone=not apart).hex(),
    }
    told = json.dumps(job).encode()
    return struct.pack("=Q", len(told)) + told


def _shown() -> list[str]:
    """The paths that are seen inside: those that are there, and Python's own where they lie elsewhere."""
    own = {os.path.realpath(prefix) for prefix in (sys.base_prefix, sys.base_exec_prefix)}
    found = [path for path in _SHOWN if os.path.lexists(path)]
    return found + sorted(
        path for path in own if not any(Path(path).is_relative_to(seen) for seen in found)
    )


def _told(process: subprocess.Popen[bytes], job: bytes, seconds: float) -> bytes:
    """What the process reports, or nothing where it does not come to that."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        while job:
            job = job[process.stdin.write(job) :]
    except BrokenPipeError:  # it could not start; why, stands in its error output
        return b""
    # Its input stays open: when that ends, so does it.
    ends = time.monotonic() + seconds + _GRACE_SECONDS
    found, source = b"", process.stdout.fileno()
    while (left := ends - time.monotonic()) > 0 and len(found) < _MOST_SAID:
        if not select.select([source], [], [], left)[0]:
            break
        part = os.read(source, _MOST_SAID)
        if not part:
            break
        found += part
    return found
