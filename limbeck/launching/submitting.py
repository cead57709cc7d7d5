"""Hands scripts to sbatch, one after the other."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from limbeck.errors import LimbeckError


def submit(made: Mapping[str, str], logs: Path) -> Iterator[tuple[str, int]]:
    """Submits scripts in order, each to begin once the one before is done. Yields kind and number of each job."""
    program = shutil.which("sbatch")
    if program is None:
        raise LimbeckError(
            "launch slurm: found no sbatch on PATH; --submit wants it. Submit on a login node of the cluster, or leave "
            "out --submit to have the script printed."
        )
    # Slurm makes no folder: a job that finds none to write to fails without a word.
    logs.mkdir(parents=True, exist_ok=True)
    before: int | None = None
    for kind, script in made.items():
        words = [program, "--parsable"]
        if before is not None:
            words += [f"--dependency=afterok:{before}", "--kill-on-invalid-dep=yes"]
        before = _submitted(words, script, kind)
        yield kind, before


def _submitted(words: Sequence[str], script: str, kind: str) -> int:
    # SBATCH_EXPORT would go before what the script says, and send the whole environment along.
    environment = {name: value for name, value in os.environ.items() if name != "SBATCH_EXPORT"}
    done = subprocess.run(  # noqa: S603 (its words are ours, and the number of a job)
        words, input=script, env=environment, capture_output=True, text=True, check=False
    )
    found = re.match(r"\d+", done.stdout)
    if done.returncode or not found:
        said = done.stderr.strip() or done.stdout.strip()
        raise LimbeckError(
            f"launch slurm: sbatch took no {kind} job (status {done.returncode}): {said}\n"
            "Correct the options; without --submit the script is printed. What was submitted before stays submitted."
        )
    return int(found[0])
