"""Pre-training, its checkpoints, and DPO: the project's engine on one device, from random weights and random units.

Legend: P pieces.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM, PreTrainedConfig

from gpu_parts.bench import Bench, Measured
from slamray.config.compute import Compute
from slamray.config.training import DpoSettings, PretrainSettings
from slamray.model.attention import VARLEN
from slamray.model.families import family_config
from slamray.model.unit_lm import count_config_parameters, save_unit_lm, training_flops, unit_lm_config
from slamray.tokens.documents import unit_document
from slamray.tokens.rows import RowStore, write_rows
from slamray.tokens.vocabulary import Vocabulary
from slamray.train.checkpoint import newest_complete, save_checkpoint
from slamray.train.dpo.align import train_dpo
from slamray.train.memory import planned_dpo_memory, planned_memory
from slamray.train.pretrain import MODEL, Pretraining

UNITS = Vocabulary.of_units(500)
PROGRESS = 0.5  # of the budget: the schedule is in its middle
WARM_UP = 2  # steps that are not timed
MORE_THAN_PLANNED = 1.1  # of the memory plan, what may be measured
SAME_LOSS = 0.01  # relative, between ways of attention in their first step: bfloat16 keeps 8 bits
# Relative, of the losses after a restart. On a GPU backward passes add up in no fixed order; lost moments of the
# optimiser would change the second loss by more than that.
RESUMED = {"cpu": 0.0, "cuda": 2e-3}
GOAL_MFU, GOAL_DPO = 0.46, 0.6


def pretraining(bench: Bench) -> None:
    """Tokens a second of each way of attention and each micro-batch, beside the memory plan and the device's peak."""
    config, store = unit_lm_shape(bench), _rows(bench)
    bench.device.forget()
    for micro_batch in bench.sizes.micro_batches:
        speeds: dict[str, Measured] = {}
        losses: dict[str, float] = {}
        for way in ("sdpa", "varlen", "varlen + compile"):
            what = f"pre-training, {way}, micro-batch {micro_batch}"
            if not bench.room(what):
                continue
            attention = way.partition(" ")[0]
            compute = bench.device.compute.model_copy(update={"attention": attention, "micro_batch": micro_batch})
            planned = planned_memory(config, PretrainSettings().optim, compute, bench.sizes.context).total
            free = bench.device.free_bytes()
            if MORE_THAN_PLANNED * planned > free:
                bench.skip(what, f"planned to need {planned / 2**30:.1f} GiB, {free / 2**30:.1f} are free")
                continue
            with bench.attempt(what):
                _pretrain(bench, what, compute, store, planned, "compile" in way, speeds, losses)


def _pretrain(
    bench: Bench,
    what: str,
    compute: Compute,
    store: RowStore,
    planned: int,
    compiled: bool,
    speeds: dict[str, Measured],
    losses: dict[str, float],
) -> None:
    """Time steps of one way; speeds and losses: of the ways before it, with the same micro-batch."""
    device, sizes, began = bench.device, bench.sizes, time.perf_counter()
    times: list[float] = []
    tokens: list[int] = []
    with device.peak() as peak:
        training = _training(bench, compute, _start(bench), store)
        if compiled:
            torch.compiler.reset()  # of other micro-batches' shapes
            for layer in training.engine.module.model.layers:  # one by one: they are alike, and compiled once
                layer.compile(backend=device.compiler, dynamic=False)
        warm = [training.step(number, PROGRESS) for number in range(WARM_UP)]
        warm_seconds = time.perf_counter() - began
        for number in range(WARM_UP, WARM_UP + sizes.steps):
            device.wait()
            began = time.perf_counter()
            tokens.append(training.step(number, PROGRESS).tokens)
            device.wait()
            times.append(time.perf_counter() - began)
    waits = device.waits(lambda: training.step(0, PROGRESS))
    speed = Measured.of([count / seconds for count, seconds in zip(tokens, times, strict=True)])
    parameters = count_config_parameters(training.engine.module.config)
    per_token = training.flops_per_token
    nominal = device.nominal[0]
    mfu = nominal and per_token * speed.value / nominal / 1e12
    share = bench.peak_tflops and per_token * speed.value / bench.peak_tflops / 1e12
    first = warm[0].losses["loss"]
    kernel_is_planned = device.kind == "cuda" or compute.attention != VARLEN  # on a CPU a reference stands in for it
    gates = {"loss": abs(first - losses.setdefault("first", first)) <= SAME_LOSS * first}
    if kernel_is_planned:
        gates["memory"] = peak.bytes <= MORE_THAN_PLANNED * planned
    bench.tell(
        what,
        "tokens/s",
        speed,
        speeds.get("sdpa"),
        gates=gates,
        goals={"mfu": (mfu, GOAL_MFU)} if mfu else {},
        mfu=mfu,
        mfu_of_measured_peak=share,
        mfu_with_attention=mfu and mfu * _flops_with_attention(store, training.engine.module.config) / per_token,
        formula=f"6 x {parameters:,} parameters x tokens/s / peak",
        peak_tflops={"nominal": nominal, "measured": bench.peak_tflops},
        memory_gib={"peak": peak.bytes / 2**30, "planned": planned / 2**30, "ratio": peak.bytes / planned},
        waits_in_a_step=sum(waits.values()),
        places_of_waits=waits,
        micro_batches_in_a_step=training.accumulation,
        seconds_a_step=Measured.of(times).value,
        seconds_until_warm=warm_seconds,
        padding_share=1.0 - float(store.tokens_R.mean()) / store.context,
        first_loss=first,
    )
    speeds.setdefault("sdpa", speed)
    if bench.tokens_per_second is None or speed.value > bench.tokens_per_second.value:
        bench.tokens_per_second = speed


