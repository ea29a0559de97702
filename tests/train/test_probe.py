"""What a device is asked before any work; a CPU answers to the same code."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from support.processes import join_group, run_ranks
from torch.nn.functional import scaled_dot_product_attention

from slamray.config.compute import Compute
from slamray.errors import BadInput
from slamray.model import attention
from slamray.train import probe as probing
from slamray.train.memory import GIB
from slamray.train.probe import Group, probe

ALONE = Group(0, 1, "")
PATHS = [("auto", "float32"), ("auto", "bfloat16"), ("sdpa", "float32"), ("varlen", "bfloat16")]


@pytest.mark.parametrize(("path", "dtype"), PATHS)
def test_a_device_that_can_train_is_found_able_within_seconds(path: str, dtype: str) -> None:
    began = time.monotonic()
    found = probe(Compute.model_validate({"attention": path, "dtype": dtype}), 1, ALONE)
    assert found.name == "the CPU" and 0 < found.free_gb < 2**20
    assert time.monotonic() - began < 20


def test_a_device_with_too_little_free_memory_is_refused_with_both_numbers() -> None:
    with pytest.raises(BadInput, match=r"^\d+\.\d GB of the CPU are free, and training is planned to need 1048576\.0;"):
        probe(Compute(), 2**20 * GIB, ALONE)


def test_a_machine_without_a_driver_is_refused_in_one_line() -> None:
    """As this one: torch says why, whatever it was built for."""
    with pytest.raises(BadInput, match=r"^torch 2\.11\.\d\S* cannot use a GPU: \S") as refused:
        probe(Compute(device="cuda"), 1, ALONE)
    assert "\n" not in str(refused.value)


def causal_over_the_row(module: Any, queries: Any, keys: Any, values: Any, mask: Any, *rest: Any, **_: Any) -> Any:
    keys, values = (heads.repeat_interleave(2, dim=1) for heads in (keys, values))
    return scaled_dot_product_attention(queries, keys, values, is_causal=True).transpose(1, 2), None


def test_attention_that_crosses_pieces_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "varlen_attention", causal_over_the_row)
    message = r"compute\.attention=varlen \(varlen\) is wrong on it: a piece's logits are \d+% off"
    with pytest.raises(BadInput, match=message):
        probe(Compute(attention="varlen", dtype="bfloat16"), 1, ALONE)


@pytest.mark.parametrize("broken", ["forward", "backward"])
def test_attention_that_does_not_run_is_refused(monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            if broken == "forward":
                raise RuntimeError("no kernel image is available for execution on the device\nmore lines")
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no kernel image is available for execution on the device\nmore lines")

    right = attention.varlen_reference
    monkeypatch.setattr(attention, "varlen_reference", lambda *args, **words: Fails.apply(right(*args, **words)))
    message = r"does not run on it: no kernel image is available for execution on the device; say compute"
    with pytest.raises(BadInput, match=message) as told:
        probe(Compute(attention="varlen", dtype="bfloat16"), 1, ALONE)
    assert "\n" not in str(told.value)


def test_devices_that_do_not_meet_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("Timed out after 60 seconds waiting for clients. 1/2 clients joined.\nmore lines")

    monkeypatch.setattr(dist, "init_process_group", never)
    meeting = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with pytest.raises(BadInput, match=r"gloo does not connect 2 devices: Timed out .* 1/2 clients joined\.$"):
        probing._check_collective(torch.device("cpu"), Group(0, 2, f"127.0.0.1:{meeting.port}"))


def meet(rank: int, folder: Path, meeting: str) -> None:
    """A probe makes a group of its own, where there is none yet."""
    dist.destroy_process_group()
    found = probe(Compute(dtype="float32"), 1, Group(rank, 2, meeting))
    (folder / f"{rank}.txt").write_text(found.name)
    assert not dist.is_initialized()
    join_group(os.environ.__setitem__, 0, 1, folder / f"again-{rank}")  # run_ranks leaves it


@pytest.mark.slow
def test_devices_that_meet_are_found_able(tmp_path: Path) -> None:
    meeting = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    run_ranks(meet, 2, tmp_path, f"127.0.0.1:{meeting.port}")
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)] == ["the CPU"] * 2
