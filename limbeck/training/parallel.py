"""One path for any number of ranks: a laptop is a cluster of one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Set
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import HashStore
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from limbeck.errors import LimbeckError


@dataclass(frozen=True)
class World:
    """One process among all: its rank, how many there are, and its device."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this rank writes what is written once."""
        return self.rank == 0


def start(device: torch.device, minutes: int = 30) -> World:
    """Joins the ranks that torchrun started, or starts a group of one that opens no port."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    if dist.is_initialized():
        return World(dist.get_rank(), dist.get_world_size(), device)
    if "RANK" not in os.environ:
        if device.type == "cuda":  # set_device refuses one without a number
            device = torch.device("cuda", device.index or 0)
            torch.cuda.set_device(device)
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
        return World(0, 1, device)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group(backend, timeout=timedelta(minutes=minutes))
    return World(dist.get_rank(), dist.get_world_size(), device)


def shard(
    step: nn.Module,
    layers: Iterable[nn.Module],
    world: World,
    dtype: torch.dtype,
    *,
    still: Set[nn.Parameter] = frozenset(),
) -> None:
    """FSDP2 over each layer and the whole step; master parameters keep their own dtype.

    The head stays in the outermost group, so that it is gathered once a step. With one rank nothing is
    freed between forward and backward, because there is nobody to gather from, and what is `still`, never trained and in
    the computing dtype already, is left where it is: sharding would hold a second copy of it.
    """
    each = list(step.parameters())
    master = next((one for one in each if one.requires_grad), each[0]).dtype
    ignored = set(still) if world.size == 1 else None
    policy = MixedPrecisionPolicy()
    if master == torch.float32 and dtype != master:
        # Inputs keep their dtype: FSDP would round the batch's weights and the teacher's log-probabilities too.
        policy = MixedPrecisionPolicy(
            param_dtype=dtype, reduce_dtype=master, cast_forward_inputs=False
        )
    mesh = init_device_mesh(world.device.type, (world.size,))
    for module in layers:
        fully_shard(
            module,
            mesh=mesh,
            reshard_after_forward=world.size > 1,
            mp_policy=policy,
            ignored_params=ignored,
        )
    fully_shard(
        step, mesh=mesh, reshard_after_forward=False, mp_policy=policy, ignored_params=ignored
    )


def give_back(step: nn.Module) -> None:
    """Frees what a forward without a backward has gathered, so that parameters are the sharded masters again."""
    for module in step.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def hold(step: nn.Module, world: World, *, last: bool) -> None:
    """With one rank: keeps parameters whole until the last micro-batch of a step, so that they are gathered once.

    Gradients go to their masters after each micro-batch: a second, whole set of them would cost more memory and save
    no time. With several ranks each micro-batch gives back what it gathered.
    """
    if isinstance(step, FSDPModule) and world.size == 1:
        step.set_reshard_after_backward(last)


def keep_gathered(step: nn.Module, kept: bool) -> None:
    """With several ranks: whether blocks keep what they gathered in the forward for the backward pass.

    Sharding gathers a block again when a gradient enters it from above. Where only taps inside learn, none enters the
    last of these blocks, and its parameters would be missing.
    """
    for module in step.modules():
        if isinstance(module, FSDPModule) and module is not step and dist.get_world_size() > 1:
            module.set_reshard_after_forward(not kept, recurse=False)


def total(tensor: Tensor) -> Tensor:
    """The sum of a tensor over all ranks."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def anywhere(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set on any rank, so that all do the same."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return flag
    return bool(total(torch.tensor([float(flag)], device=device)).item())


def barrier() -> None:
    """Waits for every rank."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.barrier()


def told(text: str, world: World) -> str:
    """What rank 0 says, on every rank; bytes only, since pickled objects are code."""
    if world.size == 1:
        return text
    data = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8) if text else torch.empty(0)
    length = torch.tensor([len(data)], device=world.device)
    dist.broadcast(length, 0)
    room = torch.zeros(int(length.item()), dtype=torch.uint8, device=world.device)
    if world.first:
        room.copy_(data)
    dist.broadcast(room, 0)
    return bytes(room.cpu().tolist()).decode()


def local(tensor: Tensor) -> Tensor:
    """The piece of a sharded tensor that lies on this rank, or the tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def piece(whole: Tensor, like: Tensor, world: World) -> Tensor:
    """The piece of a whole tensor that this rank holds when it is sharded as `like` is."""
    if not isinstance(like, DTensor):
        return whole
    if any(not placement.is_shard(0) for placement in like.placements):
        raise LimbeckError(f"a tensor is sharded as {like.placements}; only rows are understood.")
    rows = -(-whole.shape[0] // world.size)
    return whole[world.rank * rows : (world.rank + 1) * rows]
