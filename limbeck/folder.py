"""The run directory: where each thing lies, who owns it, and which recipe it belongs to."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from limbeck import files, recarding
from limbeck.errors import Damaged, LimbeckError, RecipeError
from limbeck.strict import text_of


@dataclass(frozen=True)
class Folder:
    """A run, or the control arm inside one: the same layout, one level down."""

    path: Path

    @property
    def recipe(self) -> Path:
        """The complete recipe, after overrides."""
        return self.path / "recipe.yaml"

    @property
    def log(self) -> Path:
        """One JSON line a logged step."""
        return self.path / "log.jsonl"

    @property
    def export(self) -> Path:
        """The student as a Hugging Face folder."""
        return self.path / "export"

    @property
    def control(self) -> Folder:
        """The control arm, a run in itself."""
        return Folder(self.path / "control")

    def checkpoints(self, index: int, stage: str) -> Path:
        """The checkpoints of a stage, counted from 0."""
        return self.path / "stages" / f"{index + 1}-{stage}" / "checkpoints"

    def evaluation(self, measure: str) -> Path:
        """The figures of one measure."""
        return self.path / "evaluation" / f"{measure}.json"

    def check(self, recipe: str, identity: Callable[[str], str]) -> None:
        """Refuses a recipe that is another than the one which this folder is of. Writes nothing.

        identity: what of a recipe's text makes a run the same run; how it is resumed does not.
        """
        if not self.recipe.is_file():
            return
        try:
            before = identity(text_of(self.recipe))
        except RecipeError as reason:
            raise Damaged(
                f"{self.recipe} is not the recipe that was written there ({reason}). Bring it back as it was, or "
                "give this run another name (name=…)."
            ) from reason
        after = identity(recipe)
        if before != after:
            raise LimbeckError(
                f"{self.path} holds a run of another recipe:\n{_difference(before, after)}\n"
                "Give this one another name (name=…), or remove that folder."
            )

    def begin(self, recipe: str, identity: Callable[[str], str]) -> None:
        """Claims the folder for a recipe; another one is refused."""
        self.check(recipe, identity)
        files.write_bytes(self.recipe, recipe.encode())


def _difference(there: str, here: str) -> str:
    before, after = there.splitlines(), here.splitlines()
    changed = [f"  there: {line.strip()}" for line in before if line not in after]
    changed += [f"  here:  {line.strip()}" for line in after if line not in before]
    return "\n".join(changed[:8]) or "  the same lines in another order"


@contextlib.contextmanager
def locked(folder: Path, lock: Path, mend: str) -> Iterator[None]:
    """Keeps a second process out of a folder; the system frees it when this process ends. mend: what to do about the other one."""
    folder.mkdir(parents=True, exist_ok=True)
    held = FileLock(lock, timeout=0)
    try:
        held.acquire()
    except Timeout as reason:
        raise LimbeckError(f"{folder} is in use by another process. {mend}") from reason
    try:
        yield
    finally:
        held.release()


def beside(folder: Path) -> Path:
    """The lock of a folder whose every file is in its manifest: it stands outside."""
    return folder.parent / f".{folder.name}.lock"


@contextlib.contextmanager
def owned(path: Path) -> Iterator[None]:
    """Keeps a second process out of a run's folder, and sweeps what killed ones left there."""
    mend = "Wait for it, stop it, or give this run another name."
    with locked(path, path / ".lock", mend):
        for folder in (path, path / "control"):
            if folder.is_dir():
                recarding.bring_back(folder / "export")
                files.sweep(folder)
                for inner in (*folder.glob("stages/*/checkpoints"), *folder.glob("evaluation/**/")):
                    files.sweep(inner)
        yield
