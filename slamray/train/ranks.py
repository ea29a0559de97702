"""What the ranks of a training agree on and add up; without a process group there is one rank."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from safetensors.numpy import load_file, save

from slamray.stage.folder import Folder
from slamray.tokens.sampler import add_hashes

LOOK_SECONDS = 0.2  # between two looks for a file of rank 0; chosen, not tuned
Value = TypeVar("Value")


def rank_and_world() -> tuple[int, int]:
    """This process and the number of them; (0, 1) without a process group."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def agree(value: Value) -> Value:
    """Rank 0's value, on every rank."""
    told: list[Any] = [value]
    if rank_and_world()[1] > 1:
        dist.broadcast_object_list(told, src=0)
    agreed: Value = told[0]
    return agreed


def rank0_number(number: float) -> float:
    """Rank 0's number, on every rank: decisions that depend on a clock are taken there alone."""
    if rank_and_world()[1] == 1:
        return number
    dist.broadcast(told := torch.tensor(number, dtype=torch.float64, device=_device()), src=0)
    return told.item()


def add_over_ranks(numbers: Mapping[str, float]) -> dict[str, float]:
    """Sums over all ranks, float64; every rank gives the same names and gets the same sums."""
    if rank_and_world()[1] == 1 or not numbers:
        return dict(numbers)
    names = sorted(numbers)
    sums = torch.tensor([float(numbers[name]) for name in names], dtype=torch.float64, device=_device())
    dist.all_reduce(sums)
    return dict(zip(names, sums.tolist(), strict=True))


def add_hashes_over_ranks(samples: int) -> str:
    """Hashes of all ranks' samples (tokens.sampler.sample_hash) together, hex."""
    return f"{add_hashes(*of_every_rank(samples)):016x}"


def of_every_rank(value: Value) -> list[Value]:
    """What each rank gives, in the order of ranks."""
    told: list[Any] = [value]
    if rank_and_world()[1] > 1:
        told = [None] * dist.get_world_size()
        dist.all_gather_object(told, value)
    return told


def add_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace every gradient by its sum over ranks, in one collective; the same parameters must have one everywhere."""
    if rank_and_world()[1] == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    for gradient, total in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(total.view_as(gradient))


def made_once(folder: Folder, name: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Arrays that rank 0 makes and writes to a file, whole or absent; every rank and every restart reads them there.

    The other ranks look for the file: in a collective they would give up while rank 0 is at work.
    """
    if rank_and_world()[0] == 0 and not folder.exists(name):
        folder.write(name, save(make()))
    while not folder.exists(name):
        time.sleep(LOOK_SECONDS)
    return load_file(folder.fetch(name))


def _device() -> torch.device:
    """Where the group's collectives take their tensors from."""
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
