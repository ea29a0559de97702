"""Models that no device holds whole: DeepSpeed's ZeRO 3, in which each rank keeps a range of every parameter.

DeepSpeed leaves of a parameter an empty tensor with `ds_shape` and with `ds_tensor`, this rank's range, padded to the
same length on all ranks. A parameter is whole for as long as a layer computes with it, or as it is written here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import deepspeed
import torch
from accelerate import init_empty_weights
from deepspeed.utils import (
    safe_get_local_fp32_param,
    safe_get_local_optimizer_state,
    safe_set_local_optimizer_state,
)
from transformers import AutoModelForCausalLM, PreTrainedModel

from slamray.model.unit_lm import count_parameters, load_unit_lm, read_lm_config, save_unit_lm, whole_shape
from slamray.stage.folder import Folder
from slamray.train.memory import bucket_elements, live_elements
from slamray.train.ranges import share
from slamray.train.ranks import rank_and_world
from slamray.train.sharded import LAYOUT, Saved, write_part, write_streamed

MOMENTS = ("exp_avg", "exp_avg_sq")
WEIGHTS_FILE = "model.safetensors"  # transformers' name


def autocast_settings(precision: str) -> dict[str, Any]:
    """What DeepSpeed is told so that matrix products are in bfloat16 and gradients are reduced in float32.

    Under ZeRO it would round those of linear layers to autocast's type, and no communication_data_type changes that. An
    engine that is told of no autocast switches its caller's off on a GPU (0.19.8).
    """
    return {
        "torch_autocast": {
            "enabled": precision == "bfloat16",
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],
        },
        "communication_data_type": "fp32",
    }


def bounds(parameters: int) -> dict[str, int]:
    """What DeepSpeed is told besides the stage: elements that it reduces, and under ZeRO 3 has whole, at once."""
    bucket, live = bucket_elements(parameters), live_elements(parameters)
    return {
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
        "stage3_prefetch_bucket_size": bucket,
        "stage3_max_live_parameters": live,
        "stage3_max_reuse_distance": live,
    }


def build_nothing() -> None:
    """Keep DeepSpeed from compiling its CPU communication when an engine is made: 40 s, of a g++ that may not be there.

    Inference in tensor parallel alone calls it (deepspeed/comm/torch.py, `inference_all_reduce`, 0.19.8); collectives
    of training are torch's.
    """
    deepspeed.ops.__compatible_ops__ = {}  # what DeepSpeed thinks that it can build; it keeps what is put there


def load_lm(folder: Path, attention: str, zero_stage: int, device: torch.device) -> PreTrainedModel:
    """The float32 unit LM of a folder, in transformers' format or in parts, on a device.

    Under ZeRO 3 a rank keeps its ranges alone, and the model never is whole anywhere; a collective.
    """
    build_nothing()
    if zero_stage < 3 and not (folder / LAYOUT).is_file():
        return _moved(load_unit_lm(folder, attention), device)
    saved, config = Saved(folder), read_lm_config(str(folder))
    settings: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": attention}
    if zero_stage < 3:
        model = AutoModelForCausalLM.from_config(config, **settings)
        saved.require(name for name, _ in model.named_parameters())
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(saved.whole(name))
        return _moved(model.eval(), device)
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, **settings)
    model.tie_weights()  # each was made anew when it was tied
    saved.require(name for name, _ in model.named_parameters())
    held = {parameter: _held_parameter(saved, name, parameter, device) for name, parameter in model.named_parameters()}
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                module._parameters[name] = held[parameter]  # tied ones are one again
    for module in model.modules():
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.to(device)
    return model.eval()


def _moved(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    torch.nn.Module.to(model, device)  # transformers' own `to` is wrapped and has lost its types
    return model


def _held_parameter(saved: Saved, name: str, empty: torch.nn.Parameter, device: torch.device) -> torch.nn.Parameter:
    """A parameter in DeepSpeed's way, of which this rank has read its range."""
    parameter = torch.nn.Parameter(torch.zeros(empty.shape, device=device), requires_grad=empty.requires_grad)
    deepspeed.zero.Init(module=torch.nn.ParameterList([parameter]), dtype=torch.float32)
    begin, end = share(empty.numel(), *rank_and_world())
    parameter.ds_tensor[: end - begin].copy_(saved.read(name, (begin, end)))  # type: ignore[attr-defined]
    return parameter


