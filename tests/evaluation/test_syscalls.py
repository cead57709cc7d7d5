"""The filter of system calls, carried out by a small reader of its language, on both architectures."""

import errno
import platform
import re
import struct
from pathlib import Path

import pytest

from limbeck.evaluation import _syscalls

MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
ALLOWED = 0x7FFF0000
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


def answer(steps, number, architecture, *given):
    """What the kernel would answer to this call: a number of an error, 0 where it is carried out, or 'killed'."""
    words = struct.pack("<IIQ6Q", number, architecture, 0, *given, *[0] * (6 - len(given)))
    place, held = 0, 0
    while True:
        code, yes, no, value = struct.unpack_from("=HBBI", steps, 8 * place)
        place += 1
        if code == 0x20:
            (held,) = struct.unpack_from("<I", words, value)
        elif code == 0x06:
            refused = value & 0xFFFF if value >> 16 == 0x0005 else "killed"
            return 0 if value == ALLOWED else refused
        else:
            holds = {0x15: held == value, 0x25: held > value, 0x45: bool(held & value)}[code]
            place += yes if holds else no


@pytest.fixture(params=MACHINES)
def machine(request, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: request.param)
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    return request.param


def asked(machine, *, alone):
    column, architecture = MACHINES[machine]
    steps = _syscalls.filter_of(alone=alone)
    assert len(steps) // 8 <= 4096  # the kernel's own limit

    def call(name, *given):
        number = _syscalls._NUMBERS[name][column] if isinstance(name, str) else name
        return answer(steps, number, architecture, *given)

    return call


def test_inside_namespaces_what_would_leave_them_is_refused(machine):
    call = asked(machine, alone=False)
    for name in ("ptrace", "mount", "unshare", "setns", "bpf", "io_uring_setup", "memfd_create"):
        assert call(name) == errno.EPERM
    assert call("socket", 1) == 0
    for family in (
        2,
        10,
        16,
        17,
        38,
        40,
    ):  # both IPs, netlink, packets, the kernel's ciphers, the host of a machine
        assert call("socket", family) == errno.EPERM
    assert call("clone", 0x11) == 0
    assert call("clone", 0x10000000 | 0x11) == errno.EPERM
    assert call("clone3") == call("openat2") == errno.ENOSYS
    for name in ("execve", "kill", "openat", "prlimit64"):
        assert call(name, 7, 7, 7) == 0


def test_alone_it_lets_nothing_be_written_started_or_signalled(machine):
    call = asked(machine, alone=True)
    for name in ("execve", "kill", "tgkill", "mkdirat", "unlinkat", "renameat2", "fchmod", "fork"):
        if _syscalls._NUMBERS[name][MACHINES[machine][0]] is not None:
            assert call(name) == errno.EPERM, name
    assert call("socket", 1) == call("socketpair", 1) == errno.EPERM
    assert call("openat", 0, 0, 0o2000000) == 0  # read-only, closed on exec
    for flags in (0o1, 0o2, 0o101, 0o1000):
        assert call("openat", 0, 0, flags) == errno.EACCES
    assert call("clone", 0x11) == errno.EPERM
    assert call("clone", 0x3D0F00) == 0  # a thread, as C libraries make it
    assert call("prlimit64", 0) == 0
    assert call("prlimit64", 1) == errno.EPERM


def test_alone_it_lets_nothing_of_other_processes_be_steered(machine):
    call = asked(machine, alone=True)
    names = "shmat shmctl semop semctl semtimedop msgsnd msgrcv msgctl mq_unlink sched_setattr sched_setparam "
    names += "sched_setaffinity ioprio_set migrate_pages move_pages flock"
    for name in names.split():
        assert call(name) == errno.EPERM, name
    for command in (0, 1, 2, 3, 5, 1030):  # copies, flags, what is locked
        assert call("fcntl", 3, command) == 0
    for command in (6, 7, 8, 10, 15, 36, 37, 38, 1024, 1026, 1033):
        assert call("fcntl", 3, command) == errno.EPERM, command
    assert call("fcntl", 3, 4, 0o4000) == 0  # not to wait
    assert call("fcntl", 3, 4, 0o24000) == errno.EPERM  # to be signalled
    assert call("fcntl", 3, 8 | 1 << 32) == errno.EPERM  # the kernel reads the lower half
    for command in (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451):
        assert call("ioctl", 3, command) == 0
    for command in (0x8901, 0x8902, 0x5452, 0x40086602, 0x5402, 0x5412, 0x540E):
        assert call("ioctl", 3, command) == errno.EPERM, command
    assert call("prctl", 62) == errno.EPERM
    assert call("prctl", 15) == 0
    apart = asked(machine, alone=False)
    assert apart("fcntl", 3, 8) == apart("ioctl", 3, 0x5452) == apart("flock") == 0


@pytest.mark.parametrize("alone", [True, False])
def test_other_architectures_and_unknown_calls_are_no_way_round(machine, alone):
    steps = _syscalls.filter_of(alone=alone)
    _, architecture = MACHINES[machine]
    assert answer(steps, 1, 0x40000003) == "killed"  # 32 bits
    for number in (452, 466, 0x40000000 + 59):  # later ones, and x32
        assert answer(steps, number, architecture) == errno.ENOSYS


@pytest.mark.parametrize("name", HEADERS)
def test_numbers_are_those_of_the_kernels_headers(name):
    if not HEADERS[name].exists():
        pytest.skip(f"{HEADERS[name]} is not here")
    found = dict(
        re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)$", HEADERS[name].read_text(), re.M)
    )
    for call, numbers in _syscalls._NUMBERS.items():
        number = numbers[MACHINES[name][0]]
        assert (number is None) == (call not in found), call
        assert number is None or found[call] == str(number), call


def test_other_systems_have_no_filter(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert not _syscalls.known()
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert not _syscalls.known()
