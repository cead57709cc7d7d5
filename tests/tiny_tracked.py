"""A tiny run that is tracked: stopped, set back to an earlier checkpoint, and carried on."""

import contextlib
import shutil
from pathlib import Path

import tiny_folder

from limbeck import loading, prints, run, tracking
from limbeck.errors import Interrupted
from limbeck.folder import Folder, owned
from limbeck.recipe import Recipe
from limbeck.training import meter

FIGURES = {"bits_per_byte": {"student": {"bits_per_byte": 1.25}, "teacher": {"bits_per_byte": 1.0}}}
STOPPED, CHECKPOINT = 13, 8


class After:
    """Asks to stop when it has been asked so many times, as a signal would."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def install(self) -> "After":
        return self

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def recipe(place: Path, **changes: object) -> Recipe:
    """CE and forward KL from a live teacher: SLM's objective."""
    plain = {
        "teacher": {"live": {"model": str(place / "teacher")}},
        "stages": [tiny_folder.stage(place, objective=["forward_kl"], alpha=0.5)],
        "checkpoints": {"every": CHECKPOINT, "keep_last": 9},
        "control": False,
        "telemetry": {"every_seconds": None, "peak_teraflops": 0.01},
    }
    return tiny_folder.recipe(place, **(plain | changes))


def trained(asked: Recipe, steps: int = 10**9, figures: dict | None = None) -> Folder:
    """Trains, telling the trackers of the recipe and of nothing but `steps` steps, and what was measured at the end."""
    tracking.check(asked)
    base, world = run.begun(asked)
    folder = tiny_folder.folder(asked)
    with owned(folder.path), contextlib.closing(tracking.Told()) as told:
        folder.begin(loading.dump(asked), prints.identity)
        with contextlib.suppress(Interrupted):
            run._train_all(base.recipe, [(base, folder)], world, After(steps), told)
        if figures is not None:
            told.arm(asked, folder).figures(figures)
    return folder


def resumed(asked: Recipe) -> Folder:
    """Stopped at step 13, set back to its checkpoint of step 8, and trained to the end: steps 9 to 13 are made twice."""
    folder = trained(asked, STOPPED)
    assert [line["step"] for line in meter.read(folder.log)][-1] == STOPPED
    shutil.rmtree(folder.checkpoints(0, "distil") / f"{STOPPED:06d}")
    return trained(asked, figures=FIGURES)


def wanted(folder: Folder) -> dict[str, float]:
    """The last value of every metric, read off log.jsonl by hand; the run has one stage."""
    found = {}
    for line in meter.read(folder.log):
        keys = ("loss", "grad_norm", "learning_rate", "epoch", "tokens", "step")
        keys += ("tokens_per_second", "peak_gigabytes", "model_flops_utilisation")
        found |= {f"train/{key}": line[key] for key in keys}
        terms = line["terms"]
        found |= {f"train/{name}": terms[name] for name in ("cross_entropy", "forward_kl")}
        found |= {"train/ce_loss": terms["cross_entropy"], "train/kl_loss": terms["forward_kl"]}
        found["train/stage"] = 1
    return found


FINAL = {"final/student/bits_per_byte": 1.25, "final/teacher/bits_per_byte": 1.0}
