"""How much memory a worker of pre-training or DPO will need, known before any weight is loaded.

Weights, gradients and the optimiser's state are counted. What a micro-batch keeps between its forward and its backward
pass is found by running both on fake tensors, which have shapes and no memory: right for every family, attention and
precision, in two seconds for 0.4B parameters.

Legend: B rows of a micro-batch, C tokens of a row, V vocabulary.
"""

from __future__ import annotations

import functools
import json
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import Linear
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from slamray.config.compute import Compute
from slamray.config.training import DpoSettings, OptimSettings
from slamray.errors import BadInput
from slamray.model.attention import (
    BLOCKWISE,
    PLANNED_VARLEN,
    QUERIES,
    VARLEN,
    Block,
    inside_pieces,
    register_attention,
)
from slamray.model.unit_lm import recompute_layers
from slamray.train.optim import state_bytes, step_bytes

GIB = 2**30  # bytes of a GB, as makers of devices count them
FLOAT32, BFLOAT16 = 4, 2  # bytes
SCORED_AT_ONCE = 4  # micro-batches of pairs that DPO scores at once: without gradients there is room; chosen, not tuned
BUCKET_ELEMENTS = 50_000_000  # gradients that ZeRO reduces at once, two float32 buffers of it; chosen, not tuned
SUB_GROUP_ELEMENTS = 10**9  # that ZeRO 3 updates at once, from one flat copy of their gradients: DeepSpeed's default
LIVE_ELEMENTS = 500_000_000  # of parameters that ZeRO 3 has whole at once: two layers of a 9B; chosen, not tuned


@dataclass(frozen=True)
class Memory:
    """Bytes on one device at the peak of a step. CUDA's own context (0.3 to 0.6 GiB) and fragmentation come on top."""

    weights: int
    gradients: int
    optimiser: int  # its state; under ZeRO its float32 copy of the weights too
    buffers: int  # of ZeRO's reductions, and under ZeRO 3 parameters that are whole
    activations: int  # what the forward pass of a micro-batch keeps
    logits: int  # what the loss adds: float32 logits, their softmax and gradient; or a layer that is computed again
    update: int  # temporary tensors of the optimiser's step and of the gradients' reduction, when activations are gone
    scoring: int = 0  # of DPO's evaluations on the way: a second copy of the model, and its forward pass

    @property
    def total(self) -> int:
        lasting = self.weights + self.gradients + self.optimiser + self.buffers
        return lasting + max(self.activations + self.logits, self.update, self.scoring)

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {value / GIB:.2f}" for name, value in asdict(self).items() if value)
        return f"{self.total / GIB:.2f} GB a device ({parts})"


def bucket_elements(parameters: int) -> int:
    """Elements of ZeRO's reduction buffers; DeepSpeed's own default takes 4 GB for the smallest model."""
    return min(parameters, BUCKET_ELEMENTS)


def live_elements(parameters: int) -> int:
    """Elements of parameters that are whole at once under ZeRO 3."""
    return min(parameters, LIVE_ELEMENTS)


def planned_memory(
    config: PreTrainedConfig, optim: OptimSettings, compute: Compute, context: int, contexts_per_row: int = 1
) -> Memory:
    """The peak of pre-training a unit LM of this configuration on one of `compute`'s workers, in float32 weights.

    For steps of two micro-batches or more; with a single one gradients and activations do not meet, and it is less.
    Fake tensors live on a CPU, where varlen's kernel is described by its shapes: it keeps queries, keys, values, output
    and one float32 for each token and head. What it needs while it runs is not in there, nor what its CPU reference
    keeps.
    """
    attention = PLANNED_VARLEN if compute.packed_attention == VARLEN else compute.packed_attention
    shape = compute.micro_batch, context * contexts_per_row, context
    traced = _trace(config.to_json_string(), attention, _way(compute), *shape)
    return _memory(traced, optim, compute)


