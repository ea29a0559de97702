"""Checkpoints, whole or absent: a folder appears at once, or its marker with checksums last; the newest whole one wins.

What a checkpoint holds can be read by any number of workers:
    model/                  the model in plain transformers format: `load_unit_lm` reads it
    optimiser.safetensors   "<parameter name>/<state>": AdamW's moments in full shape, float32, or another's state
    state.json              step, spent budget, history, and whatever else the loop gives
    complete.json           the marker: size and SHA-256 of every other file

Under ZeRO 3 every rank writes what it holds, and nobody has it whole: model/ holds the weights and optimiser/ the
moments in parts (sharded.py). While they are written they lie in a hidden folder, or in a store in place.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from deepspeed.utils import safe_get_full_optimizer_state, safe_set_full_optimizer_state
from safetensors.torch import save_file
from transformers import PreTrainedModel

from slamray import store
from slamray.errors import BadInput
from slamray.model.unit_lm import save_unit_lm
from slamray.stage.folder import Folder, Root
from slamray.train import zero
from slamray.train.ranks import agree, of_every_rank, rank_and_world
from slamray.train.sharded import Saved, part_name
from slamray.train.zero import MOMENTS

MARKER = "complete.json"
MODEL = "model"  # the folder of the weights
OPTIMISER = "optimiser"  # a safetensors file, or the folder of its parts
_STEPS = "step"  # the count of an optimiser that counts for all parameters together (AdEMAMix)
_PREFIX = "step-"
_PARTS = ".parts-"  # before the name of a checkpoint whose parts are being written to a disk, and of a rank's own
_LOOK_SECONDS = 0.2  # between rank 0's looks for the others' parts; chosen, not tuned
_PART_SECONDS = 1800.0  # after which rank 0 waits no longer for a part; chosen, not tuned

log = logging.getLogger(__name__)


def save_checkpoint(folder: Root, step: int, write: Callable[[Path], None], keep: int = 2) -> str:
    """Write `folder/step-N` through `write(temporary folder)`; a kill at any moment leaves it whole or absent.

    The newest `keep` checkpoints stay (two by default, so that a torn one can be passed over); the new one's name.
    """
    folder, name = Folder(folder), _name(step)
    folder.write_tree(name, partial(_write_whole, write), last=MARKER)
    _forget_old(folder, keep)
    return name


def clear_parts(folder: Root, step: int) -> None:
    """Remove what a run that was killed left of parts; before any rank calls `save_part`."""
    folder = Folder(folder)
    for left in folder.scratch().glob(f"{_PARTS}*"):
        shutil.rmtree(left)
    folder.remove(_name(step))


def save_part(folder: Root, step: int, write: Callable[[Path], None], rank: int, world: int, keep: int = 2) -> str:
    """`save_checkpoint` where each of `world` ranks writes files of its own, all of them in other names.

    Each says what it wrote when its files are there. Rank 0 puts the marker when all have said so: then the checkpoint
    is there, whole. TimeoutError when one of them does not.
    """
    folder, name = Folder(folder), _name(step)
    place = f"{_PARTS}{name}" if folder.is_shared else name
    with tempfile.TemporaryDirectory(prefix=_PARTS, dir=folder.scratch()) as temporary:
        write(Path(temporary))
        facts = _described(Path(temporary))
        for file in facts:
            folder.write_tree(f"{place}/{file}", partial(_move, Path(temporary) / file))
    folder.write_json(f"{place}/{part_name(rank)}.json", facts)
    if rank == 0:
        marker = _marker_of_parts(folder, place, world)
        if folder.is_shared:
            folder.write_tree(name, partial(_complete, folder.fetch(place), marker))
        else:
            folder.write(f"{name}/{MARKER}", marker)
        _forget_old(folder, keep)
    return name


def _move(source: Path, target: Path) -> None:
    source.rename(target)


def _marker_of_parts(folder: Folder, place: str, world: int) -> bytes:
    """Wait until all ranks have said what they wrote; all of it together."""
    end = time.monotonic() + _PART_SECONDS
    names = {f"{place}/{part_name(rank)}.json" for rank in range(world)}
    while missing := names - set(folder.names(f"{place}/part-*.json")):
        if time.monotonic() > end:
            raise TimeoutError(f"{folder}: {len(missing)} of {world} parts did not come, {min(missing)} is the first")
        time.sleep(_LOOK_SECONDS)
    facts: dict[str, Any] = {}
    for name in names:
        facts |= folder.read_json(name)
    return store.json_bytes(facts)


def _complete(parts: Path, marker: bytes, target: Path) -> None:
    parts.rename(target)
    (target / MARKER).write_bytes(marker)
    store.fsync(target / MARKER)
    store.fsync(target)


def _name(step: int) -> str:
    return f"{_PREFIX}{step:09d}"


def _forget_old(folder: Folder, keep: int) -> None:
    kept = _begun(folder)[-keep:]
    for old in folder.names(f"{_PREFIX}*"):
        if old not in kept:
            folder.remove(old)


def _write_whole(write: Callable[[Path], None], temporary: Path) -> None:
    """What `write` leaves, on the disk for sure, and the marker that names it."""
    temporary.mkdir(parents=True)
    write(temporary)
    marker = _described(temporary)
    (temporary / MARKER).write_text(json.dumps(marker, indent=1, sort_keys=True))
    store.fsync(temporary / MARKER)
    store.fsync(temporary)


def _described(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and checksum of every file, all of them on the disk for sure."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        store.fsync(path)
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": store.sha256_of(path)}
        for path in files
    }


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

    def save_part(self, step: int, write: Callable[[Path], None]) -> None:
        """The same for `save_part`; a collective."""
        self.wait()
        rank, world = rank_and_world()
        if rank == 0:
            clear_parts(self._folder, step)
        agree(None)  # until rank 0 has
        self._writing = self._thread.submit(save_part, self._folder, step, write, rank, world)

    def wait(self) -> None:
        """Until nothing is in flight; raises what writing raised."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()


