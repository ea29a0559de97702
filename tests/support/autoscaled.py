"""What test_autoscaled.py runs apart: rows and a training on a cluster that has no core yet."""

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import ray

from slamray.config.compute import Compute
from slamray.errors import BadInput
from slamray.runtime.engine import Engine
from slamray.stage.work import Metrics, Pool, Report


@dataclass(frozen=True)
class Row:
    number: int
    out: str


class Leave:
    """Leaves bytes that depend on the row alone, and the node that it ran on."""

    def __call__(self, row: Row) -> Row:
        time.sleep(0.5)
        (Path(row.out) / f"{row.number}.bytes").write_bytes(bytes([row.number] * 100))
        (Path(row.out) / f"{row.number}.node").write_text(ray.get_runtime_context().get_node_id())
        return row


def train(report: Report) -> Metrics:
    return {"on": ray.cluster_resources()["CPU"]}


def main(folder: Path, actors: int, rows: int) -> None:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    found: dict[str, object] = {}
    try:
        Engine(Compute(encoder_actors=actors)).connect()
    except BadInput as error:
        found["refused"] = str(error)
    ray.shutdown()
    engine = Engine(Compute(encoder_actors=actors, autoscaled_cpus=actors))
    engine.connect()
    found["cores at the start"] = ray.cluster_resources().get("CPU", 0)
    (seat,) = engine.seats(1)
    sent = [Row(number, str(folder)) for number in range(rows)]
    seat.rows("leave", sent, [Pool(Leave, {}, actors)], rows, "rows")
    found["cores at the end"] = ray.cluster_resources().get("CPU", 0)
    deadline = time.monotonic() + 300  # Ray Data asks the autoscaler to keep what it had for 180 s more
    while ray.cluster_resources().get("CPU", 0) and time.monotonic() < deadline:
        time.sleep(1)
    found["cores when nothing is to do"] = ray.cluster_resources().get("CPU", 0)
    found["trained"] = engine.train("train", train, folder / "train")
    engine.close()
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    assert os.environ["RAY_ADDRESS"]
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
