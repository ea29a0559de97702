"""Settings of machines and of tracking: where a run goes and how fast, never part of a fingerprint."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field

from slamray.config.base import Settings


class TrackingSettings(Settings):
    """The MLflow store in which runs are compared; never part of a fingerprint."""

    enabled: bool = Field(True, description="false: no MLflow at all")
    uri: str = Field("", description="MLflow server; empty: MLFLOW_TRACKING_URI, else a SQLite store under root")
    experiment: str = Field("slamray", description="MLflow experiment")
    system_metrics: bool = Field(
        False,
        description="load, memory, disk and network of the driver's machine every 10 s, and its GPUs where "
        "nvidia-ml-py is installed",
    )


class Compute(Settings):
    """The machine of a run; `profile=` names one (slamray/config/profiles.py). Never part of a fingerprint."""

    workers: int = Field(1, ge=1, description="training workers, one GPU each where device is cuda")
    device: Literal["cpu", "cuda"] = Field("cpu", description="where training and scoring run")
    cpus_per_worker: int = Field(1, ge=1, description="CPU cores, and torch threads, of a training worker")
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        "auto",
        description="type of matrix products in training; weights stay float32. auto: bfloat16 on GPUs and CPUs with "
        "instructions for it, else float32",
    )
    micro_batch: int = Field(8, ge=1, description="most contexts that one worker holds at once in pre-training")
    dpo_micro_batch: int = Field(4, ge=1, description="most pairs that one worker holds at once in DPO")
    zero_stage: Literal[0, 1, 2, 3] = Field(
        0,
        description="DeepSpeed ZeRO stage. 1 spreads the optimiser's state over the workers, 2 the gradients too, and "
        "3 the weights too: for models that no device holds",
    )
    recompute: bool = Field(
        False,
        description="layers keep their input alone and are computed again in the backward pass: a third more FLOPs, "
        "and little memory for activations; in pre-training and DPO",
    )
    attention: Literal["auto", "sdpa", "varlen"] = Field(
        "auto",
        description="attention over packed rows, in pre-training: torch's with a mask, or its variable-length flash "
        "attention, which multiplies in bfloat16. auto: varlen on GPUs in bfloat16, sdpa on GPUs in float32, products "
        "in blocks on CPUs. DPO and scoring pad their sequences and have no need of it",
    )
    memory_gb: float | None = Field(
        None, gt=0, description="memory of one device; a run that is planned to need more is refused; null: none is"
    )
    peak_tflops: float | None = Field(
        None, gt=0, description="dense bf16 peak of one device, for MFU; null: MFU is not reported"
    )
    report_every_steps: int = Field(10, ge=1, description="optimiser steps between two reports")
    checkpoint_every_seconds: float = Field(60.0, gt=0, description="a kill loses at most this much training")
    min_workers: int | None = Field(
        None,
        ge=1,
        description="training goes on with as few workers as this while nodes are gone, and with all when they are "
        "back; null: it waits for all",
    )
    max_failures: int = Field(
        3,
        ge=0,
        description="training starts again after this many failures in a row without a new checkpoint, not after more",
    )
    stall_seconds: int = Field(
        60,
        ge=1,
        description="a worker that is silent for this long counts as dead; copying a checkpoint must take less",
    )
    notice_seconds: float = Field(
        25.0,
        ge=0,
        description="how long a run waits for a last checkpoint after SIGTERM; Kubernetes sends SIGKILL after 30 s",
    )
    tts_actors: int = Field(
        1, ge=1, description="actors that speak or read for an encoder on a GPU, or make sound alone, one CPU core each"
    )
    encoder_actors: int = Field(
        1, ge=1, description="actors that encode, one CPU core each; without a GPU they speak or read their shards, too"
    )
    encoder_gpus: float = Field(0, ge=0, le=1, description="share of a GPU for each encoder actor")
    encoder_batch_seconds: float = Field(
        60, gt=0, description="padded seconds of audio in one encoder batch; chosen, not tuned"
    )
    score_actors: int = Field(2, ge=1, description="actors that evaluate, one core or one GPU each")
    score_batch_tokens: int = Field(
        8192, ge=1, description="padded tokens in a forward pass of scoring: memory of the logits; chosen, not tuned"
    )
    speak_text_batch: int = Field(
        32, ge=1, description="spans that a text-to-token model speaks at once; changes no unit on a CPU; chosen"
    )
    parallel_stages: int = Field(
        1,
        ge=1,
        description="stages that may run side by side; one that waits for devices that another holds counts, too",
    )
    autoscaled_cpus: int | None = Field(
        None,
        ge=0,
        description="CPU cores that the cluster's autoscaler may bring it to: actors that find no room wait for it to "
        "add nodes, and a stage begins with the first of them; null: what the cluster has is all there is",
    )
    autoscaled_gpus: int | None = Field(None, ge=0, description="the same for GPUs")

    @property
    def precision(self) -> Literal["bfloat16", "float32"]:
        """`dtype`, with auto resolved for the CPU of this process."""
        if self.dtype != "auto":
            return self.dtype
        return "bfloat16" if self.device == "cuda" or cpu_has_bfloat16() else "float32"

    @property
    def packed_attention(self) -> Literal["blockwise", "sdpa", "varlen"]:
        """`attention`, with auto resolved: a name of slamray/model/attention.py."""
        if self.attention != "auto":
            return self.attention
        if self.device == "cpu":
            return "blockwise"
        return "varlen" if self.precision == "bfloat16" else "sdpa"


@lru_cache(maxsize=1)
def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies matrices in bfloat16.

    A CPU without instructions for it emulates it: 0.9 GFLOPS against 67 in float32, for a product of 1024 x 1024 on
    one core of an EPYC without AVX512-BF16.
    """
    try:
        flags = set(re.findall(r"\w+", Path("/proc/cpuinfo").read_text()))
    except OSError:  # no Linux
        return False
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})