@contextmanager
def casts_are_not_kept(zero_stage: int) -> Iterator[None]:
    """Under ZeRO 3 autocast does not keep what it casts: it would hold all weights in bfloat16 for a forward pass."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(before and zero_stage < 3)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


@contextmanager
def computing(model: PreTrainedModel, precision: str) -> Iterator[torch.nn.Module]:
    """A model of `load_lm` under ZeRO 3 that computes without being trained; each call is a collective.

    It can be trained afterwards. DeepSpeed lets nothing go of a model that it has met (0.19.8), so another one would be
    held beside it.
    """
    settings = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": 3, **bounds(count_parameters(model))},
        **autocast_settings(precision),
        "steps_per_print": None,
    }
    engine, *_ = deepspeed.initialize(model=model, config=settings, dist_init_required=False)
    try:
        with casts_are_not_kept(3):
            yield engine
    finally:
        engine.destroy()


def copy_held(model: torch.nn.Module, optimiser: Any) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """This rank's ranges of weights and of AdamW's state, flat on the CPU; optimiser: DeepSpeed's wrapper."""
    rank, world = rank_and_world()
    count = next(iter(optimiser.optimizer.state.values()))["step"].reshape(1)
    weights, state = {}, {}
    for name, parameter in model.named_parameters():
        begin, end = share(whole_shape(parameter).numel(), rank, world)
        weights[name] = safe_get_local_fp32_param(parameter)[: end - begin].to("cpu", copy=True)
        for key in MOMENTS:
            moment = safe_get_local_optimizer_state(parameter, key)
            state[f"{name}/{key}"] = moment[: end - begin].to("cpu", copy=True)
        state[f"{name}/step"] = count[slice(*share(1, rank, world))].to("cpu", copy=True)
    return weights, state


def write_held(
    model: PreTrainedModel,
    weights: Mapping[str, torch.Tensor],
    state: Mapping[str, torch.Tensor],
    model_folder: Path,
    optimiser_folder: Path,
) -> None:
    """Write this rank's parts of what `copy_held` gave, and on rank 0 the model's configuration."""
    rank, world = rank_and_world()
    shapes = shapes_of(model)
    states = {f"{name}/{key}": shape for name, shape in shapes.items() for key in MOMENTS}
    write_part(model_folder, weights, shapes, rank, world)
    write_part(optimiser_folder, state, states | {f"{name}/step": () for name in shapes}, rank, world)
    if rank == 0:
        model.config.save_pretrained(model_folder)


def read_held_moments(saved: Saved, optimiser: Any, model: torch.nn.Module) -> None:
    """Put this rank's ranges of AdamW's state back, whatever number of workers and ZeRO stage wrote them."""
    rank, world = rank_and_world()
    count = saved.whole(next(name for name in saved.shapes if name.endswith("/step")))
    for shard in optimiser.fp32_partitioned_groups_flat:
        moments = {key: torch.zeros_like(shard) for key in MOMENTS}
        optimiser.optimizer.state[shard] = {"step": count.clone().to(shard.device), **moments}
    for name, parameter in model.named_parameters():
        wanted = share(whole_shape(parameter).numel(), rank, world)
        for key in MOMENTS:
            padded = torch.zeros_like(parameter.ds_tensor)  # type: ignore[attr-defined]
            padded[: wanted[1] - wanted[0]].copy_(saved.read(f"{name}/{key}", wanted))
            safe_set_local_optimizer_state(parameter, padded, key)


def save_whole(model: PreTrainedModel, out: Folder, name: str) -> None:
    """Leave out/name as `save_unit_lm` writes it, while one parameter at a time is whole; a collective.

    Rank 0 alone writes.
    """

    def write(folder: Path) -> None:
        save_unit_lm(model, folder, weights={})
        write_streamed(folder / WEIGHTS_FILE, shapes_of(model), _whole_parameters(model))

    if rank_and_world()[0] == 0:
        out.write_tree(name, write)
        return
    for _ in _whole_parameters(model):
        continue


def shapes_of(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """Of whole parameters, tied ones once."""
    return {name: tuple(whole_shape(parameter)) for name, parameter in model.named_parameters()}


def _whole_parameters(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Each is gathered on all ranks, sorted by name, and let go when the next is asked for."""
    for name, parameter in sorted(model.named_parameters()):
        with deepspeed.zero.GatheredParameters([parameter]):
            yield name, parameter.data
