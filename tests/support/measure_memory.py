"""What test_memory.py has its workers do: two optimiser steps of the real engine, and the peak of torch's allocator.

The profiler hears every allocation of tensors, whoever makes it; nothing of slamray.memory is used.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig, AutoModelForCausalLM

from slamray.config.compute import Compute
from slamray.config.training import DpoSettings, OptimSettings, PretrainSettings
from slamray.model.attention import BLOCKWISE, inside_pieces, register_attention
from slamray.train.dpo.align import train_dpo
from slamray.train.pretrain import make_engine
from slamray.train.zero import casts_are_not_kept

ROWS, CONTEXT = 4, 192  # those of test_memory.py
MICRO_BATCHES = 2  # of a step
ALL_REDUCE = dist.all_reduce


def train(task: dict[str, Any]) -> None:
    compute = Compute.model_validate(task["compute"])
    config = PretrainSettings(optim=OptimSettings.model_validate({"name": task["optimiser"]}))
    attention = register_attention(BLOCKWISE)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.from_pretrained(task["shape"]), dtype=torch.float32, attn_implementation=attention
    )
    engine, _ = make_engine(model, config, compute, MICRO_BATCHES)
    tokens_BC = torch.zeros(ROWS, CONTEXT, dtype=torch.long)
    positions_BC = torch.arange(CONTEXT).expand(ROWS, CONTEXT).contiguous()
    for _ in range(2):
        for micro_batch in range(MICRO_BATCHES):
            inside = inside_pieces(positions_BC, torch.tensor([0]), CONTEXT, attention)
            with casts_are_not_kept(compute.zero_stage):
                logits_BCV = engine(input_ids=tokens_BC, position_ids=positions_BC, use_cache=False, **inside).logits
            loss = cross_entropy(logits_BCV.flatten(0, 1).float(), tokens_BC.flatten(), reduction="sum")
            engine.backward(loss, scale_wrt_gas=False)
            del logits_BCV, loss
            if micro_batch + 1 < MICRO_BATCHES:
                engine.step()
        if compute.zero_stage == 0:
            torch.nn.utils.clip_grad_norm_(engine.module.parameters(), 0.5)
        engine.step()


def patient_all_reduce(*args: Any, **kwargs: Any) -> Any:
    """all_reduce, and time for gloo's own threads to let its tensor go.

    The profiler counts what is freed on this thread alone: what gloo frees last would stay in the count for ever.
    """
    work = ALL_REDUCE(*args, **kwargs)
    time.sleep(0.05)
    return work


def measure(rank: int, out: Path, task: dict[str, Any]) -> None:
    """Leave the allocator's peak, bytes, in out/peak-RANK.json."""
    dist.all_reduce = patient_all_reduce
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        train(task)
    leave_peak(recorded, rank, out)


def leave_peak(recorded: profile, rank: int, out: Path) -> None:
    recorded.export_chrome_trace(str(out / f"trace-{rank}.json"))
    events = json.loads((out / f"trace-{rank}.json").read_text())["traceEvents"]
    peak = max(event["args"]["Total Allocated"] for event in events if event.get("name") == "[memory]")
    (out / f"peak-{rank}.json").write_text(json.dumps(peak))


def measure_dpo(rank: int, out: Path, task: dict[str, Any]) -> None:
    """The same for two steps of DPO, after the reference's scores, on pairs as long as may be: of short prompts."""
    compute = Compute.model_validate(task["compute"])
    config = DpoSettings.model_validate(task["dpo"])
    units = np.arange(config.context - 3) % 500  # beside a prompt of one unit and two specials
    pairs = [
        {"pair_id": f"{n:03d}", "prompt": units[:1], "chosen": units, "rejected": units[::-1]}
        for n in range(2 * config.pairs_per_step)
    ]
    dist.all_reduce = patient_all_reduce
    heldout = pairs[: 4 * compute.dpo_micro_batch] if config.evaluations else []
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        train_dpo(config, compute, Path(task["model"]), pairs, heldout, out / "dpo", lambda metrics: None)
    leave_peak(recorded, rank, out)
