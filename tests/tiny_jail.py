"""A program run behind the lock, and what it may have left: processes, files, words that it should not know."""

import contextlib
import os
import secrets
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from limbeck.evaluation import _sandbox

PACKAGE = Path(_sandbox.__file__).parents[1]
QUICK = _sandbox.Limits(cpu_seconds=1, wall_seconds=1.0, memory_bytes=256 << 20)


@dataclass(frozen=True)
class Watch:
    """mark: stands in the names of all processes and files of one program. secret: stands in this process's environment."""

    mark: str = field(default_factory=lambda: f"mark-{secrets.token_hex(8)}")
    secret: str = field(default_factory=lambda: f"CANARY-{secrets.token_hex(16)}")

    def places(self, own: Path) -> list[Path]:
        """Where a program would like to write."""
        shared = [Path("/tmp"), Path("/dev/shm"), Path("/var/tmp")]
        found = [own, Path.cwd(), Path.home(), PACKAGE, PACKAGE / "evaluation", *shared]
        return [place for place in found if place.is_dir()]


NAMES = ("errors", "evaluation/_jail", "evaluation/_sandbox", "evaluation/_syscalls")


def readable(place):
    """Lets every user read what lies below a folder, whatever this process's umask is."""
    for path in (place, *place.rglob("*")):
        path.chmod(0o755)


@contextlib.contextmanager
def copied():
    """The lock's files in a folder below /tmp, where every user may read them."""
    place = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        (place / "limbeck/evaluation").mkdir(parents=True)
        for name in NAMES:
            shutil.copy(PACKAGE / f"{name}.py", place / f"limbeck/{name}.py")
        readable(place)
        yield place
    finally:
        shutil.rmtree(place)


def alive(mark):
    """The processes in whose command line the mark stands."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in path.read_bytes():
                found.append(path.parent.name)
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
    return found


def listing(place):
    """Everything below a folder: sizes and times."""
    found = {}
    for path in sorted(place.rglob("*")):
        if "__pycache__" not in path.parts:
            told = path.lstat()
            found[str(path)] = (told.st_size, told.st_mtime_ns, told.st_mode)
    return found


def locked(program, isolation, own, watch):
    """What becomes of a program; fails where anything of it is left. `MARK`, `OWN` and `PACKAGE` in its text are replaced."""
    text = program.replace("MARK", watch.mark).replace("OWN", str(own))
    text = text.replace("PACKAGE", str(PACKAGE))
    before = [listing(PACKAGE), listing(own)]
    os.environ["LIMBECK_CANARY"] = watch.secret
    try:
        found = _sandbox.run(text, QUICK, isolation=isolation, name=watch.mark)
    finally:
        del os.environ["LIMBECK_CANARY"]
    assert alive(watch.mark) == []
    assert [listing(PACKAGE), listing(own)] == before
    for place in watch.places(own):
        assert not [path for path in place.iterdir() if watch.mark in path.name], place
    assert watch.secret not in found.reason
    return found
