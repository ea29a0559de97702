"""Run a training loop on Ray Train workers: the one `TorchTrainer` site."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from slamray import store
from slamray.config import Compute
from slamray.errors import BadInput
from slamray.runtime.pool import METRICS, Loop, Metrics
from slamray.runtime.prebuild import keep_extensions_in_environment

FACTS = "facts.json"
REFUSED = ".refused.json"
TAIL_SECONDS = 1.0  # how often the driver looks for new metrics; chosen, not tuned


def train(loop: Loop, compute: Compute, out: Path, on_metrics: Callable[[Metrics], None]) -> Metrics:
    """Run `loop(report) -> facts` on every worker of `compute`; return rank 0's facts.

    The process group (gloo, or nccl on GPUs) is up when the loop starts. `out` must be visible to all workers; rank 0
    appends what the loop reports to `out/metrics.jsonl`, and the driver hands each line to `on_metrics` as it comes:
    only the driver talks to people and trackers, so neither can stop training.
    """
    out.mkdir(parents=True, exist_ok=True)
    cuda = compute.device == "cuda"
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"loop": loop, "out": str(out), "threads": compute.cpus_per_worker},
        scaling_config=ScalingConfig(
            num_workers=compute.workers,
            use_gpu=cuda,
            resources_per_worker={"CPU": compute.cpus_per_worker} | ({"GPU": 1} if cuda else {}),
        ),
        torch_config=TorchConfig(backend="nccl" if cuda else "gloo"),
        run_config=RunConfig(
            name=out.name, storage_path=str(out / ".ray"), failure_config=FailureConfig(max_failures=0)
        ),
    )
    done = threading.Event()
    tail = threading.Thread(target=_tail, args=(out / METRICS, on_metrics, done), daemon=True)
    tail.start()
    (out / REFUSED).unlink(missing_ok=True)
    try:
        trainer.fit()
    except Exception as error:
        if (out / REFUSED).exists():
            raise BadInput(store.read_json(out / REFUSED)) from error
        raise
    finally:
        done.set()
        tail.join()
    facts: Metrics = store.read_json(out / FACTS)
    return facts


def _worker(config: dict[str, Any]) -> None:
    keep_extensions_in_environment()
    torch.set_num_threads(config["threads"])
    out = Path(config["out"])
    first = ray.train.get_context().get_world_rank() == 0

    def report(metrics: Metrics, checkpoint: Path | None) -> None:
        if first:
            with (out / METRICS).open("a") as file:
                file.write(json.dumps(metrics) + "\n")
        ray.train.report(metrics)

    try:
        facts = config["loop"](report)
    except BadInput as error:  # kept beside: Ray carries only the text of an exception home
        store.write_json(out / REFUSED, str(error))
        raise
    if first:
        store.write_json(out / FACTS, facts)


def _tail(path: Path, on_metrics: Callable[[Metrics], None], done: threading.Event) -> None:
    position = path.stat().st_size if path.exists() else 0
    while True:
        last_look = done.wait(TAIL_SECONDS)
        if path.exists():
            with path.open() as file:
                file.seek(position)
                for line in iter(file.readline, ""):
                    if not line.endswith("\n"):
                        break  # half a line; read it whole next time
                    position += len(line.encode())
                    on_metrics(json.loads(line))
        if last_look:
            return
