"""torchrun on one node of a job, whose exit status tells a stop that can go on from a failure."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

from limbeck.errors import STOPPED

# The first is what a job's script hands on before the time is over, the second what Slurm sends before it preempts.
ASKING = (signal.SIGUSR1, signal.SIGTERM)


def run(words: Sequence[str]) -> int:
    """Starts this node's ranks with torchrun's own words and waits for them. Returns the exit status.

    Slurm hands a signal to every process of a step. Here and in torchrun they go unheard, and since that is inherited
    only the ranks answer, which ask for them: they save and end, while torchrun would have ended with a failure.
    """
    for number in ASKING:
        signal.signal(number, signal.SIG_IGN)
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    # The nodes are numbered by Slurm, so that the first one has the first rank and the address where all meet.
    node = os.environ.get("SLURM_NODEID", "0")
    try:
        torchrun.main(["--node-rank", node, "--signals-to-handle", "SIGINT", *words])
    except ChildFailedError as failed:
        rank, first = failed.get_first_failure()
        if first.exitcode == STOPPED:
            return STOPPED
        sys.stderr.write(f"limbeck: rank {rank} ended with status {first.exitcode}.\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
