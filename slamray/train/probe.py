"""Can this device train? Asked on every GPU before any work, in seconds; the same code answers for a CPU.

What it would cost to find out later: hours of speech are made before the first training step.

Legend: B rows, C context, V vocabulary.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # it is exported, but not by name
from transformers import AutoModelForCausalLM, Qwen2Config

from slamray.config.compute import Compute
from slamray.errors import BadInput
from slamray.model.attention import inside_pieces, register_attention
from slamray.train.memory import GIB

CONTEXT = 64
TOLERANCE = 0.03  # of the logits' size: bfloat16 keeps 8 bits, through two layers; a wrong mask gives 0.3 and more
GROUP_SECONDS = 60  # for all devices to meet; chosen, not tuned


@dataclass(frozen=True)
class Group:
    """The devices that are asked together. meeting: host:port of a torch TCPStore that all of them reach."""

    rank: int
    world: int
    meeting: str


@dataclass(frozen=True)
class Device:
    """What was found: a device that can train."""

    name: str
    free_gb: float


def probe(compute: Compute, needed_bytes: int, group: Group) -> Device:
    """Driver, free memory, bf16, the chosen attention in both directions, and the collective; BadInput with the reason.

    needed_bytes: what training is planned to need of a device.
    """
    device = torch.device(compute.device)
    name, free = _free_memory(device)
    if free < needed_bytes:
        raise BadInput(
            f"{free / GIB:.1f} GB of {name} are free, and training is planned to need {needed_bytes / GIB:.1f}; free "
            "some, lower compute.micro_batch or compute.dpo_micro_batch, or choose another profile"
        )
    _check_attention(compute, device)
    if group.world > 1:
        _check_collective(device, group)
    return Device(name, free / GIB)


def _free_memory(device: torch.device) -> tuple[str, int]:
    """Its name, and the bytes that nobody has taken."""
    if device.type == "cpu":
        return "the CPU", os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        torch.cuda.init()
        name, free = torch.cuda.get_device_name(device), torch.cuda.mem_get_info(device)[0]
    except (RuntimeError, AssertionError) as error:  # no driver, one too old, or a torch that was built without CUDA
        raise BadInput(f"torch {torch.__version__} cannot use a GPU: {_first_line(error)}") from error
    return name, free


def _check_attention(compute: Compute, device: torch.device) -> None:
    """A small model in the precision of training: a piece in a packed row against the piece alone, in float32."""
    bfloat16 = compute.precision == "bfloat16"
    if bfloat16 and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise BadInput(f"{torch.cuda.get_device_name(device)} has no bfloat16; say compute.dtype=float32")
    attention = compute.packed_attention
    generator = torch.Generator().manual_seed(0)
    tokens_BC = torch.randint(2, 32, (2, CONTEXT), generator=generator).to(device)
    half = torch.arange(CONTEXT // 2)
    positions_BC = torch.cat([half, half]).repeat(2, 1).to(device)
    boundaries_N = torch.arange(0, 2 * CONTEXT + 1, CONTEXT // 2, dtype=torch.int32).to(device)
    try:
        model = _small_model(attention, device)
        inside = inside_pieces(positions_BC, boundaries_N, CONTEXT, attention)
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            logits_BCV = model(input_ids=tokens_BC, position_ids=positions_BC, use_cache=False, **inside).logits
        logits_BCV.float().logsumexp(-1).sum().backward()
        gradients = torch.stack([p.grad.abs().max() for p in model.parameters() if p.grad is not None])
        with torch.no_grad():
            alone_BCV = _small_model("eager", device)(input_ids=tokens_BC[:, CONTEXT // 2 :], use_cache=False).logits
        found_BCV = logits_BCV[:, CONTEXT // 2 :].detach().float()
        error = ((found_BCV - alone_BCV).norm() / alone_BCV.norm()).item()
    except (RuntimeError, NotImplementedError) as failure:
        raise BadInput(
            f"compute.attention={compute.attention} ({attention}) does not run on it: {_first_line(failure)}; "
            "say compute.attention=sdpa"
        ) from failure
    if not error < TOLERANCE or not gradients.isfinite().all():
        raise BadInput(
            f"compute.attention={compute.attention} ({attention}) is wrong on it: a piece's logits are {error:.0%} off "
            "those of the piece alone; say compute.attention=sdpa"
        )


def _small_model(attention: str, device: torch.device) -> torch.nn.Module:
    """Two layers with grouped heads of 64 channels; the same weights every time."""
    config = Qwen2Config(
        vocab_size=32,
        hidden_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=256,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=register_attention(attention))
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.data.normal_(std=0.1)  # so that attention shows in the logits
    return model.to(device)


def _check_collective(device: torch.device, group: Group) -> None:
    """A sum over all devices, in a process group that is gone afterwards unless it fails."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    limit, (host, _, port) = timedelta(seconds=GROUP_SECONDS), group.meeting.rpartition(":")
    try:
        meeting = TCPStore(host, int(port), is_master=False, timeout=limit)
        dist.init_process_group(backend, store=meeting, rank=group.rank, world_size=group.world, timeout=limit)
        ones = torch.ones(1024, device=device)
        dist.all_reduce(ones)
        total = ones.max().item()
        dist.destroy_process_group()
    except (RuntimeError, ValueError) as error:
        raise BadInput(f"{backend} does not connect {group.world} devices: {_first_line(error)}") from error
    if total != group.world:
        raise BadInput(f"{backend} adds {group.world} ones up to {total:g}")


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).split("\n")[0].split())[:200] or type(error).__name__