def newest_complete(folder: Root, together: bool = False) -> str | None:
    """The name of the newest whole checkpoint, or None where none was ever begun.

    A torn one is passed over with a warning that names it. BadInput when there are checkpoints and none is whole:
    starting again from nothing without a word would be worse. together: every rank calls it, each looks at a share of
    the files, and all get the same name.
    """
    folder = Folder(folder)
    rank, world = rank_and_world() if together else (0, 1)
    found = agree(_begun(folder)) if together else _begun(folder)
    for name in reversed(found):
        flaw = _flaw(folder.fetch(name), rank, world)
        if together:
            flaw = next(filter(None, of_every_rank(flaw)), "")
        if not flaw:
            return name
        if rank == 0:
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
    save_file(
        {name: value.cpu().contiguous() for name, value in tensors.items()}, checkpoint / f"{OPTIMISER}.safetensors"
    )


def gather_optimiser(optimiser: Any, model: torch.nn.Module, zero_stage: int) -> dict[str, torch.Tensor]:
    """The state of an optimiser, or of DeepSpeed's wrapper around AdamW, in full shape by parameter name.

    Under ZeRO 1 and 2 a collective that every rank must call; under 3 nobody holds as much.
    """
    assert zero_stage < 3, zero_stage
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
    _link(optimiser)
    tensors = {}
    for name, parameter in model.named_parameters():
        tensors[f"{name}/step"] = count.clone()
        for key in MOMENTS:
            tensors[f"{name}/{key}"] = safe_get_full_optimizer_state(parameter, key)
    return tensors


def snapshot(model: PreTrainedModel, optimiser: Any, zero_stage: int) -> Callable[[Path], None] | None:
    """A copy of a language model's weights and moments as they are now, and what writes it; a collective.

    Rank 0 writes all, and under ZeRO 3 each rank what it holds; None for who writes nothing.
    """
    if zero_stage == 3:
        held, state = zero.copy_held(model, optimiser)
        return lambda folder: zero.write_held(model, held, state, folder / MODEL, folder / OPTIMISER)
    tensors = gather_optimiser(optimiser, model, zero_stage)
    if rank_and_world()[0] > 0:
        return None
    weights, moments = copy_weights(model), copy_state(tensors)

    def write(folder: Path) -> None:
        save_unit_lm(model, folder / MODEL, weights)
        write_optimiser(folder, moments)

    return write


def read_optimiser(checkpoint: Path, optimiser: Any, model: torch.nn.Module, zero_stage: int) -> None:
    """Put the saved state back, whatever number of workers and ZeRO stage wrote it."""
    parts = checkpoint / OPTIMISER
    saved = Saved(parts if parts.is_dir() else checkpoint / f"{OPTIMISER}.safetensors")
    if zero_stage == 3:
        zero.read_held_moments(saved, optimiser, model)
        return
    if zero_stage == 0:
        parameters = dict(model.named_parameters())
        names = set(saved.shapes)
        if _STEPS in names:
            names.remove(_STEPS)
            for group in optimiser.param_groups:
                group[_STEPS] = int(saved.whole(_STEPS))
        for full_name in names:
            name, key = full_name.rsplit("/", 1)
            optimiser.state[parameters[name]][key] = saved.whole(full_name).to(parameters[name].device)
        return
    sharded = optimiser.optimizer
    count = saved.whole(next(name for name in saved.shapes if name.endswith("/step")))
    for group in sharded.param_groups:
        for shard in group["params"]:
            moments = {key: torch.zeros_like(shard) for key in MOMENTS}
            sharded.state[shard] = {"step": count.clone().to(shard.device), **moments}
    _link(optimiser)
    for name, parameter in model.named_parameters():
        for key in MOMENTS:
            value = saved.whole(f"{name}/{key}")
            safe_set_full_optimizer_state(parameter, value.to(parameter.device), key)


def _link(optimiser: Any) -> None:
    """Tell DeepSpeed's ZeRO 1 or 2 wrapper where each parameter's moments lie in its flat shards.

    It does so by itself after the first step, but once and too early: after the step of the first of several parameter
    groups (0.19.8), so that the other groups' moments stay unknown.
    """
    optimiser._hp_optimizer_states_linked = False
    optimiser._lazy_init_hp_params_optimizer_state()


def _flaw(checkpoint: Path, rank: int, world: int) -> str:
    """Why a checkpoint is not whole, as far as this rank's share of its files tells; empty when it is."""
    try:
        marker = json.loads((checkpoint / MARKER).read_text())
    except (OSError, ValueError):
        return f"no readable {MARKER}"
    for name, facts in sorted(marker.items())[rank::world]:
        path = checkpoint / name
        if not path.is_file() or path.stat().st_size != facts["bytes"]:
            return f"{name} is missing or cut"
        if store.sha256_of(path) != facts["sha256"]:
            return f"{name} does not match its checksum"
    return ""
