"""Ask every GPU of the cluster, before any work, whether it can train."""

from __future__ import annotations

import pkgutil
import time
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # it is exported, but not by name

from slamray.config.compute import Compute
from slamray.console import say
from slamray.errors import BadInput
from slamray.runtime.session import user_error

PROBE, GROUP = "slamray.train.probe:probe", "slamray.train.probe:Group"  # imported where the GPU is
ANSWER_SECONDS = 180  # a process that imports torch from a cold disk may take most of that; chosen, not tuned


def probe_gpus(compute: Compute, needed_bytes: int) -> None:
    """Probe all GPUs at the same time, so that they can meet; one line that says what was found.

    They meet at a store of this process. BadInput that names the node where one cannot train or does not answer.
    """
    began = time.monotonic()
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU", 0) >= 1]
    places = [node for node in nodes for _ in range(int(node["Resources"]["GPU"]))]
    if not places:
        say("no GPU is there yet: those that the autoscaler adds are not asked whether they can train")
        return
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    meeting = f"{ray.util.get_node_ip_address()}:{store.port}"
    asked = {
        _ask(compute, needed_bytes, node["NodeID"], rank, len(places), meeting): node["NodeManagerHostname"]
        for rank, node in enumerate(places)
    }
    try:
        found = [_answer(one, node) for one, node in asked.items()]
    finally:
        for one in ray.wait(list(asked), num_returns=len(asked), timeout=0)[1]:
            ray.cancel(one, force=True)
    names = ", ".join(sorted({device.name for device in found}))
    least = min(device.free_gb for device in found)
    say(
        f"{len(places)} GPUs on {len(nodes)} nodes can train: {names}, {least:.1f} GB free "
        f"({needed_bytes / 2**30:.1f} planned), {compute.precision}, {compute.packed_attention} attention; "
        f"{time.monotonic() - began:.1f} s"
    )


def _ask(compute: Compute, needed_bytes: int, node: str, rank: int, world: int, meeting: str) -> Any:
    here = NodeAffinitySchedulingStrategy(node, soft=False)
    task = ray.remote(num_cpus=0, num_gpus=1, max_retries=0)(_probe)
    return task.options(name="probe", scheduling_strategy=here).remote(compute, needed_bytes, rank, world, meeting)


def _answer(asked: Any, node: str) -> Any:
    try:
        return ray.get(asked, timeout=ANSWER_SECONDS)
    except ray.exceptions.GetTimeoutError as error:
        raise BadInput(
            f"node {node}: a GPU gave no answer in {ANSWER_SECONDS} s; is it taken by others, or does it hang?"
        ) from error
    except Exception as error:
        reason = user_error(error) or " ".join(str(error).split())[:200]
        raise BadInput(f"node {node}: {reason}") from error


def _probe(compute: Compute, needed_bytes: int, rank: int, world: int, meeting: str) -> Any:
    group = pkgutil.resolve_name(GROUP)(rank, world, meeting)
    return pkgutil.resolve_name(PROBE)(compute, needed_bytes, group)
