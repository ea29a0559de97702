"""Ray's side: streams, training workers, resources, and errors that come back from workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray.cloudpickle

from slamray.config import Compute
from slamray.errors import BadInput
from slamray.runtime.engine import Engine
from slamray.runtime.pool import METRICS, Pool, Report, Row

pytestmark = pytest.mark.slow
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test module


class Double:
    def __init__(self, offset: int) -> None:
        self.offset = offset

    def __call__(self, row: Row) -> Row:
        return {"shard": row["shard"], "audio": [bytes([row["shard"]] * 3)], "value": 2 * row["shard"] + self.offset}


class Length:
    def __call__(self, row: Row) -> Row:
        return {"shard": row["shard"], "value": row["value"], "bytes": len(row["audio"][0])}


class DieOnce:
    """Kills its worker the first time it meets shard 3."""

    def __init__(self, marker: str) -> None:
        self.marker = Path(marker)

    def __call__(self, row: Row) -> Row:
        if row["shard"] == 3 and not self.marker.exists():
            self.marker.touch()
            os._exit(1)
        return row


class Refuse:
    def __call__(self, row: Row) -> Row:
        raise BadInput("stories.jsonl:7: not JSON; repair the line")


def rows(n: int) -> list[Row]:
    return [{"shard": i} for i in range(n)]


def test_rows_go_through_all_pools_once(engine: Engine) -> None:
    pools = [Pool(Double, {"offset": 1}, actors=1), Pool(Length, {}, actors=1)]
    found = engine.stream("test", rows(7), pools, 7, "shards")
    expected = [{"shard": i, "value": 2 * i + 1, "bytes": 3} for i in range(7)]
    assert sorted(found, key=lambda row: row["shard"]) == expected


def test_a_worker_that_dies_costs_nothing_but_its_row(engine: Engine, tmp_path: Path) -> None:
    found = engine.stream("test", rows(6), [Pool(DieOnce, {"marker": str(tmp_path / "died")}, actors=1)], 6, "shards")
    assert sorted(row["shard"] for row in found) == [0, 1, 2, 3, 4, 5]
    assert (tmp_path / "died").exists()


def test_what_a_worker_refuses_reaches_the_user_as_one_line(engine: Engine) -> None:
    with pytest.raises(BadInput, match=r"^stories.jsonl:7: not JSON; repair the line$"):
        engine.stream("test", rows(2), [Pool(Refuse, {}, actors=1)], 2, "shards")


def train_loop(fail: bool, report: Report) -> dict[str, Any]:
    import torch
    import torch.distributed as dist

    total = torch.tensor(float(dist.get_rank() + 1))
    dist.all_reduce(total)
    for step in range(3):
        report({"step": step, "progress": (step + 1) / 3, "loss": 1.0 / (step + 1)}, None)
    if fail:
        raise BadInput("pretrain: loss is not finite at step 3; lower pretrain.optim.learning_rate")
    return {"sum_of_ranks": total.item(), "world": dist.get_world_size()}


def test_a_training_loop_runs_on_all_workers_and_its_metrics_arrive(tmp_path: Path, engine: Engine) -> None:
    heard: list[dict[str, Any]] = []
    listening = Engine(engine.compute, lambda stage, metrics: heard.append({"stage": stage, **metrics}))
    facts = listening.train("pretrained", partial(train_loop, False), tmp_path / "out", Compute(workers=2))
    assert facts == {"sum_of_ranks": 3.0, "world": 2}  # ranks 0 and 1, each plus one
    assert [(row["stage"], row["step"]) for row in heard] == [("pretrained", 0), ("pretrained", 1), ("pretrained", 2)]
    lines = (tmp_path / "out" / METRICS).read_text().splitlines()
    assert [json.loads(line)["loss"] for line in lines] == [1.0, 0.5, pytest.approx(1 / 3)]


def test_what_a_training_worker_refuses_reaches_the_user(tmp_path: Path, engine: Engine) -> None:
    with pytest.raises(BadInput, match=r"^pretrain: loss is not finite at step 3"):
        engine.train("pretrained", partial(train_loop, True), tmp_path / "out")


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        (Compute(tts_actors=500), r"compute.tts_actors \+ compute.encoder_actors: needs 501 CPUs but the cluster has"),
        (Compute(workers=300, cpus_per_worker=2), r"compute.workers x compute.cpus_per_worker: needs 600 CPUs"),
        (Compute(device="cuda"), r"compute.workers with compute.device=cuda: needs 1 GPUs but the cluster has 0"),
    ],
)
def test_a_request_that_can_never_be_met_is_refused(compute: Compute, message: str) -> None:
    from slamray.runtime.session import check_resources

    with pytest.raises(BadInput, match=message):
        check_resources(compute, {"CPU": 8.0})


def test_only_the_runtime_imports_ray() -> None:
    code = "import sys, slamray.recipe, slamray.run; print([m for m in ('ray', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_file_outside_the_runtime_names_ray() -> None:
    root = Path(__file__).parent.parent
    files = [*(root / "slamray").rglob("*.py"), *(root / "jobs").glob("*.py"), *(root / "tuning").glob("*.py")]
    bad = [
        str(path)
        for path in files
        if "runtime" not in path.parts
        for line in path.read_text().splitlines()
        if line.split()[:1] in (["import"], ["from"]) and line.split()[1].split(".")[0] == "ray"
    ]
    assert len(files) > 30 and bad == []
