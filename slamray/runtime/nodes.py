"""Ask every node of the cluster, before any work, whether it sees the run's folder."""

from __future__ import annotations

import uuid

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from slamray.errors import BadInput
from slamray.stage.folder import Folder

ANSWER_SECONDS = 60  # a node starts a process for it; chosen, not tuned
ENVIRONMENT = "give them the store's endpoint and credentials (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and the like)"


def check_root(root: Folder) -> None:
    """BadInput that names the nodes where `root` is another folder, or none: each reads what the driver has written.

    A cluster of one node is not asked. A node that goes while it is asked is no longer one of the cluster's.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) < 2:
        return
    token = f".seen-{uuid.uuid4().hex}"
    root.write(token, token.encode())
    task = ray.remote(num_cpus=0, max_retries=0)(_reads)
    try:
        asked = {
            task.options(
                name="see root", scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(str(root), token): node
            for node in nodes
        }
        answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_SECONDS)
        silent = [node for one, node in asked.items() if one not in answered or not _answer(one)]
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        blind = [node["NodeManagerHostname"] for node in silent if node["NodeID"] in alive]
    finally:
        root.remove(token)
    if blind:
        raise BadInput(
            f"root: {len(blind)} of {len(nodes)} nodes do not see the driver's {root} ({', '.join(blind[:3])}); "
            + ("give a folder on a disk that all nodes share, or s3://" if root.is_shared else ENVIRONMENT)
        )


def _answer(asked: ray.ObjectRef) -> bool:
    try:
        return bool(ray.get(asked))
    except RayError:  # its node has gone, or the process that should have read
        return False


def _reads(root: str, token: str) -> bool:
    try:
        Folder(root).check(writes=False)
        return Folder(root).read(token) == token.encode()
    except (OSError, BadInput):
        return False
