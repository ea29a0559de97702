"""What training benchmarks share: a process that is a whole group by itself, a unit LM of random weights, a clock."""

from __future__ import annotations

import os
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

THREADS = 2
GROUP = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
UNITS = 500
SHAPES = {"small": "qwen2-nano", "opt": "facebook/opt-125m"}  # 3 M parameters, the demo's; 86 M


def begin() -> None:
    """Make this process one that trains on the CPU, as the only rank; call it before anything imports DeepSpeed."""
    os.environ |= GROUP | {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TRL_EXPERIMENTAL_SILENCE": "1"}
    warnings.filterwarnings("ignore")
    import datasets
    import torch.distributed as dist

    datasets.disable_progress_bars()
    torch.set_num_threads(THREADS)
    if not dist.is_initialized():
        dist.init_process_group("gloo", init_method=f"file://{tempfile.mkdtemp()}/group", rank=0, world_size=1)


@contextmanager
def outside_the_group() -> Iterator[None]:
    """For a trainer that would otherwise wrap its model for several ranks, which costs it time."""
    from accelerate.state import AcceleratorState

    for name in (*GROUP, "ACCELERATE_USE_DEEPSPEED"):  # the last is left behind by transformers' arguments of ours
        os.environ.pop(name, None)
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        yield
    finally:
        os.environ |= GROUP
        AcceleratorState._reset_state(reset_partial_state=True)


def write_unit_lm(folder: Path, shape: str) -> None:
    """A unit LM in transformers' format; how fast it is does not depend on its weights."""
    from transformers import AutoModelForCausalLM

    from slamray.model.families import family_config
    from slamray.model.unit_lm import unit_lm_config
    from slamray.tokens.vocabulary import Vocabulary

    torch.manual_seed(0)
    config = unit_lm_config(family_config(SHAPES[shape]), Vocabulary.of_units(UNITS))
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def step_clock() -> tuple[Any, list[float]]:
    """A callback of transformers' Trainer, and the times at which its steps end."""
    from transformers import TrainerCallback

    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            ends.append(time.perf_counter())

    return Clock(), ends


def steady(ends: Sequence[float]) -> float:
    """Seconds of all steps but the first."""
    return ends[-1] - ends[0]
