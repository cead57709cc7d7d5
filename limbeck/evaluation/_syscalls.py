"""What a program may not ask of the kernel, as a seccomp filter: a list of refusals in the kernel's own small language."""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Sequence

# Numbers on x86-64 and on 64-bit ARM; None where the architecture has no such call.
_NUMBERS: dict[str, tuple[int | None, int | None]] = {
    # To see or steer other processes.
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_getfd": (438, 438), "process_madvise": (440, 440),
    # To leave or change the room.
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97),
    "setns": (308, 268), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431),
    "fsmount": (432, 432), "mount_setattr": (442, 442), "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264),
    # Doors into the kernel that no solution needs.
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "kexec_load": (246, 104), "kexec_file_load": (320, 294), "init_module": (175, 105),
    "finit_module": (313, 273), "delete_module": (176, 106), "reboot": (169, 142), "swapon": (167, 224),
    "swapoff": (168, 225), "acct": (163, 89), "quotactl": (179, 60), "syslog": (103, 116), "personality": (135, 92),
    "fanotify_init": (300, 262),
    # Memory that no limit counts.
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "msgget": (68, 186),
    "semget": (64, 190), "mq_open": (240, 180), "vmsplice": (278, 75),
    # Other programs, and signals to other processes.
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281), "kill": (62, 129),
    "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424), "setpriority": (141, 140), "ioprio_set": (251, 30), "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118), "sched_setattr": (314, 274), "sched_setaffinity": (203, 122), "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    # Memory, semaphores and messages that other processes made.
    "shmat": (30, 196), "shmctl": (31, 195), "semop": (65, 193), "semctl": (66, 191), "semtimedop": (220, 192),
    "msgsnd": (69, 189), "msgrcv": (70, 188), "msgctl": (71, 187), "mq_unlink": (241, 181),
    # Files that would be made, changed, removed or kept from others.
    "creat": (85, None), "mkdir": (83, None), "mkdirat": (258, 34), "rmdir": (84, None), "unlink": (87, None),
    "unlinkat": (263, 35), "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276), "link": (86, None),
    "linkat": (265, 37), "symlink": (88, None), "symlinkat": (266, 36), "mknod": (133, None), "mknodat": (259, 33),
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "chown": (92, None), "fchown": (93, 55),
    "lchown": (94, None), "fchownat": (260, 54), "truncate": (76, 45), "utime": (132, None), "utimes": (235, None),
    "utimensat": (280, 88), "futimesat": (261, None), "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "flock": (73, 32),
    # Refused by what they are asked.
    "clone": (56, 220), "clone3": (435, 435), "socket": (41, 198), "socketpair": (53, 199), "open": (2, None),
    "openat": (257, 56), "openat2": (437, 437), "prlimit64": (302, 261), "fcntl": (72, 25), "ioctl": (16, 29),
    "prctl": (157, 167),
}  # fmt: skip
_NAMES = list(_NUMBERS)
# Refused everywhere: all up to what starts other programs.
_ALWAYS = _NAMES[: _NAMES.index("fork")]
# Refused where there are no namespaces: other programs, signals, changed files.
_ALONE = _NAMES[_NAMES.index("fork") : _NAMES.index("clone")]
# Behind cachestat come calls that this list does not know; libraries do without them.
_LAST = 451
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7), "arm64": (1, 0xC00000B7)}
_NEW_NAMESPACES = 0x7E020000
_THREAD = 0x00010000
_UNIX = 1
_WRITING = 0o1 | 0o2 | 0o100 | 0o1000  # O_WRONLY, O_RDWR, O_CREAT, O_TRUNC
# All of fcntl that only looks or copies: an owner, its signal, a lease or a lock would reach other processes.
# F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_GETLK, F_GETOWN, F_GETSIG, F_DUPFD_CLOEXEC, F_GETPIPE_SZ
_LOOKING = (0, 1, 2, 3, 5, 9, 11, 1030, 1032)
# A terminal that is told to signal (O_ASYNC) has its foreground processes as owner, without being asked.
_SET_FLAGS, _SIGNALLING = 4, 0o20000
# Of ioctl what Python asks of its own ends: TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX, TCGETS2.
_CONTROLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451, 0x802C542A)
_SHARE_CORES = 62  # PR_SCHED_CORE: with which other processes one shares a core

