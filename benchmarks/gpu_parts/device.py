"""The device that is measured: all that differs between a GPU and the CPU on which the benchmark is tried out."""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch.profiler import ProfilerActivity, profile

from slamray.config.compute import Compute

# By a part of the device's name, the first that fits: dense bfloat16 TFLOP/s and memory GB/s of NVIDIA's data sheets.
NOMINAL = {
    "H200": (989.4, 4800.0),
    "H100 PCIe": (756.0, 2000.0),
    "H100": (989.4, 3350.0),
    "A100": (311.9, 2039.0),
    "A5000": (111.1, 768.0),
}


@dataclass
class Peak:
    """The most bytes that tensors took at once; known when the block of `Device.peak` has ended."""

    bytes: int = 0


@dataclass(frozen=True)
class Device:
    """A GPU, or the CPU."""

    kind: Literal["cpu", "cuda"]

    @property
    def name(self) -> str:
        return torch.cuda.get_device_name() if self.kind == "cuda" else "CPU"

    @property
    def nominal(self) -> tuple[float | None, float | None]:
        """TFLOP/s and GB/s of the data sheet; None where the device is not in the table."""
        found = [figures for part, figures in NOMINAL.items() if part in self.name]
        return found[0] if found else (None, None)

    @property
    def compute(self) -> Compute:
        """A machine of one such device. On the CPU in float32: not every CPU has bfloat16."""
        dtype = "bfloat16" if self.kind == "cuda" else "float32"
        return Compute.model_validate({"device": self.kind, "dtype": dtype, "report_every_steps": 1})

    @property
    def compiler(self) -> str:
        """What torch.compile makes of a graph: kernels, or on the CPU the graph as it is, which takes no compiler."""
        return "inductor" if self.kind == "cuda" else "eager"

    def wait(self) -> None:
        """Until the device has done all that it was given."""
        if self.kind == "cuda":
            torch.cuda.synchronize()

    def forget(self) -> None:
        """Give back memory that nothing uses."""
        gc.collect()
        if self.kind == "cuda":
            torch.cuda.empty_cache()

    def free_bytes(self) -> int:
        """Memory that nobody has taken."""
        if self.kind == "cuda":
            return torch.cuda.mem_get_info()[0]
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

    def seconds(self, function: Callable[[], Any], calls: int, repeats: int) -> list[float]:
        """Seconds of a call, `repeats` times the mean of so many calls, after some that are not counted."""
        found = []
        for repeat in range(repeats + 1):
            self.wait()
            began = time.perf_counter()
            for _ in range(calls):
                function()
            self.wait()
            if repeat:
                found.append((time.perf_counter() - began) / calls)
        return found

    @contextmanager
    def peak(self) -> Iterator[Peak]:
        """The peak of tensors that are made in the block, by the allocator itself.

        On the CPU the profiler hears every allocation; its count begins where that of an earlier block ended.
        """
        found = Peak()
        if self.kind == "cuda":
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            yield found
            found.bytes = torch.cuda.max_memory_allocated() - before
            return
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            yield found
        with tempfile.TemporaryDirectory() as folder:
            recorded.export_chrome_trace(f"{folder}/trace.json")
            events = json.loads(Path(folder, "trace.json").read_text())["traceEvents"]
        heard = sorted((event["ts"], event["args"]) for event in events if event.get("name") == "[memory]")
        before = heard[0][1]["Total Allocated"] - heard[0][1]["Bytes"]
        found.bytes = max(counts["Total Allocated"] for _, counts in heard) - before

    @contextmanager
    def tf32(self, allowed: bool) -> Iterator[None]:
        """Whether products and convolutions of float32 may round their factors to 10 bits; a CPU does not."""
        flags: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn]
        before = [flag.allow_tf32 for flag in flags]
        for flag in flags:
            flag.allow_tf32 = allowed
        try:
            yield
        finally:
            for flag, value in zip(flags, before, strict=True):
                flag.allow_tf32 = value

    def waits(self, function: Callable[[], Any]) -> dict[str, int]:
        """Where in Python the host waits for the device in a call, and how often.

        torch tells of its own waits, such as `.item()`; calls of torch.cuda.synchronize it does not, and they are
        counted apart.
        """
        if self.kind == "cpu":
            function()
            return {}
        asked: Counter[str] = Counter()
        cuda: Any = torch.cuda
        synchronize = cuda.synchronize

        def counted(*args: Any) -> None:
            frame = sys._getframe(1)
            while frame.f_back and frame.f_code.co_filename.endswith("cuda_accelerator.py"):  # DeepSpeed's own door
                frame = frame.f_back
            asked[f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"] += 1
            synchronize(*args)

        cuda.synchronize = counted
        cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as heard:
                warnings.simplefilter("always")
                function()
        finally:
            cuda.set_sync_debug_mode("default")
            cuda.synchronize = synchronize
        said = [one for one in heard if "synchronizing" in str(one.message)]
        return dict((asked + Counter(f"{Path(one.filename).name}:{one.lineno}" for one in said)).most_common())
