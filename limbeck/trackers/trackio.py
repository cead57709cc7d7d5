"""trackio: a local database that `trackio show` shows, or a Space on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limbeck.trackers._shape import Kept, Tracked, Tracker, needs


def ready() -> None:
    """Raises where the package is not installed."""
    needs("trackio", "trackio")


def trackio(run: Tracked, *, project: str = "limbeck", space: str | None = None) -> Tracker:
    """One tracked run an arm. space: a Space of the hub, under the hub's own login; else this machine."""
    return _Run(run, project, space)


class _Run:
    """A run of trackio, the same one after a resume."""

    def __init__(self, run: Tracked, project: str, space: str | None) -> None:
        import trackio as package
        from trackio.sqlite_storage import SQLiteStorage

        self._kept = Kept(run, "trackio")
        # trackio finds a run again by its name alone, and other folders may hold runs of this one.
        name = f"{run.title.replace('/', '-')}-{self._kept.id[:8]}"
        self._run: Any = package.init(
            project=project,
            name=name,
            group=run.group,
            space_id=space,
            config=run.settings,
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        here = SQLiteStorage.get_max_step_for_run(project, name, run_id=self._run.id)
        self._told = self._kept.last if space else here or 0
        self.last = min(self._told, max(0, run.at - 1))
        self._kept.keep(last=self._told)

    def line(self, step: int, values: Mapping[str, float]) -> None:
        """Logs a step, unless it was told before a resume: no store takes a line back."""
        if step > self._told:
            self._run.log(dict(values), step=step)
            self._told = step
            self._kept.keep(last=step)

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        """Logs them at the last step."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Waits for what is on its way."""
        self._run.finish()