def planned_dpo_memory(config: PreTrainedConfig, dpo: DpoSettings, compute: Compute) -> Memory:
    """The same of DPO, whose pairs are at most as long as `dpo.context`: planned as if all were.

    The reference's log-likelihoods are computed before training, so no second model stays in memory. Under ZeRO 3 the
    held-out pairs are scored beside the state of training, which spreads the weights.
    """
    shape, attention, dtype = config.to_json_string(), pair_attention(compute), compute.precision
    row = 2 * dpo.context  # of a prompt that is short beside the sides
    traced = _trace(shape, attention, _way(compute), compute.dpo_micro_batch, row, row)
    planned = _memory(traced, dpo.optim, compute)
    rows = SCORED_AT_ONCE * compute.dpo_micro_batch
    if compute.zero_stage == 3:
        planned = replace(planned, scoring=_trace_scoring(shape, attention, dtype, False, rows, row))
    if dpo.evaluations:
        forward = _trace_scoring(shape, attention, dtype, True, rows, row)
        planned = replace(planned, scoring=FLOAT32 * traced.parameters + forward)
    return planned


def pair_attention(compute: Compute) -> str:
    """What DPO computes attention by: a pair is one row, whose two sides see the prompt and not each other.

    varlen's boundaries cannot say that, so CUDA takes torch's fused attention with a mask. On CPUs plain matrix
    products beat it, as pairs are short: 5 M parameters, 16 sequences of 136 tokens, bf16, forward and backward, one
    core: 15 pairs/s against 11.
    """
    return "eager" if compute.device == "cpu" else "sdpa"


def _memory(traced: _Traced, optim: OptimSettings, compute: Compute) -> Memory:
    parameters, stage = traced.parameters, compute.zero_stage
    weights = FLOAT32 * parameters

    def spread(held: int, first_stage: int) -> int:
        return held // compute.workers if stage >= first_stage else held

    reduced = weights if compute.workers > 1 and stage == 0 else 0  # DeepSpeed reduces one flat copy of all gradients
    copied = weights if stage in (1, 2) else 0  # ZeRO 3's ranges are float32 already, and are updated in place
    flattened = FLOAT32 * min(spread(parameters, 3), SUB_GROUP_ELEMENTS) if stage == 3 else 0
    whole = live_elements(parameters) if stage == 3 else 0
    kept = 0 if stage == 3 else traced.casts  # ZeRO 3's layers keep the parameter, and not what it is cast to
    return Memory(
        weights=spread(weights, 3),
        gradients=spread(weights, 2),
        optimiser=spread(state_bytes(optim, traced.shapes) + copied, 1),
        buffers=FLOAT32 * (2 * bucket_elements(parameters) + whole) if stage else 0,
        activations=traced.after_forward - traced.casts + kept,
        logits=traced.peak - traced.after_forward,
        update=max(spread(step_bytes(optim, traced.shapes), 1), reduced, flattened),
    )


def check_memory(planned: Memory, compute: Compute, training: str, ceiling: str) -> None:
    """BadInput when the devices are known to be smaller. training, ceiling: for the message, what to lower."""
    if compute.memory_gb is not None and planned.total > compute.memory_gb * GIB:
        raise BadInput(
            f"compute.memory_gb={compute.memory_gb:g}: {training} is planned to need {planned}; lower "
            f"{ceiling}, say compute.recompute=true, raise compute.zero_stage or choose another profile"
        )


@dataclass(frozen=True)
class _Way:
    """How a forward and a backward pass are made. casts_are_kept: by autocast, until the forward pass ends."""

    bfloat16: bool
    recompute: bool
    casts_are_kept: bool


def _way(compute: Compute) -> _Way:
    return _Way(compute.precision == "bfloat16", compute.recompute, casts_are_kept=compute.zero_stage < 3)


@dataclass(frozen=True)
class _Traced:
    shapes: tuple[tuple[int, ...], ...]  # of the parameters
    after_forward: int  # bytes
    peak: int  # bytes
    casts: int  # bytes of weights in autocast's type, which matrices keep for the backward pass

    @property
    def parameters(self) -> int:
        return sum(torch.Size(shape).numel() for shape in self.shapes)