def checkpoint(bench: Bench) -> None:
    """What a checkpoint costs, and whether training goes on from it as if nothing had been."""
    with bench.attempt("checkpoint"):
        _save_and_resume(bench)


def _save_and_resume(bench: Bench) -> None:
    device, store, seconds = bench.device, _rows(bench), {}
    micro_batch = bench.sizes.micro_batches[0]
    compute = device.compute.model_copy(update={"attention": VARLEN, "micro_batch": micro_batch})
    training = _training(bench, compute, _start(bench), store)
    steps = range(WARM_UP, WARM_UP + 3)
    for number in range(WARM_UP):
        training.step(number, PROGRESS)
    device.wait()
    began = time.perf_counter()
    write = training.snapshot()
    assert write is not None, "this is rank 0"
    seconds["stall"] = time.perf_counter() - began
    began = time.perf_counter()
    folder = bench.folder / "checkpoints"
    saved = folder / save_checkpoint(folder, WARM_UP, write)
    seconds["write"] = time.perf_counter() - began
    expected = [training.step(number, PROGRESS).losses["loss"] for number in steps]
    del training, write
    device.forget()
    began = time.perf_counter()
    newest = folder / (newest_complete(folder) or "")
    seconds["verify"] = time.perf_counter() - began
    assert newest == saved
    began = time.perf_counter()
    resumed = _training(bench, compute, newest / MODEL, store)
    resumed.load(newest)
    device.wait()
    seconds["load"] = time.perf_counter() - began
    found = [resumed.step(number, PROGRESS).losses["loss"] for number in steps]
    off = max(abs(one / other - 1) for one, other in zip(found, expected, strict=True))
    size = sum(path.stat().st_size for path in saved.rglob("*") if path.is_file())
    bench.tell(
        "checkpoint, training stands still",
        "s",
        Measured.single(seconds["stall"]),
        gates={"losses after the restart": off <= RESUMED[device.kind]},
        seconds=seconds,
        gigabytes=size / 1e9,
        losses_off=off,
        losses={"whole": expected, "resumed": found},
    )


def dpo(bench: Bench) -> None:
    """Pairs a second of DPO under TRL's trainer."""
    config, sizes = unit_lm_shape(bench), bench.sizes
    pairs = _pairs(bench)
    longest = max(len(pair["prompt"]) + max(len(pair["chosen"]), len(pair["rejected"])) for pair in pairs) + 2
    settings = DpoSettings(
        budget=f"steps:{WARM_UP + sizes.dpo_steps}", pairs_per_step=sizes.pairs_per_step, context=max(16, longest)
    )
    for micro_batch in sizes.pairs:
        what = f"DPO, micro-batch {micro_batch}"
        if not bench.room(what):
            continue
        compute = bench.device.compute.model_copy(update={"dpo_micro_batch": micro_batch})
        planned = planned_dpo_memory(config, settings, compute).total
        with bench.attempt(what):
            _align(bench, what, settings, compute, pairs, planned)


