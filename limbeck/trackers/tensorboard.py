"""TensorBoard event files in the run's folder: `tensorboard --logdir runs`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limbeck.trackers._shape import Tracked, Tracker, needs


def ready() -> None:
    """Raises where the package is not installed."""
    needs("tensorboard", "tensorboard")


def tensorboard(run: Tracked) -> Tracker:
    """Writes scalars; after a resume into the same folder, where later events of the process before are purged."""
    return _Events(run)


class _Events:
    """A folder of event files."""

    def __init__(self, run: Tracked) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = run.place / "tensorboard"
        self.last = _last(folder, run.at)
        # Readers pass over events from this step on that older files hold.
        purged = self.last + 1 if folder.is_dir() else None
        self._writer: Any = SummaryWriter(str(folder), purge_step=purged)  # type: ignore[no-untyped-call]
        if purged is None:
            self._writer.add_text("recipe", f"    {run.settings}")

    def line(self, step: int, values: Mapping[str, float]) -> None:
        """Adds an event for each figure."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        """Adds them at the last step."""
        self.line(step, values)

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()


def _last(folder: Path, at: int) -> int:
    """The last step below `at` that the folder's events hold. They are written in order, so none before it is missing."""
    if not folder.is_dir():
        return 0
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events: Any = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    if "train/step" not in events.Tags()["scalars"]:
        return 0
    return max((e.step for e in events.Scalars("train/step") if e.step < at), default=0)
