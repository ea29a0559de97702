"""A group of worker processes for a test, forked from one that has imported what they need: that takes 10 s each."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.multiprocessing

IMPORTED = [
    "deepspeed",
    "trl.trainer.dpo_trainer",
    "transformers.models.qwen2.modeling_qwen2",
    "slamray.train.pretrain",
    "slamray.train.masked_prediction",
    "slamray.train.hifigan_training",
    "slamray.train.source_filter_training",
]


def run_ranks(function: Callable[..., None], world: int, *args: Any) -> None:
    """Call function(rank, *args) in `world` processes, each with one thread; an exception in one is raised here."""
    multiprocessing.set_forkserver_preload(IMPORTED)
    with tempfile.TemporaryDirectory() as folder:
        started = (world, Path(folder) / "store", function, args)
        torch.multiprocessing.start_processes(_rank, started, nprocs=world, start_method="forkserver")


def join_group(setenv: Callable[[str, str], None], rank: int, world: int, store: Path) -> None:
    """A gloo group with the variables that Ray Train sets, in a process prepared as Ray Train's workers are."""
    for name, value in {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world}.items():
        setenv(name, str(value))
    setenv("MASTER_ADDR", "127.0.0.1")
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)


def _rank(rank: int, world: int, store: Path, function: Callable[..., None], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    join_group(os.environ.__setitem__, rank, world, store)
    function(rank, *args)
    dist.destroy_process_group()
