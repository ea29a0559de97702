"""Stages through Ray with a root in an object store: workers share with the driver the store alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray.cloudpickle
from support.machine import InProcess
from support.object_store import BUCKET, ROOT, Gate

from slamray.config.compute import Compute
from slamray.config.load import load_recipe
from slamray.recipe.slam import build
from slamray.runtime.engine import Engine
from slamray.stage.folder import Folder
from slamray.stage.materialise import materialise
from slamray.stage.objects import Objects
from slamray.stage.stage import order
from slamray.stage.work import CHECKPOINTS, METRICS, NOTICE, Report

# a module of tests is unknown to Ray's workers
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture
def root(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> Iterator[Folder]:
    """The driver's cache is this test's; workers, which are older, have the machine's."""
    yield Folder(f"s3://{BUCKET}/{ROOT}")
    monkeypatch.delenv("SLAMRAY_CACHE")
    cached = Objects(f"s3://{BUCKET}").cached("")
    shutil.rmtree(cached.parents[1], ignore_errors=True)


def kill_an_actor() -> bool:
    """One of the processes that descend from this one and map rows."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    family, found = {os.getpid()}, []
    rows = [line.split(None, 2) for line in listed.splitlines()]
    for _ in range(4):
        family |= {int(pid) for pid, parent, _ in rows if int(parent) in family}
    found = [int(pid) for pid, _, title in rows if int(pid) in family and "ray::MapWorker" in title]
    for pid in found[:1]:
        os.kill(pid, signal.SIGKILL)
    return bool(found)


@pytest.mark.slow
@pytest.mark.long
def test_speech_and_rows_have_the_bytes_of_a_disk_whatever_dies(
    root: Folder, gate: Gate, engine: Engine, tiny_words: list[str], tmp_path: Path
) -> None:
    recipe = load_recipe([*tiny_words, "compute.encoder_actors=1", "speech.train_documents=8"])
    (target,) = [stage for stage in order(build(recipe)) if stage.name == "packed"]
    put: list[str] = []
    struck = []

    def strike(method: str, path: str) -> str:
        """At the third shard an actor dies, and the store has a hiccup."""
        if method == "PUT" and "/shards/" in path:
            put.append(path)
            if len(put) == 3:
                struck.append(kill_an_actor())
                return "500"
        return ""

    def calm(event: str, stage: Any, record: Any) -> None:
        gate.trouble = strike if event == "start" and stage.name == "units" else lambda method, path: ""

    there = materialise([target], root, engine, {}, calm)
    here = materialise([target], tmp_path / "runs", InProcess(recipe.compute), {})
    assert struck == [True]
    for name in ("corpus", "units", "packed"):
        assert there[name]["files"] == here[name]["files"] and here[name]["files"]
    assert root.names("units/*/*") == [f"units/{target.inputs[0].fingerprint}/{name}" for name in here_names(here)]


def here_names(manifests: dict[str, Any]) -> list[str]:
    """What a finished stage `units` holds at its top."""
    return sorted({name.partition("/")[0] for name in manifests["units"]["files"]} | {"manifest.json"})


def counting_loop(out: Folder, report: Report) -> dict[str, Any]:
    """Counts to eight with a checkpoint where one is asked for, and at the second; dies at the third, once."""
    begun = max((int(name[-1]) for name in (out / CHECKPOINTS).names("step-*")), default=0)
    notice = out.scratch() / NOTICE
    for step in range(begun + 1, 9):
        if step == 3 and not out.exists("struck"):
            out.write("struck", b"")
            os._exit(1)
        if step == 6:
            while not notice.exists():
                threading.Event().wait(0.05)
        if step == 2 or notice.exists():
            out.write(f"{CHECKPOINTS}/step-{step}/complete.json", b"{}")
            notice.unlink(missing_ok=True)
        report({"step": step, "progress": step / 8})
    return {"begun": begun, "there": (out / CHECKPOINTS).names("step-*")}


@pytest.mark.slow
@pytest.mark.long
def test_a_worker_tells_and_is_told_through_ray(root: Folder, engine: Engine) -> None:
    out, saved = root / "pretrained" / "0123", list[bool]()
    heard: list[int] = []

    def hear(stage: str, metrics: dict[str, Any]) -> None:
        heard.append(metrics["step"])
        if metrics["step"] == 5:
            asking.start()

    listening = Engine(Compute(), hear)
    asking = threading.Thread(target=lambda: saved.append(listening.save_now()))
    facts = listening.train("pretrained", partial(counting_loop, out), out)
    asking.join()
    assert facts == {"begun": 2, "there": ["step-2", "step-6"]}
    assert heard == [1, 2, 3, 4, 5, 6, 7, 8] and saved == [True]
    assert [json.loads(line)["step"] for line in out.read(METRICS).decode().splitlines()] == heard
    assert list(out.files()) == ["facts.json", METRICS, "struck"]
