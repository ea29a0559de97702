"""What is measured and how it is told: sizes, a line of JSON for each figure, gates, and the time of a part."""

from __future__ import annotations

import json
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from gpu_parts.device import Device


@dataclass(frozen=True)
class Sizes:
    """How large everything is; see FULL and TOY."""

    product: int  # rows and columns of the matrices that are multiplied
    copied_bytes: int
    family: str  # the text LM's shape, a name of slamray/model/families.py
    context: int
    tokens_per_step: int
    document_units: int  # mean length of a document
    documents: int
    micro_batches: tuple[int, ...]
    steps: int  # timed optimiser steps of pre-training, at most
    pairs: tuple[int, ...]  # micro-batches of DPO
    pairs_per_step: int
    side_units: int  # mean length of a prompt, and of what follows it
    dpo_steps: int
    hubert: Mapping[str, Any]  # what differs from transformers' HubertConfig, a HuBERT base
    layer: int
    centroids: int
    recordings: int
    recording_seconds: float  # mean
    compared_seconds: float  # of recordings, encoded on the CPU too
    batch_seconds: float
    actor_passes: int  # over all recordings
    scored_pairs: int
    score_batch_tokens: tuple[int, ...]
    text_tokens: int  # of the joint vocabulary
    spans: int  # texts that are turned into units
    span_text_tokens: int  # mean
    span_units: int  # mean
    span_batches: tuple[int, ...]
    compared_spans: int  # of them, spoken in a batch of 1 too


# mHuBERT 25 Hz (docs/paper.md 1.2): a HuBERT base with an eighth convolution.
_25_HZ = {
    "conv_stride": (5, 2, 2, 2, 2, 2, 2, 2),
    "conv_kernel": (10, 3, 3, 3, 3, 2, 2, 2),
    "num_feat_extract_layers": 8,
}
# Recipe slam on an H100: documents as long as a story of sTinyStories, pairs about as long as SpokenSwag's.
FULL = Sizes(
    product=8192,
    copied_bytes=2**32,
    family="Qwen/Qwen2.5-0.5B",
    context=1024,
    tokens_per_step=131_072,
    document_units=700,
    documents=1200,
    micro_batches=(8, 32),
    steps=6,
    pairs=(4, 16, 64),
    pairs_per_step=64,
    side_units=70,
    dpo_steps=6,
    hubert={**_25_HZ, "conv_dim": (512,) * 8},
    layer=11,
    centroids=500,
    recordings=16,
    recording_seconds=50.0,
    compared_seconds=120.0,
    batch_seconds=600.0,
    actor_passes=20,
    scored_pairs=512,
    score_batch_tokens=(8192, 65_536),
    text_tokens=151_665,
    spans=2048,
    span_text_tokens=13,
    span_units=80,
    span_batches=(256, 1024),
    compared_spans=16,
)
_TINY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}
TOY = Sizes(
    product=128,
    copied_bytes=2**22,
    family="llama-2x64",
    context=64,
    tokens_per_step=512,
    document_units=40,
    documents=40,
    micro_batches=(2, 4),
    steps=2,
    pairs=(1, 2, 4),
    pairs_per_step=4,
    side_units=12,
    dpo_steps=3,
    hubert={**_25_HZ, "conv_dim": (32,) * 8, **_TINY},
    layer=2,
    centroids=20,
    recordings=4,
    recording_seconds=3.0,
    compared_seconds=6.0,
    batch_seconds=8.0,
    actor_passes=2,
    scored_pairs=8,
    score_batch_tokens=(256, 1024),
    text_tokens=300,
    spans=40,
    span_text_tokens=6,
    span_units=12,
    span_batches=(8, 32),
    compared_spans=4,
)


@dataclass(frozen=True)
class Measured:
    """A figure, and the least and the greatest of the repeats that it is the median of."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Measured:
        return cls(median(values), min(values), max(values))

    @classmethod
    def single(cls, value: float) -> Measured:
        return cls(value, value, value)


class OutOfTime(BaseException):
    """A part took longer than it may. No Exception: libraries that catch those must not swallow it."""


@dataclass
class Bench:
    """One run of the benchmark. folder: for what is large and thrown away at the end."""

    device: Device
    sizes: Sizes
    folder: Path
    out: Path
    commit: str
    failed: list[str] = field(default_factory=list)
    peak_tflops: float | None = None  # as measured
    tokens_per_second: Measured | None = None  # of the fastest pre-training
    _ends: float = float("inf")  # when the part's time is over
    _longest: float = 0.0  # seconds of an attempt in it

    @contextmanager
    def limited(self, seconds: float) -> Iterator[None]:
        """OutOfTime inside the block when so many seconds are over."""

        def ring(*_: Any) -> None:
            raise OutOfTime

        self._ends, self._longest = time.monotonic() + seconds, 0.0
        handler, timer = signal.signal(signal.SIGALRM, ring), signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, *timer)
            signal.signal(signal.SIGALRM, handler)

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """An error inside the block is told and counts as a failed gate; what comes after it is still measured."""
        began = time.monotonic()
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self._write({"what": what, "error": f"{type(error).__name__}: {str(error)[:500]}"})
            self.failed.append(f"{what}: error")
        self.device.forget()
        self._longest = max(self._longest, time.monotonic() - began)

    @property
    def left(self) -> float:
        """Seconds that this part may still take."""
        return self._ends - time.monotonic()

    def room(self, what: str) -> bool:
        """Whether as much time is left as the longest attempt of this part took; else it is told."""
        if self.left < self._longest:
            self.skip(what, f"{self.left:.0f} s are left, and {self._longest:.0f} s may be needed")
        return self.left >= self._longest

    def skip(self, what: str, why: str) -> None:
        """Say that something is not measured."""
        self._write({"what": what, "skipped": why})

    def tell(
        self,
        what: str,
        unit: str,
        ours: Measured,
        anchor: Measured | None = None,
        gates: Mapping[str, bool] | None = None,
        goals: Mapping[str, tuple[float, float]] | None = None,
        **details: Any,
    ) -> None:
        """Write a figure.

        ratio is ours to the anchor, low and high its extremes; without an anchor they are those of ours. gates: by
        name, whether each holds. goals: what was reached, and what is wanted.
        """
        ratio = ours.value / anchor.value if anchor else None
        low, high = (ours.low / anchor.high, ours.high / anchor.low) if anchor else (ours.low, ours.high)
        self.failed += [f"{what}: {name}" for name, holds in (gates or {}).items() if not holds]
        told = {name: {"reached": reached, "goal": wanted} for name, (reached, wanted) in (goals or {}).items()}
        row = {"what": what, "unit": unit, "anchor": anchor and anchor.value, "ours": ours.value}
        row |= {"ratio": ratio, "low": low, "high": high}
        self._write(row | ({"gates": dict(gates)} if gates else {}) | ({"goals": told} if told else {}) | details)

    def end(self) -> int:
        """Name the gates that failed; the exit code."""
        self._write({"what": "gates", "failed": self.failed})
        return 1 if self.failed else 0

    def _write(self, row: Mapping[str, Any]) -> None:
        line = json.dumps(_rounded({**row, "commit": self.commit, "device": self.device.name}))
        print(line, flush=True)
        with (self.out / "gpu.jsonl").open("a") as file:
            file.write(line + "\n")
        sys.stdout.flush()


def _rounded(value: Any) -> Any:
    """Floats of six digits, in whatever holds them."""
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
