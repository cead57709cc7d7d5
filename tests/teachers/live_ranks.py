"""What each of two gloo ranks asks of a live teacher: python live_ranks.py (said | tied | record) FOLDER.

In a process of its own: a fork of one that has computed gradients or joined other ranks would crash.
"""

import os
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parent.parent))

import tiny
import tiny_cache
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor

from limbeck.recording import record
from limbeck.teachers.live import Live
from limbeck.types import Wanted


def batch(rank):
    """Rows of which each rank has another number."""
    return tiny.batch(1 + rank, 12, documents=(5, 7), seed=rank)


def say(folder, rank, tied):
    teacher = Live(tiny.llama(tied=tied, dtype=torch.float64), vocab=28)
    sharded = [p for p in teacher.model.parameters() if isinstance(p, DTensor)]
    assert len(sharded) >= 2 * 9
    for _ in range(2):
        said = teacher.signal(batch(rank), Wanted())
    found = {"hidden": said.hidden, "logits": said.distribution(slice(None))}
    save_file(
        {name: tensor.contiguous() for name, tensor in found.items()}, folder / f"said-{rank}"
    )


def into(path, **options):
    """Records seven rows, which two ranks cannot share evenly."""
    text, about = tiny_cache.Text(7), tiny_cache.about(values="float64")
    teacher = Live(tiny.llama(dtype=torch.float64), vocab=tiny.VOCAB)
    record(teacher, text, range(7), path, about, rows_per_shard=3, micro_rows=2, **options)


def work(what, folder, rank):
    store = dist.FileStore(str(folder / "store"), 2)
    wait = timedelta(seconds=120)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=wait)
    if what == "record":
        into(folder / "two", rank=rank, world=2)
    else:
        say(folder, rank, tied=what == "tied")
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    other = os.fork()
    work(sys.argv[1], Path(sys.argv[2]), rank=0 if other else 1)
    if other:
        sys.exit(os.waitpid(other, 0)[1])