_LOAD, _EQUAL, _ABOVE, _ANY_BIT, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
_ALLOW, _KILL, _REFUSE = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16

Step = tuple[int, int, int, int]
"""(code, instructions to jump over where true, where false, operand)."""


def known() -> bool:
    """Whether a filter can be made for this machine."""
    return platform.system() == "Linux" and platform.machine() in _ARCHITECTURES


def filter_of(*, alone: bool) -> bytes:
    """The filter. alone: nothing else keeps the program in, so that it may start, signal, change and connect nothing."""
    column, architecture = _ARCHITECTURES[platform.machine()]
    steps: list[Step] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        _returned(_KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_ABOVE, 0, 1, _LAST),  # also all calls of x32
        _returned(_REFUSE | errno.ENOSYS),
    ]
    for name in [*_ALWAYS, *(_ALONE if alone else [])]:
        steps += _asked(name, column, [_returned(_REFUSE | errno.EPERM)])
    # Libraries fall back on the calls whose arguments a filter can see.
    for name in ("clone3", "openat2"):
        steps += _asked(name, column, [_returned(_REFUSE | errno.ENOSYS)])
    made = [*_argument(0), *_if_bits(_NEW_NAMESPACES, errno.EPERM)]
    if alone:
        made += [(_ANY_BIT, 1, 0, _THREAD), _returned(_REFUSE | errno.EPERM)]
    steps += _asked("clone", column, [*made, _returned(_ALLOW)])
    within = [*_argument(0), (_EQUAL, 1, 0, _UNIX), _returned(_REFUSE | errno.EPERM)]
    if alone:
        within = [_returned(_REFUSE | errno.EPERM)]
    steps += _asked("socket", column, [*within, _returned(_ALLOW)])
    steps += _asked("socketpair", column, [*within, _returned(_ALLOW)])
    steps += _by_argument(column) if alone else []
    steps.append(_returned(_ALLOW))
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def _by_argument(column: int) -> list[Step]:
    """What is refused by what is asked, where nothing else keeps the program in."""
    own = [*_argument(0), (_EQUAL, 1, 0, 0), _returned(_REFUSE | errno.EPERM), _returned(_ALLOW)]
    steps = _asked("prlimit64", column, own)
    for name, flags in (("open", 1), ("openat", 2)):
        written = [*_argument(flags), *_if_bits(_WRITING, errno.EACCES)]
        steps += _asked(name, column, [*written, _returned(_ALLOW)])
    silent = [*_argument(2), *_if_bits(_SIGNALLING, errno.EPERM), _returned(_ALLOW)]
    flags_set = [(_EQUAL, 0, len(silent), _SET_FLAGS), *silent]
    steps += _asked("fcntl", column, [*_argument(1), *flags_set, *_only(_LOOKING)])
    steps += _asked("ioctl", column, [*_argument(1), *_only(_CONTROLS)])
    shared = [(_EQUAL, 0, 1, _SHARE_CORES), _returned(_REFUSE | errno.EPERM), _returned(_ALLOW)]
    return steps + _asked("prctl", column, [*_argument(0), *shared])


def _returned(value: int) -> Step:
    return (_RETURN, 0, 0, value)


def _argument(place: int) -> list[Step]:
    """Loads the lower half of an argument; all that are looked at fit into it."""
    return [(_LOAD, 0, 0, _ARGUMENTS + 8 * place)]


def _if_bits(bits: int, number: int) -> list[Step]:
    return [(_ANY_BIT, 0, 1, bits), _returned(_REFUSE | number)]


def _only(values: Sequence[int]) -> list[Step]:
    """Allows these values of what was loaded, and refuses all others."""
    allowed = [step for value in values for step in ((_EQUAL, 0, 1, value), _returned(_ALLOW))]
    return [*allowed, _returned(_REFUSE | errno.EPERM)]


def _asked(name: str, column: int, steps: Sequence[Step]) -> list[Step]:
    """What is done where this call is made; the last step returns, so that the number need not be loaded again."""
    number = _NUMBERS[name][column]
    return [] if number is None else [(_EQUAL, 0, len(steps), number), *steps]
