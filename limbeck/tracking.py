"""Whoever follows an arm while it trains: its trackers, each in a thread of its own, so that none can stop or slow a run."""

from __future__ import annotations

import inspect
import sys
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from limbeck import loading
from limbeck.errors import RecipeError
from limbeck.folder import Folder
from limbeck.progress import say
from limbeck.recipe import Recipe
from limbeck.trackers import _names, csv
from limbeck.trackers._shape import Tracked, Tracker
from limbeck.training import meter

Open = Callable[[Tracked], Tracker]
_PATIENCE = 90.0
"""Seconds that a run waits at its end for trackers that are behind."""


def check(recipe: Recipe) -> None:
    """Raises where a tracker that the recipe names lacks its package or its key: before any model is loaded."""
    names = [part.name for part in recipe.track]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise RecipeError(f"track: {', '.join(twice)} found twice; wanted each tracker once.")
    for index, part in enumerate(recipe.track):
        function, options = loading.checked(part, "trackers", f"track[{index}]")
        ready = vars(sys.modules[function.__module__]).get("ready")
        if ready is not None:
            known = inspect.signature(ready).parameters
            ready(**{key: value for key, value in options.items() if key in known})


class Told:
    """The trackers of every arm that one process works on, each arm's made once."""

    def __init__(self) -> None:
        self._arms: dict[Path, Tracking] = {}

    def arm(self, recipe: Recipe, folder: Folder) -> Tracking:
        """Those of the arm in this folder."""
        if folder.path not in self._arms:
            self._arms[folder.path] = of_arm(recipe, folder)
        return self._arms[folder.path]

    def close(self) -> None:
        """Closes all of them."""
        for each in self._arms.values():
            each.close()


def title(recipe: Recipe) -> str:
    """The name of an arm among others: 'quickstart', 'quickstart/control', 'several/1-pruned/control'."""
    inside = Path(recipe.runs).parts
    if recipe.name == "control" and not recipe.control and len(inside) > 1:
        several = len(inside) > 2 and inside[-2] == "students"
        return "/".join(
            (*inside[-3:-2], inside[-1], "control") if several else (inside[-1], "control")
        )
    return f"{inside[-2]}/{recipe.name}" if inside[-1:] == ("students",) else recipe.name


def of_arm(recipe: Recipe, folder: Folder) -> Tracking:
    """The trackers of an arm: log.csv, and those of the recipe."""
    opens: dict[str, Open] = {"csv": csv.csv}
    for index, part in enumerate(recipe.track):
        function, options = loading.checked(part, "trackers", f"track[{index}]")
        opens[part.name] = partial(function, **options)
    # `track` tells where figures go, which is no setting of the run and may name a private server.
    settings = recipe.model_dump(mode="json", by_alias=True, exclude={"track"})
    name = title(recipe)
    about = Tracked(name, name.partition("/")[0], folder.log, settings)
    return Tracking(about, opens)


class Tracking:
    """Tells every tracker what log.jsonl holds, once a line. Nothing is opened before there is something to tell."""

    def __init__(self, about: Tracked, opens: dict[str, Open]) -> None:
        self._followers = [_Follower(name, opened, about) for name, opened in opens.items()]

    def line(self, entry: dict[str, Any]) -> None:
        """Tells a line that has just been written to log.jsonl."""
        for one in self._followers:
            one.told(one.line, entry)

    def figures(self, figures: dict[str, dict[str, dict[str, float]]]) -> None:
        """Tells what was measured at the end."""
        for one in self._followers:
            one.told(one.figures, _names.of_figures(figures))

    def close(self) -> None:
        """Waits for those that are behind, for a while."""
        for one in self._followers:
            one.close()


class _Follower:
    """One tracker and its thread. Whatever it raises is kept by the future, told once, and ends it alone."""

    def __init__(self, name: str, opened: Open, about: Tracked) -> None:
        self._name, self._open, self._about = name, opened, about
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=f"track-{name}")
        self._waiting: deque[Future[None]] = deque()
        self._lost = False
        self._walk = _names.Walk()
        self._tracker: Tracker | None = None
        self._lines = 0
        self._held: tuple[int, dict[str, float]] = (0, {})

    def told(self, work: Callable[[Any], None], given: Any) -> None:
        """Has the thread do it, after all that it was told before."""
        self._look()
        if not self._lost:
            self._waiting.append(self._pool.submit(work, given))

    def _look(self) -> None:
        """Says what went wrong in the thread, if anything did."""
        while self._waiting and self._waiting[0].done() and not self._lost:
            reason = self._waiting.popleft().exception()
            if reason is not None:
                self._give_up(f"{type(reason).__name__}: {reason}")

    def _give_up(self, reason: str) -> None:
        self._lost = True
        self._pool.shutdown(wait=False, cancel_futures=True)
        say(
            f"note: the tracker '{self._name}' is given up, and training goes on without it: {reason}"
        )

    def line(self, entry: dict[str, Any]) -> None:
        """In the thread: tells a line; the first one opens the tracker and tells what it has not heard before."""
        if self._tracker is None:
            self._opened(entry)
        elif self._lines:
            self._lines -= 1  # it was in the log already when that was read
        else:
            self._take(self._walk.step(entry), self._walk.named(entry))

    def _take(self, step: int, values: dict[str, float]) -> None:
        """Holds a line back until the next one: a look at held-out rows belongs to the step before it."""
        if step == self._held[0]:
            self._held = (step, self._held[1] | values)
        else:
            self._let_go()
            self._held = (step, values)

    def _let_go(self) -> None:
        step, values = self._held
        if values and self._tracker is not None and step > self._tracker.last:
            self._tracker.line(step, values)
        self._held = (step, {})

    def _opened(self, entry: dict[str, Any] | None) -> Tracker:
        lines = meter.read(self._about.log)
        told = [(self._walk.step(line), self._walk.named(line)) for line in lines]
        at = told[-1][0] + 1 if told else 1
        if entry is not None:
            at = self._walk.step(entry)
            # What was written after this line has been told, too, and waits to be heard.
            self._lines = len(lines) - 1 - lines.index(entry)
        self._tracker = self._open(replace(self._about, at=at))
        for step, values in told:
            self._take(step, values)
        return self._tracker

    def figures(self, values: dict[str, float]) -> None:
        """In the thread: tells the final figures."""
        tracker = self._tracker or self._opened(None)
        self._let_go()
        tracker.figures(self._held[0], values)

    def _closed(self, _: None) -> None:
        self._let_go()
        if self._tracker is not None:
            self._tracker.close()

    def close(self) -> None:
        """Ends the thread, once it is through or has taken too long."""
        self.told(self._closed, None)
        wait(self._waiting, timeout=0 if self._lost else _PATIENCE)
        self._look()
        if self._waiting and not self._lost:
            self._give_up(f"it was still busy {_PATIENCE:.0f} s after the end.")
        self._pool.shutdown(wait=False, cancel_futures=True)
