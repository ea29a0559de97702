"""Ray's side: streams, training workers, resources, and errors that come back from workers."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray.cloudpickle

from slamray.config.compute import Compute
from slamray.errors import BadInput
from slamray.runtime.budget import Devices
from slamray.runtime.engine import Engine, EngineSeat
from slamray.stage.work import CHECKPOINTS, METRICS, Pool, Report

pytestmark = pytest.mark.slow
# Workers cannot import a test module; annotations stay classes, not strings, so that records travel with their kernels.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


@dataclass(frozen=True)
class Row:
    number: int
    out: str


@dataclass(frozen=True)
class Loud:
    row: Row
    audio: tuple[bytes, ...]
    value: int


@dataclass(frozen=True)
class Left:
    number: int


class Double:
    def __init__(self, offset: int) -> None:
        self.offset = offset

    def __call__(self, row: Row) -> Loud:
        return Loud(row, (bytes([row.number] * 3),), 2 * row.number + self.offset)


class Note:
    """Leaves a file that tells what came."""

    def __call__(self, loud: Loud) -> Left:
        about = {"value": loud.value, "bytes": len(b"".join(loud.audio))}
        (Path(loud.row.out) / f"{loud.row.number}.json").write_text(json.dumps(about))
        return Left(loud.row.number)


class Leave:
    """Leaves a file with the process that wrote it; the first time it meets row 3 it may kill its worker."""

    def __init__(self, die_at: int = -1) -> None:
        self.die_at = die_at

    def __call__(self, row: Row) -> Left:
        folder = Path(row.out)
        if row.number == self.die_at and not (folder / "died").exists():
            (folder / "died").touch()
            os._exit(1)
        (folder / f"{row.number}.json").write_text(json.dumps({"process": os.getpid()}))
        return Left(row.number)


class Refuse:
    def __call__(self, row: Row) -> Left:
        raise BadInput("stories.jsonl:7: not JSON; repair the line")


def rows(n: int, out: Path) -> list[Row]:
    out.mkdir(exist_ok=True)
    return [Row(number, str(out)) for number in range(n)]


def send(seat: EngineSeat, n: int, pools: list[Pool], out: Path) -> None:
    seat.rows("test", rows(n, out), pools, n, "rows")
    seat.leave()


def left(folder: Path) -> dict[int, dict[str, int]]:
    return {int(path.stem): json.loads(path.read_text()) for path in folder.glob("*.json")}


def test_rows_go_through_all_pools_once(engine: Engine, tmp_path: Path) -> None:
    (seat,) = engine.seats(1)
    send(seat, 7, [Pool(Double, {"offset": 1}, actors=1), Pool(Note, {}, actors=1)], tmp_path)
    found = left(tmp_path)
    assert {i: (row["value"], row["bytes"]) for i, row in found.items()} == {i: (2 * i + 1, 3) for i in range(7)}


def test_a_long_stream_is_sent_in_blocks_and_every_record_is_heard(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slamray.runtime.data.BLOCKS", 3)
    monkeypatch.setattr("slamray.runtime.data.ACTOR_BLOCKS", 1)
    heard: list[int] = []
    (seat,) = engine.seats(1)
    seat.rows("test", rows(8, tmp_path), [Pool(Leave, {}, 2)], 8, "rows", lambda row: heard.append(row["number"]))
    seat.leave()
    assert sorted(heard) == list(range(8)) and len(left(tmp_path)) == 8


def test_rows_of_two_stages_through_equal_pools_share_their_actors(engine: Engine, tmp_path: Path) -> None:
    pools, seats = [Pool(Leave, {}, actors=1)], engine.seats(2)
    sending = [
        threading.Thread(target=send, args=(seat, n, pools, tmp_path / str(n)))
        for seat, n in zip(seats, (3, 4), strict=True)
    ]
    for thread in sending:
        thread.start()
    for thread in sending:
        thread.join()
    found = [*left(tmp_path / "3").values(), *left(tmp_path / "4").values()]
    assert len(found) == 7 and len({row["process"] for row in found}) == 1


def test_a_worker_that_dies_costs_nothing_but_its_row(engine: Engine, tmp_path: Path) -> None:
    (seat,) = engine.seats(1)
    send(seat, 6, [Pool(Leave, {"die_at": 3}, actors=1)], tmp_path)
    assert sorted(left(tmp_path)) == [0, 1, 2, 3, 4, 5]
    assert (tmp_path / "died").exists()


def test_what_a_worker_refuses_reaches_the_user_as_one_line(engine: Engine, tmp_path: Path) -> None:
    (seat,) = engine.seats(1)
    with pytest.raises(BadInput, match=r"^stories.jsonl:7: not JSON; repair the line$"):
        send(seat, 2, [Pool(Refuse, {}, actors=1)], tmp_path)


def pages_of_a_second_block(size: int) -> int:
    """Pages that the kernel hands out for a block that is as large as one freed before."""
    import resource

    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        bytearray(b"1") * size
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_a_worker_keeps_the_memory_that_it_frees(engine: Engine) -> None:
    size = 400_000_000
    assert engine.call("memory", partial(pages_of_a_second_block, size)) < size / 4096 / 10


def train_loop(fail: bool, report: Report) -> dict[str, Any]:
    import torch
    import torch.distributed as dist

    total = torch.tensor(float(dist.get_rank() + 1))
    dist.all_reduce(total)
    for step in range(3):
        report({"step": step, "progress": (step + 1) / 3, "loss": 1.0 / (step + 1)})
    if fail:
        raise BadInput("pretrain: loss is not finite at step 3; lower pretrain.optim.learning_rate")
    return {"sum_of_ranks": total.item(), "world": dist.get_world_size()}


def test_a_training_loop_runs_on_all_workers_and_its_metrics_arrive(tmp_path: Path, engine: Engine) -> None:
    heard: list[dict[str, Any]] = []
    listening = Engine(Compute(workers=2), lambda stage, metrics: heard.append({"stage": stage, **metrics}))
    facts = listening.train("pretrained", partial(train_loop, False), tmp_path / "out")
    assert facts == {"sum_of_ranks": 3.0, "world": 2}  # ranks 0 and 1, each plus one
    assert [(row["stage"], row["step"]) for row in heard] == [("pretrained", 0), ("pretrained", 1), ("pretrained", 2)]
    lines = (tmp_path / "out" / METRICS).read_text().splitlines()
    assert [json.loads(line)["loss"] for line in lines] == [1.0, 0.5, pytest.approx(1 / 3)]


def test_what_a_training_worker_refuses_reaches_the_user(tmp_path: Path, engine: Engine) -> None:
    with pytest.raises(BadInput, match=r"^pretrain: loss is not finite at step 3"):
        engine.train("pretrained", partial(train_loop, True), tmp_path / "out")


def struck_loop(out: Path, how: str, times: int, report: Report) -> dict[str, Any]:
    """Counts to six with a checkpoint a step; at the third, rank 1 is struck, so often."""
    import torch.distributed as dist

    rank = dist.get_rank()
    resumed_from = max((int(path.name[5:]) for path in (out / CHECKPOINTS).glob("step-*")), default=0)
    for step in range(resumed_from + 1, 7):
        strikes = len(list(out.glob("struck-*")))
        dist.barrier()
        if step == 3 and rank == 1 and strikes < times:
            (out / f"struck-{strikes}").touch()
            if how == "dies":
                os._exit(1)
            elif how == "stops":
                os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(3600)
        dist.barrier()
        if rank == 0:
            (out / CHECKPOINTS / f"step-{step}").mkdir(parents=True)
        report({"step": step, "progress": step / 6})
    return {"resumed_from": resumed_from, "world": dist.get_world_size()}


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "how", ["dies", pytest.param("stops", marks=pytest.mark.long), pytest.param("hangs", marks=pytest.mark.long)]
)
def test_a_rank_that_is_struck_is_named_within_the_time_and_training_goes_on(
    tmp_path: Path, engine: Engine, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    out = tmp_path / "pretrained" / "0123"
    compute = Compute(workers=2, stall_seconds=5)
    began = time.monotonic()
    with caplog.at_level(logging.WARNING, logger="slamray"):
        facts = Engine(compute).train("pretrained", partial(struck_loop, out, how, 1), out)
    assert facts == {"resumed_from": 2, "world": 2}
    assert [json.loads(line)["step"] for line in (out / METRICS).read_text().splitlines()] == [1, 2, 3, 4, 5, 6]
    (said,) = [record.message for record in caplog.records if "starts again" in record.message]
    assert "rank" in said and "after step 2; starts again from step-2" in said
    assert not (out / CHECKPOINTS).exists()
    assert time.monotonic() - began < 300, "ten minutes are Ray's own limit, half an hour gloo's"


@pytest.mark.long
def test_failures_that_bring_no_new_checkpoint_end_the_run(tmp_path: Path, engine: Engine) -> None:
    compute = Compute(workers=2, stall_seconds=5, max_failures=1)
    out = tmp_path / "pretrained" / "0123"
    with pytest.raises(BadInput, match=r"2 failures without a new checkpoint.* goes on from step-2") as caught:
        Engine(compute).train("pretrained", partial(struck_loop, out, "dies", 9), out)
    assert "\n" not in str(caught.value)
    assert "Traceback" in (out / "failure.txt").read_text()
    assert len(list(out.glob("struck-*"))) == 2  # the first of them had brought two checkpoints


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        (Compute(tts_actors=500), r"compute.tts_actors: needs 500 CPUs but the cluster has 8"),
        (Compute(encoder_actors=500), r"compute.encoder_actors: needs 500 CPUs but the cluster has 8"),
        (Compute(tts_actors=8, encoder_gpus=0.5), r"compute.tts_actors \+ compute.encoder_actors: needs 9 CPUs"),
        (Compute(workers=300, cpus_per_worker=2), r"compute.workers x compute.cpus_per_worker: needs 600 CPUs"),
        (Compute(device="cuda"), r"compute.workers with compute.device=cuda: needs 1 GPUs but the cluster has 0"),
    ],
)
def test_a_request_that_can_never_be_met_is_refused(compute: Compute, message: str) -> None:
    from slamray.runtime.session import check_resources

    with pytest.raises(BadInput, match=message):
        check_resources(compute, Devices(cpus=8))


def write_to_a_full_disk(how: str) -> None:
    if how == "file":
        with open("/dev/full", "w") as file:
            file.write("x")
    raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")  # safetensors 0.6


@pytest.mark.parametrize("how", ["file", "library"])
def test_a_full_disk_is_one_line_whoever_reports_it(how: str) -> None:
    from slamray.runtime.session import user_error

    with pytest.raises((OSError, RuntimeError)) as caught:
        write_to_a_full_disk(how)
    assert "the disk is full; free some space and run again" in str(user_error(caught.value))


def test_only_the_runtime_imports_ray() -> None:
    code = (
        "import sys, slamray.recipe.slam, slamray.commands.run; "
        "print([name for name in ('ray', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
