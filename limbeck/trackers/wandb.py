"""Weights & Biases, online or offline; the key comes from WANDB_API_KEY alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal

from limbeck.errors import RecipeError
from limbeck.trackers._shape import Kept, Tracked, Tracker, needs

_KEY = "WANDB_API_KEY"
_SECONDS = 60


def ready(*, mode: str = "online") -> None:
    """Raises where the package is not installed, or where nobody would be logged in."""
    needs("wandb", "wandb")
    if mode == "online" and not os.environ.get(_KEY):
        raise RecipeError(
            f"track: 'wandb' sends to a server, and the environment variable {_KEY} is not set. Put the key into it, or "
            "write {wandb: {mode: offline}} and send the run later with 'wandb sync'."
        )


def wandb(
    run: Tracked,
    *,
    project: str = "limbeck",
    entity: str | None = None,
    mode: Literal["online", "offline"] = "online",
) -> Tracker:
    """One tracked run an arm, grouped by recipe; neither the command line nor code, host or environment is sent."""
    return _Run(run, project, entity, mode)


class _Run:
    """A run of Weights & Biases, the same one after a resume."""

    def __init__(self, run: Tracked, project: str, entity: str | None, mode: Any) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read when the package is imported
        import wandb as package

        self._kept = Kept(run, "wandb")
        self.last = min(self._kept.last, max(0, run.at - 1))
        self._told = self._kept.last
        run.place.mkdir(parents=True, exist_ok=True)
        self._run = package.init(
            project=project,
            entity=entity,
            mode=mode,
            id=self._kept.id,
            resume="allow",
            name=run.title,
            group=run.group,
            config=run.settings,
            dir=str(run.place),
            reinit="create_new",
            settings=package.Settings(
                console="off",
                disable_git=True,
                finish_timeout=_SECONDS,
                save_code=False,
                silent=True,
                x_disable_machine_info=True,
                x_disable_meta=True,
                x_disable_stats=True,
                x_save_requirements=False,
            ),
        )
        self._run.define_metric("*", step_metric="train/step")
        self._kept.keep(last=self._kept.last)

    def line(self, step: int, values: Mapping[str, float]) -> None:
        """Logs a step. One that was told before a resume is not told twice: no server takes a line back."""
        if step <= self._told:
            return
        self._run.log(dict(values), step=step)
        self._told = step
        self._kept.keep(last=step)

    def figures(self, step: int, values: Mapping[str, float]) -> None:  # noqa: ARG002
        """Puts them into the run's summary."""
        self._run.summary.update(dict(values))

    def close(self) -> None:
        """Waits a minute at most for what is on its way."""
        self._run.finish()
