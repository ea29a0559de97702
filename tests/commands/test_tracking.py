"""Tracking: a real MLflow on SQLite, and a server that is not there."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slamray import tracking
from slamray.tracking import MlflowTracker, NullTracker, flatten, open_tracker, unsent

MANIFEST = {"facts": {"units": 12, "pairs": {"words": {"accuracy": 0.75}}}, "wall_seconds": 1.5, "fingerprint": "abc"}


def tell(tracker: Any) -> None:
    tracker.params({"dpo.beta": 0.1, "name": "demo"})
    tracker.metrics("pretrained", {"step": 1, "loss": 3.0, "note": "text is left out"})
    tracker.metrics("pretrained", {"step": 2, "loss": 2.0})
    tracker.finish_stage("pretrained", MANIFEST)
    tracker.close("FINISHED")


def read(root: Path) -> dict[str, Any]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{root}/mlflow.db")
    experiment = client.get_experiment_by_name("test")
    assert experiment is not None
    return {run.data.tags["slamray.stage"]: run for run in client.search_runs([experiment.experiment_id])}


def test_one_run_with_a_child_for_the_stage(tmp_path: Path) -> None:
    tell(open_tracker(True, "", "test", "demo", "f1", tmp_path))
    runs = read(tmp_path)
    assert set(runs) == {"recipe", "pretrained"}
    assert runs["recipe"].data.params == {"dpo.beta": "0.1", "name": "demo"}
    child = runs["pretrained"]
    assert child.data.tags["mlflow.parentRunId"] == runs["recipe"].info.run_id
    assert child.data.metrics["loss"] == 2.0 and child.data.metrics["pairs.words.accuracy"] == 0.75
    assert runs["recipe"].info.status == child.info.status == "FINISHED"


def test_a_second_start_continues_the_same_run(tmp_path: Path) -> None:
    for _ in range(2):
        tell(open_tracker(True, "", "test", "demo", "f1", tmp_path))
    assert len(read(tmp_path)) == 2


def test_what_a_dead_server_refused_is_kept_and_sent_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    tell(open_tracker(True, f"http://127.0.0.1:{port}", "test", "demo", "f1", tmp_path))
    spool = unsent(tmp_path, "f1")
    assert [json.loads(line)["kind"] for line in spool.read_text().splitlines()] == [
        "params", "metrics", "metrics", "finish", "end",
    ]  # fmt: skip
    assert "5 events not sent" in capsys.readouterr().err
    open_tracker(True, "", "test", "demo", "f1", tmp_path).close("FINISHED")
    assert not spool.exists()
    assert read(tmp_path)["pretrained"].data.metrics["loss"] == 2.0


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that takes requests and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_server_that_never_answers_is_not_waited_for_and_gets_all_at_the_next_start(
    tmp_path: Path, silent: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    with monkeypatch.context() as patch:
        patch.setattr(tracking, "CLOSE_SECONDS", 3.0)  # only here: making MLflow's tables can take longer below
        tell(open_tracker(True, silent, "test", "demo", "f1", tmp_path))
    assert time.monotonic() - began < 10
    assert "5 events not sent" in capsys.readouterr().err  # the one on its way among them
    open_tracker(True, "", "test", "demo", "f1", tmp_path).close("FINISHED")
    assert not unsent(tmp_path, "f1").exists()
    runs = read(tmp_path)
    assert runs["recipe"].data.params["name"] == "demo" and runs["pretrained"].data.metrics["loss"] == 2.0


def test_what_a_killed_process_had_not_sent_is_sent_at_the_next_start(tmp_path: Path, silent: str) -> None:
    code = (
        "import os, sys, pathlib; from slamray.tracking import open_tracker\n"
        "tracker = open_tracker(True, sys.argv[1], 'test', 'demo', 'f1', pathlib.Path(sys.argv[2]))\n"
        "tracker.params({'name': 'demo'}); tracker.metrics('pretrained', {'step': 1, 'loss': 3.0})\n"
        "os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, silent, str(tmp_path)], check=False).returncode == -9
    with unsent(tmp_path, "f1").open("a") as file:
        file.write('{"run": "f1", "ki')  # the kill may have come in the middle of a line
    open_tracker(True, silent, "test", "demo", "f1", tmp_path)
    assert [json.loads(line)["kind"] for line in unsent(tmp_path, "f1").read_text().splitlines()] == [
        "params", "metrics",
    ]  # fmt: skip
    open_tracker(True, "", "test", "demo", "f1", tmp_path).close("FINISHED")
    assert not unsent(tmp_path, "f1").exists()
    assert read(tmp_path)["pretrained"].data.metrics["loss"] == 3.0


def test_tracking_can_be_switched_off(tmp_path: Path) -> None:
    tracker = open_tracker(False, "", "test", "demo", "f1", tmp_path)
    assert isinstance(tracker, NullTracker) and not isinstance(tracker, MlflowTracker)
    tell(tracker)
    assert not list(tmp_path.iterdir())


def test_numbers_are_found_at_any_depth() -> None:
    assert flatten({"a": 1, "b": {"c": 2.5, "d": "text", "e": True}}) == {"a": 1, "b.c": 2.5}
