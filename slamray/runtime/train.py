"""Run a training loop on Ray Train workers: the one `TorchTrainer` site."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import ray
import ray.train
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal import constants

from slamray.config.compute import Compute
from slamray.errors import BadInput
from slamray.runtime.post import Post, PostOffice, open_post, open_post_office, relay_notices
from slamray.runtime.session import user_error
from slamray.stage.folder import Folder
from slamray.stage.work import CHECKPOINTS, METRICS, NOTICE, Loop, Metrics

log = logging.getLogger(__name__)

FACTS = "facts.json"
RAY = ".ray"  # Ray Train's own records
FAILURE = "failure.txt"  # the traceback of the failure that ended a run
TAIL_SECONDS = 1.0  # how often the driver looks for new metrics; chosen, not tuned
PUT_SECONDS = 20.0  # how often it puts them into a store; chosen, not tuned


def train(loop: Loop, compute: Compute, out: Folder, on_metrics: Callable[[Metrics], None]) -> Metrics:
    """Run `loop(report) -> facts` on every worker of `compute`; return rank 0's facts.

    The process group (gloo, or nccl on GPUs) is up when the loop starts. Rank 0 adds what the loop reports to
    `out/metrics.jsonl`, by way of the driver's machine where `out` is no folder that both see, and the driver hands
    each line to `on_metrics` as it comes: only the driver talks to people and trackers, so neither can stop training.
    The loop goes on from its newest checkpoint by itself, so a worker that dies or stalls costs a new start of all.
    What only serves that is removed at the end.
    """
    post = open_post(out)
    post.clear()
    out.remove(FAILURE)
    if not out.is_shared:
        post.told.write_bytes(out.read(METRICS) if out.exists(METRICS) else b"")
    done = threading.Event()
    tail = threading.Thread(target=_tail, args=(post, out, on_metrics, done), daemon=True)
    tail.start()
    try:
        if not out.exists(FACTS):  # else only the stage's record was not written
            _persist(loop, compute, out, post)
    finally:
        done.set()
        tail.join()
    if not out.is_shared:
        out.write(METRICS, post.told.read_bytes())
    facts: Metrics = out.read_json(FACTS)
    out.remove(CHECKPOINTS)
    Folder(out.scratch()).remove(RAY)
    return facts


def _persist(loop: Loop, compute: Compute, out: Folder, post: Post) -> None:
    """Start the workers until the loop has ended; give up when failures in a row bring no new checkpoint."""
    fruitless = 0
    office = None if out.is_shared else open_post_office(out)
    while True:
        before = _newest(out)
        try:
            _trainer(loop, compute, out, office).fit()
            return
        except Exception as error:
            if refused := post.refused():
                raise BadInput(refused) from error
            newest = _newest(out)
            fruitless = 1 if newest != before else fruitless + 1
            if user_error(error):
                raise
            said = f"{out.parent.name}: {_who_failed(error)}, after step {_last_step(post)}"
            goes_on = f"from {newest or 'the beginning'}"
            if fruitless > compute.max_failures:
                out.write(FAILURE, "".join(traceback.format_exception(error)).encode())
                raise BadInput(
                    f"{said}: {fruitless} failures without a new checkpoint, compute.max_failures is "
                    f"{compute.max_failures}; read {out / FAILURE}, mend it, and the same command goes on {goes_on}"
                ) from error
            log.warning("%s; starts again %s", said, goes_on)


def _trainer(loop: Loop, compute: Compute, out: Folder, office: PostOffice | None) -> TorchTrainer:
    cuda = compute.device == "cuda"
    # Ray looks at its workers every 2 s, and takes one for dead after ten minutes of silence. Read by its controller,
    # which has this environment.
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.5"
    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(compute.stall_seconds)
    # Ray Train's PlacementGroupCleaner, which frees what a controller held that was stopped or died, would ask the
    # cluster that was started last on this machine, be it another or gone (ray 2.60; docs/LOG.md, 2026-11-26).
    os.environ["RAY_API_SERVER_ADDRESS"] = ray.get_runtime_context().gcs_address
    constants.ENV_VARS_TO_PROPAGATE.add("RAY_API_SERVER_ADDRESS")
    fewest = compute.min_workers or compute.workers
    workers: Any = (fewest, compute.workers) if fewest < compute.workers else compute.workers
    noticed: Any = {"elastic_resize_monitor_interval_s": compute.stall_seconds}  # when nodes are back
    return TorchTrainer(
        _worker,
        train_loop_config={
            "loop": loop,
            "out": out,
            "office": office,
            "threads": compute.cpus_per_worker,
            "device": compute.device,
        },
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=cuda,
            resources_per_worker={"CPU": compute.cpus_per_worker} | ({"GPU": 1} if cuda else {}),
            **noticed,
        ),
        # Ranks that wait for one that is stuck give up a little later than Ray does, whose word names it.
        torch_config=TorchConfig(backend="nccl" if cuda else "gloo", timeout_s=2 * compute.stall_seconds),
        run_config=RunConfig(
            name=out.name, storage_path=str(out.scratch(RAY)), failure_config=FailureConfig(max_failures=0)
        ),
    )


def _newest(out: Folder) -> str:
    return max((out / CHECKPOINTS).names("step-*"), default="")


def _last_step(post: Post) -> str:
    """The step of the last report."""
    lines = post.told.read_text().splitlines() if post.told.exists() else []
    return str(json.loads(lines[-1]).get("step", "?")) if lines else "0"


def _who_failed(error: Exception) -> str:
    """Which rank, and the first line of why; Ray does not always know the rank."""
    failures = getattr(error, "worker_failures", None) or {}
    said = {rank: str(failure).strip().split("\n")[0] for rank, failure in failures.items()}
    whatever = " ".join(str(error).split())[:120]
    return "; ".join(f"rank {rank} failed ({why})" for rank, why in said.items()) or whatever


def _worker(config: dict[str, Any]) -> None:
    torch.set_num_threads(config["threads"])
    os.environ["DS_ACCELERATOR"] = config["device"]  # DeepSpeed, which looks when it is imported, takes a visible GPU
    if config["device"] == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # on a cluster that was started without Ray's switch, too
    out, office = config["out"], config["office"]
    desk: Post | PostOffice = office or open_post(out)
    notice_here = out.scratch() / NOTICE  # where the loop looks
    first = ray.train.get_context().get_world_rank() == 0
    warned: list[bool] = []  # once is enough: the nodes are going whatever is saved
    done = threading.Event()
    if first and office is not None:
        notice_here.unlink(missing_ok=True)
        threading.Thread(target=relay_notices, args=(office, notice_here, done), daemon=True).start()

    def report(metrics: Metrics) -> None:
        # Not ray.train.report: it holds two reports until the controller's next look, so a third would wait for that.
        notice = ray.train.get_preemption_info()  # every rank must ask: Ray broadcasts rank 0's answer
        if not first:
            return
        desk.tell(metrics)
        if notice is not None and not warned:
            warned.append(True)
            notice_here.touch()

    try:
        facts = config["loop"](report)
        if first:
            out.write_json(FACTS, facts)
    except BadInput as error:
        desk.refuse(str(error))
        raise
    finally:
        done.set()
        if office is not None:
            office.flush()


def _tail(post: Post, out: Folder, on_metrics: Callable[[Metrics], None], done: threading.Event) -> None:
    """Hand on what was told, and keep it in the store."""
    position = post.told.stat().st_size if post.told.exists() else 0
    put_at, put = time.monotonic(), position
    while True:
        last_look = done.wait(TAIL_SECONDS)
        if post.told.exists():
            with post.told.open() as file:
                file.seek(position)
                for line in iter(file.readline, ""):
                    if not line.endswith("\n"):
                        break  # half a line; read it whole next time
                    position += len(line.encode())
                    on_metrics(json.loads(line))
        if not out.is_shared and position > put and (last_look or time.monotonic() - put_at > PUT_SECONDS):
            try:
                out.write(METRICS, post.told.read_bytes())
            except BadInput as error:  # whoever trains will say so too
                log.warning("%s", error)
            put_at, put = time.monotonic(), position
        if last_look:
            return