@functools.lru_cache(maxsize=64)
def _trace(config: str, attention: str, way: _Way, rows: int, row_tokens: int, context: int) -> _Traced:
    """One micro-batch, forward and backward, on fake tensors; parameters, gradients and inputs are not counted."""
    with FakeTensorMode():
        shape, registered = AutoConfig.for_model(**json.loads(config)), register_attention(attention)
        model = AutoModelForCausalLM.from_config(shape, dtype=torch.float32, attn_implementation=registered)
        if way.recompute:
            recompute_layers(model.train())
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        tokens_BC = torch.zeros(rows, row_tokens, dtype=torch.long)
        inside = _inside_pieces_like(attention, tokens_BC, context)
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        with LiveBytes([*model.parameters(), *model.buffers(), *gradients, tokens_BC]) as live:
            with torch.autocast("cpu", torch.bfloat16, enabled=way.bfloat16, cache_enabled=way.casts_are_kept):
                logits_BCV = model(input_ids=tokens_BC, position_ids=tokens_BC, use_cache=False, **inside).logits
            after_forward = live.now
            cross_entropy(logits_BCV.flatten(0, 1).float(), tokens_BC.flatten(), reduction="sum").backward()
        shapes = tuple(tuple(parameter.shape) for parameter in model.parameters())
        matrices = {id(module.weight): module.weight for module in model.modules() if isinstance(module, Linear)}
    cast = sum(weight.numel() for weight in matrices.values()) if way.bfloat16 and not way.recompute else 0
    return _Traced(shapes, after_forward, live.peak, BFLOAT16 * cast)


@functools.lru_cache(maxsize=64)
def _trace_scoring(config: str, attention: str, dtype: str, casts_are_kept: bool, rows: int, row_tokens: int) -> int:
    """The peak in bytes of a forward pass without gradients and of log-likelihoods from its logits; see _trace."""
    with FakeTensorMode(), torch.no_grad():
        shape = AutoConfig.for_model(**json.loads(config))
        model = AutoModelForCausalLM.from_config(shape, dtype=torch.float32, attn_implementation=attention)
        tokens_BC = torch.zeros(rows, row_tokens, dtype=torch.long)
        inside = _inside_pieces_like(attention, tokens_BC, row_tokens)
        with LiveBytes([*model.parameters(), *model.buffers(), tokens_BC]) as live:
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16", cache_enabled=casts_are_kept):
                logits_BCV = model(input_ids=tokens_BC, position_ids=tokens_BC, use_cache=False, **inside).logits
            cross_entropy(logits_BCV.float().transpose(1, 2), tokens_BC, reduction="none")
    return live.peak


def _inside_pieces_like(attention: str, tokens_BC: torch.Tensor, context: int) -> dict[str, Any]:
    """What `inside_pieces` gives for rows of several pieces; fake tensors have no values to find pieces in.

    eager is DPO's alone, whose mask is a bias; sdpa's has the same size there. blockwise is planned with pieces as long
    as may be, which begin as early as may be.
    """
    rows, row_tokens = tokens_BC.shape
    if attention == PLANNED_VARLEN:
        return inside_pieces(tokens_BC, torch.zeros(rows + 1, dtype=torch.int32), context, attention)
    if attention == BLOCKWISE:
        blocks = []
        for first in range(0, row_tokens, QUERIES):
            begin, last = max(0, first + 1 - context), min(first + QUERIES, row_tokens)
            bias = torch.zeros(rows, 1, last - first, last - begin, dtype=torch.bfloat16)
            blocks.append(Block(begin, first, last, bias))
        return {"attention_mask": None, "blocks": blocks}
    dtype = {"sdpa": torch.bool, "eager": torch.float32}[attention]
    return {"attention_mask": torch.ones(rows, 1, row_tokens, row_tokens, dtype=dtype)}


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that are made inside it and still live: `now`, and at most, `peak`."""

    def __init__(self, not_counted: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._not_counted = [tensor.untyped_storage() for tensor in not_counted]  # kept, so that no address is reused
        self._known = {storage._cdata for storage in self._not_counted}

    def __torch_dispatch__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size
