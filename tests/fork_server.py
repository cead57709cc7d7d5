"""Carries recipes out in forked processes and kills them: python fork_server.py, then 'SECONDS FOLDER RECIPE' a line.

The seconds count from when something lies in the folder, named from the recipe's own; '.' is from the start. Torch is
imported once, so that a run begins in a moment. Answers 'killed' or 'ended STATUS'; 0 seconds is never.
"""

import contextlib
import os
import signal
import sys
import time
import traceback
from pathlib import Path

import torch
import transformers.models.llama.modeling_llama
import transformers.models.llama.tokenization_llama  # noqa: F401

from limbeck import fitting, loading, run

LOOK = 0.002
"""Seconds between looks at the folder."""


def carried_out(recipe: Path) -> None:
    """The life of a child: all of `limbeck train`, and no way back into the loop below."""
    status = 1
    try:
        os.setpgid(0, 0)
        os.dup2(2, 1)  # standard output is for answers
        run.carry_out(fitting.check(loading.load(recipe)))
        status = 0
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(status)


def attempted(seconds: float, folder: Path, recipe: Path) -> str:
    """Runs a child, kills it and all of its own children at that time, and tells how it ended."""
    child = os.fork()
    if child == 0:
        carried_out(recipe)
    signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
    ended, status = 0, 0
    while not ended and not any(folder.glob("[!.]*")):
        ended, status = os.waitpid(child, os.WNOHANG)
        time.sleep(LOOK)
    if not ended:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        _, status = os.waitpid(child, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    if not os.WIFSIGNALED(status):
        return f"ended {os.WEXITSTATUS(status)}"
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    return "killed"


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        asked, folder, place = line.split(maxsplit=2)
        recipe = Path(place.strip())
        sys.stdout.write(attempted(float(asked), recipe.parent / folder, recipe) + "\n")
        sys.stdout.flush()
