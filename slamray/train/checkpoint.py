"""Checkpoints, whole or absent: a folder appears at once, or its marker with checksums last; the newest whole one wins.

A checkpoint holds nothing that depends on the number of workers:
    model/                  the model in plain transformers format: `load_unit_lm` reads it
    optimiser.safetensors   "<parameter name>/<state>": AdamW's moments in full shape, float32, or another's state
    state.json              step, spent budget, history, and whatever else the loop gives
    complete.json           the marker: size and SHA-256 of every other file
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from deepspeed.utils import safe_get_full_optimizer_state, safe_set_full_optimizer_state
from safetensors.torch import load_file, save_file

from slamray import store
from slamray.errors import BadInput
from slamray.stage.folder import Folder, Root

MARKER = "complete.json"
_MOMENTS = ("exp_avg", "exp_avg_sq")
_STEPS = "step"  # the count of an optimiser that counts for all parameters together (AdEMAMix)
_PREFIX = "step-"

log = logging.getLogger(__name__)


def save_checkpoint(folder: Root, step: int, write: Callable[[Path], None], keep: int = 2) -> str:
    """Write `folder/step-N` through `write(temporary folder)`; a kill at any moment leaves it whole or absent.

    The newest `keep` checkpoints stay (two by default, so that a torn one can be passed over); the new one's name.
    """
    folder, name = Folder(folder), f"{_PREFIX}{step:09d}"
    folder.write_tree(name, partial(_write_whole, write), last=MARKER)
    kept = _begun(folder)[-keep:]
    for old in folder.names(f"{_PREFIX}*"):
        if old not in kept:
            folder.remove(old)
    return name


def _write_whole(write: Callable[[Path], None], temporary: Path) -> None:
    """What `write` leaves, on the disk for sure, and the marker that names it."""
    temporary.mkdir(parents=True)
    write(temporary)
    files = sorted(path for path in temporary.rglob("*") if path.is_file())
    for path in files:
        store.fsync(path)
    marker = {
        str(path.relative_to(temporary)): {"bytes": path.stat().st_size, "sha256": store.sha256_of(path)}
        for path in files
    }
    (temporary / MARKER).write_text(json.dumps(marker, indent=1, sort_keys=True))
    store.fsync(temporary / MARKER)
    store.fsync(temporary)


class Saver:
    """Writes checkpoints behind training's back: one in flight, for which the next one waits, and the end too."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[str] | None = None

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        """Begin `save_checkpoint`; what `write` writes must not change any more. Raises what went wrong before."""
        self.wait()
        self._writing = self._thread.submit(save_checkpoint, self._folder, step, write)

    def wait(self) -> None:
        """Until nothing is in flight; raises what writing raised."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()


def newest_complete(folder: Root) -> str | None:
    """The name of the newest whole checkpoint, or None where none was ever begun.

    A torn one is passed over with a warning that names it. BadInput when there are checkpoints and none is whole:
    starting again from nothing without a word would be worse.
    """
    folder = Folder(folder)
    found = _begun(folder)
    for name in reversed(found):
        flaw = _flaw(folder.fetch(name))
        if not flaw:
            return name
        log.warning("checkpoint %s is torn (%s); trying the one before", folder / name, flaw)
    if found:
        raise BadInput(
            f"{folder}: none of {len(found)} checkpoints is whole; delete the folder to train from the start"
        )
    return None


def _begun(folder: Folder) -> list[str]:
    """Names of checkpoints, the oldest first.

    In a store one without its marker was cut off while it was written; on a disk it has lost it.
    """
    if folder.is_shared:
        return folder.names(f"{_PREFIX}*")
    return [name.partition("/")[0] for name in folder.names(f"{_PREFIX}*/{MARKER}")]


def write_state(checkpoint: Path, state: dict[str, Any]) -> None:
    """Plain JSON values; floats survive exactly."""
    (checkpoint / "state.json").write_text(json.dumps(state))


def read_state(checkpoint: Path) -> dict[str, Any]:
    """What `write_state` has written."""
    state: dict[str, Any] = json.loads((checkpoint / "state.json").read_text())
    return state


def copy_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights as they are now, on the CPU; tied ones once."""
    return {name: p.detach().to("cpu", copy=True) for name, p in model.named_parameters()}