def _align(
    bench: Bench, what: str, settings: DpoSettings, compute: Compute, pairs: list[dict[str, Any]], planned: int
) -> None:
    _join_group(bench)
    reports: list[dict[str, Any]] = []
    began = time.perf_counter()
    with bench.device.peak() as peak:
        out = bench.folder / f"dpo-{compute.dpo_micro_batch}"
        train_dpo(settings, compute, _start(bench), pairs, [], out, reports.append)
    whole_seconds = time.perf_counter() - began
    # optimiser time and tokens of each step, those of the first ones left out
    ends = [(report["train_seconds"], report["tokens"]) for report in reports[WARM_UP - 1 :]]
    steps = [(after[0] - before[0], after[1] - before[1]) for before, after in itertools.pairwise(ends)]
    tokens = Measured.of([count / seconds for seconds, count in steps])
    anchor = bench.tokens_per_second
    bench.tell(
        what,
        "tokens/s",
        tokens,
        anchor,
        gates={"memory": peak.bytes <= MORE_THAN_PLANNED * planned},
        goals={"share of pre-training": (tokens.value / anchor.value, GOAL_DPO)} if anchor else {},
        pairs_per_second=Measured.of([settings.pairs_per_step / seconds for seconds, _ in steps]).value,
        anchor_is="the fastest pre-training above" if anchor else None,
        tokens_a_pair=sum(count for _, count in steps) / len(steps) / settings.pairs_per_step,
        memory_gib={"peak": peak.bytes / 2**30, "planned": planned / 2**30, "ratio": peak.bytes / planned},
        whole_seconds=whole_seconds,
        last_loss=reports[-1]["loss"],
    )


def _training(bench: Bench, compute: Compute, start: Path, store: RowStore) -> Pretraining:
    _join_group(bench)
    settings = PretrainSettings(budget="steps:100", tokens_per_step=bench.sizes.tokens_per_step)
    return Pretraining(settings, compute, start, store, store)


def _join_group(bench: Bench) -> None:
    """A process group of one, with the variables that DeepSpeed and accelerate read."""
    if dist.is_initialized():
        return
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    backend = "nccl" if bench.device.kind == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{bench.folder}/group", rank=0, world_size=1)


def unit_lm_shape(bench: Bench) -> PreTrainedConfig:
    """The unit LM of recipe slam: 500 units, RoPE base 10 000."""
    return unit_lm_config(family_config(bench.sizes.family), UNITS, 10_000.0)


def _start(bench: Bench) -> Path:
    """A folder with random weights; made once."""
    folder = bench.folder / "start"
    if not folder.exists():
        torch.manual_seed(0)
        with torch.device(bench.device.kind):
            model = AutoModelForCausalLM.from_config(unit_lm_shape(bench), dtype=torch.float32)
        save_unit_lm(model, folder)
    return folder


def random_units(rng: np.random.Generator, length: int) -> np.ndarray:
    """Units without immediate repeats."""
    return (np.cumsum(rng.integers(1, UNITS.n_units, length)) % UNITS.n_units).astype(np.uint16)


def random_lengths(rng: np.random.Generator, mean: int, count: int) -> list[int]:
    """Lengths from two fifths of the mean to eight fifths."""
    return [int(length) for length in rng.integers(mean * 2 // 5, mean * 8 // 5 + 1, count)]


def _rows(bench: Bench) -> RowStore:
    """Random documents in packed rows; made once."""
    folder, sizes = bench.folder / "rows", bench.sizes
    if not folder.exists():
        rng = np.random.default_rng(0)
        lengths = random_lengths(rng, sizes.document_units, sizes.documents)
        documents = [unit_document(random_units(rng, length), UNITS) for length in lengths]
        write_rows(folder, documents, UNITS, sizes.context)
    return RowStore(folder)


def _pairs(bench: Bench) -> list[dict[str, Any]]:
    """Two steps of random preference pairs."""
    rng, sizes = np.random.default_rng(1), bench.sizes
    count = 2 * sizes.pairs_per_step
    sides = [random_lengths(rng, sizes.side_units, count) for _ in range(3)]
    return [
        dict(
            zip(
                ("pair_id", "prompt", "chosen", "rejected"),
                (f"{number:04d}", *(random_units(rng, length) for length in lengths)),
                strict=True,
            )
        )
        for number, lengths in enumerate(zip(*sides, strict=True))
    ]


def _flops_with_attention(store: RowStore, config: PreTrainedConfig) -> float:
    """Training FLOPs of a token, those of attention inside its piece included, over all rows."""
    length_P: Sequence[int] = store.lengths_P.astype(np.int64).tolist()
    pairs = sum(length * (length + 1) // 2 for length in length_P)
    return training_flops(config, count_config_parameters(config), sum(length_P), pairs) / sum(length_P)