def copy_state(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """An optimiser's tensors as they are now, on the CPU."""
    return {name: value.to("cpu", copy=True) for name, value in tensors.items()}


def write_optimiser(checkpoint: Path, tensors: dict[str, torch.Tensor]) -> None:
    """An optimiser's tensors by name, as safetensors."""
    save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, checkpoint / "optimiser.safetensors")


def gather_optimiser(optimiser: Any, model: torch.nn.Module, zero_stage: int) -> dict[str, torch.Tensor]:
    """The state of an optimiser, or of DeepSpeed's wrapper around AdamW, in full shape by parameter name.

    Under ZeRO a collective that every rank must call.
    """
    if zero_stage == 0:
        tensors = {
            f"{name}/{key}": value.detach()
            for name, parameter in model.named_parameters()
            for key, value in optimiser.state[parameter].items()
        }
        if _STEPS in optimiser.param_groups[0]:
            tensors[_STEPS] = torch.tensor(optimiser.param_groups[0][_STEPS])
        return tensors
    sharded = optimiser.optimizer  # DeepSpeed's wrapper keeps torch's optimiser over its flat shards
    count = next(iter(sharded.state.values()))["step"]
    if zero_stage < 3:
        _link(optimiser)
    tensors = {}
    for name, parameter in model.named_parameters():
        tensors[f"{name}/step"] = count.clone()
        for key in _MOMENTS:
            tensors[f"{name}/{key}"] = safe_get_full_optimizer_state(parameter, key)
    return tensors


def read_optimiser(checkpoint: Path, optimiser: Any, model: torch.nn.Module, zero_stage: int) -> None:
    """Put the saved state back, whatever number of workers and ZeRO stage wrote it."""
    tensors = load_file(checkpoint / "optimiser.safetensors")
    if zero_stage == 0:
        parameters = dict(model.named_parameters())
        if (count := tensors.pop(_STEPS, None)) is not None:
            for group in optimiser.param_groups:
                group[_STEPS] = int(count)
        for full_name, value in tensors.items():
            name, key = full_name.rsplit("/", 1)
            optimiser.state[parameters[name]][key] = value.to(parameters[name].device)
        return
    sharded = optimiser.optimizer
    count = next(value for name, value in tensors.items() if name.endswith("/step"))
    shards = [shard for group in sharded.param_groups for shard in group["params"]]
    for shard in optimiser.fp32_partitioned_groups_flat if zero_stage == 3 else shards:
        moments = {key: torch.zeros_like(shard) for key in _MOMENTS}
        sharded.state[shard] = {"step": count.clone().to(shard.device), **moments}
    if zero_stage < 3:
        _link(optimiser)
    for name, parameter in model.named_parameters():
        for key in _MOMENTS:
            safe_set_full_optimizer_state(parameter, tensors[f"{name}/{key}"].to(parameter.device), key)


def _link(optimiser: Any) -> None:
    """Tell DeepSpeed's ZeRO 1 or 2 wrapper where each parameter's moments lie in its flat shards.

    It does so by itself after the first step, but once and too early: after the step of the first of several parameter
    groups (0.19.8), so that the other groups' moments stay unknown.
    """
    optimiser._hp_optimizer_states_linked = False
    optimiser._lazy_init_hp_params_optimizer_state()


def _flaw(checkpoint: Path) -> str:
    """Why a checkpoint is not whole; empty when it is."""
    try:
        marker = json.loads((checkpoint / MARKER).read_text())
    except (OSError, ValueError):
        return f"no readable {MARKER}"
    for name, facts in marker.items():
        path = checkpoint / name
        if not path.is_file() or path.stat().st_size != facts["bytes"]:
            return f"{name} is missing or cut"
        if store.sha256_of(path) != facts["sha256"]:
            return f"{name} does not match its checksum"
    return ""
