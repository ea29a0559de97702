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
from slamray.commands.tracked import retell
from slamray.config.compute import TrackingSettings
from slamray.stage.folder import Folder
from slamray.tracking import DataSet, MlflowTracker, NullTracker, Tracker, flatten, open_tracker, unsent

MANIFEST = {
    "facts": {"units": 12, "loss": 2.0, "pairs": {"words": {"accuracy": 0.75}}},
    "began_unix_seconds": 1_700_000_000.25,
    "wall_seconds": 1.5,
    "fingerprint": "abc",
}
TAGS = {"mlflow.user": "ada", "mlflow.source.name": "slam.py", "mlflow.source.git.commit": "c0ffee"}


def track(root: Path, uri: str = "", run: str = "f1", system_metrics: bool = False) -> Tracker:
    told = TrackingSettings(uri=uri, experiment="test", system_metrics=system_metrics)
    return open_tracker(told, "demo", run, root)


def tell(tracker: Any) -> None:
    tracker.begin(TAGS)
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
    tell(track(tmp_path))
    runs = read(tmp_path)
    assert set(runs) == {"recipe", "pretrained"}
    assert runs["recipe"].data.params == {"dpo.beta": "0.1", "name": "demo"}
    child = runs["pretrained"]
    assert child.data.tags["mlflow.parentRunId"] == runs["recipe"].info.run_id
    assert child.data.metrics["loss"] == 2.0 and child.data.metrics["pairs.words.accuracy"] == 0.75
    assert runs["recipe"].info.status == child.info.status == "FINISHED"


def test_a_second_start_continues_the_same_run(tmp_path: Path) -> None:
    for _ in range(2):
        tell(track(tmp_path))
    assert len(read(tmp_path)) == 2


def test_what_a_dead_server_refused_is_kept_and_sent_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    tell(track(tmp_path, f"http://127.0.0.1:{port}"))
    spool = unsent(tmp_path, "f1")
    assert [json.loads(line)["kind"] for line in spool.read_text().splitlines()] == [
        "begin", "params", "metrics", "metrics", "finish", "end",
    ]  # fmt: skip
    assert "6 events not sent" in capsys.readouterr().err
    track(tmp_path).close("FINISHED")
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
        tell(track(tmp_path, silent))
    assert time.monotonic() - began < 10
    assert "6 events not sent" in capsys.readouterr().err  # the one on its way among them
    track(tmp_path).close("FINISHED")
    assert not unsent(tmp_path, "f1").exists()
    runs = read(tmp_path)
    assert runs["recipe"].data.params["name"] == "demo" and runs["pretrained"].data.metrics["loss"] == 2.0


def test_what_a_killed_process_had_not_sent_is_sent_at_the_next_start(tmp_path: Path, silent: str) -> None:
    code = (
        "import os, sys, pathlib; from slamray.tracking import open_tracker\n"
        "from slamray.config.compute import TrackingSettings\n"
        "told = TrackingSettings(uri=sys.argv[1], experiment='test')\n"
        "tracker = open_tracker(told, 'demo', 'f1', pathlib.Path(sys.argv[2]))\n"
        "tracker.params({'name': 'demo'}); tracker.metrics('pretrained', {'step': 1, 'loss': 3.0})\n"
        "os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, silent, str(tmp_path)], check=False).returncode == -9
    with unsent(tmp_path, "f1").open("a") as file:
        file.write('{"run": "f1", "ki')  # the kill may have come in the middle of a line
    track(tmp_path, silent)
    assert [json.loads(line)["kind"] for line in unsent(tmp_path, "f1").read_text().splitlines()] == [
        "params", "metrics",
    ]  # fmt: skip
    track(tmp_path).close("FINISHED")
    assert not unsent(tmp_path, "f1").exists()
    assert read(tmp_path)["pretrained"].data.metrics["loss"] == 3.0


def test_tracking_can_be_switched_off(tmp_path: Path) -> None:
    tracker = open_tracker(TrackingSettings(enabled=False), "demo", "f1", tmp_path)
    assert isinstance(tracker, NullTracker) and not isinstance(tracker, MlflowTracker)
    tell(tracker)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root of several runs, whose store takes seconds to make."""
    return tmp_path_factory.mktemp("kept")


def run_of(root: Path, fingerprint: str, stage: str = "recipe") -> Any:
    client = client_of(root)
    query = f"tags.`slamray.run` = '{fingerprint}' and tags.`slamray.stage` = '{stage}'"
    (found,) = client.search_runs([client.get_experiment_by_name("test").experiment_id], query)
    return found


def client_of(root: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=f"sqlite:///{root}/mlflow.db")


def curve(root: Path, run: Any, key: str) -> list[tuple[int, float]]:
    points = client_of(root).get_metric_history(run.info.run_id, key)
    return sorted((point.step, point.value) for point in points)


def test_curves_lie_on_the_run_itself_under_the_stage_so_that_two_runs_overlay(kept: Path) -> None:
    for run, losses in (("first", (3.0, 2.0)), ("second", (3.5, 2.5))):
        tracker = track(kept, run=run)
        tracker.begin(TAGS)
        for step, loss in enumerate(losses, start=1):
            tracker.metrics("pretrained", {"step": 10 * step, "loss": loss})
        tracker.close("FINISHED")
    for run, points in (("first", [(10, 3.0), (20, 2.0)]), ("second", [(10, 3.5), (20, 2.5)])):
        assert curve(kept, run_of(kept, run), "pretrained/loss") == points
        assert curve(kept, run_of(kept, run, "pretrained"), "loss") == points


def test_steps_that_are_trained_again_after_a_kill_are_not_logged_twice(kept: Path) -> None:
    for steps, ends in ((range(0, 4), "FAILED"), (range(2, 7), "FINISHED")):  # the checkpoint was that of step 1
        tracker = track(kept, run="killed")
        tracker.begin(TAGS)
        for step in steps:
            tracker.metrics("aligned", {"step": step, "loss": 10.0 - step})
        tracker.close(ends)
    points = [(step, 10.0 - step) for step in range(7)]
    assert curve(kept, run_of(kept, "killed"), "aligned/loss") == points
    assert curve(kept, run_of(kept, "killed", "aligned"), "loss") == points


def test_a_training_that_starts_again_under_the_same_driver_is_not_logged_twice(kept: Path) -> None:
    tracker = track(kept, run="workers died")
    for step in (1, 2, 3, 2, 3, 4):
        tracker.metrics("pretrained", {"step": step, "loss": float(step)})
    tracker.close("FINISHED")
    assert [step for step, _ in curve(kept, run_of(kept, "workers died"), "pretrained/loss")] == [1, 2, 3, 4]


def test_a_report_of_several_steps_is_a_point_for_each(kept: Path) -> None:
    rows = [{"step": step, "loss": 1.0 / step} for step in (1, 2, 3)]
    tracker = track(kept, run="each step")
    tracker.metrics("aligned", {"step": 3, "loss": 0.6, "each_step": rows})
    tracker.close("FINISHED")
    assert curve(kept, run_of(kept, "each step"), "aligned/loss") == [(1, 1.0), (2, 0.5), (3, 1.0 / 3)]


def test_a_training_of_an_earlier_run_has_its_curve_in_the_run_that_uses_it_too(kept: Path, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    lines = [{"step": step, "loss": 1.0 / step, "each_step": []} for step in range(1, 451)]
    (tmp_path / "made" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for _ in range(2):
        tracker = track(kept, run="uses it")
        retell(tracker, "pretrained", Folder(tmp_path / "made"))
        retell(tracker, "packed", Folder(tmp_path))  # no training
        tracker.finish_stage("pretrained", MANIFEST)
        tracker.close("FINISHED")
    wanted = [(step, 1.0 / step) for step in range(1, 451)]
    assert curve(kept, run_of(kept, "uses it"), "pretrained/loss") == wanted
    assert curve(kept, run_of(kept, "uses it", "pretrained"), "loss") == wanted


def test_a_finished_stage_has_its_own_times_and_is_told_once_however_often_the_command_is_given(kept: Path) -> None:
    for _ in range(2):
        tracker = track(kept, run="twice")
        tracker.metrics("pretrained", {"step": 4, "loss": 2.0})
        tracker.finish_stage("pretrained", MANIFEST)
        tracker.figures({"perplexity": 9.5, "seconds/pretrained": 1.5})
        tracker.close("FINISHED")
    child, whole = run_of(kept, "twice", "pretrained"), run_of(kept, "twice")
    assert child.info.end_time == 1_700_000_001_750
    assert curve(kept, child, "units") == [(0, 12.0)] and curve(kept, child, "wall_seconds") == [(0, 1.5)]
    assert curve(kept, child, "loss") == [(4, 2.0)]  # the fact of that name is no point of the curve
    assert curve(kept, whole, "perplexity") == [(0, 9.5)] and whole.data.metrics["seconds/pretrained"] == 1.5
    # in the order of telling: MLflow's page of a comparison opens with the first
    assert list(whole.data.metrics) == ["pretrained/loss", "perplexity", "seconds/pretrained"]


def test_a_figure_that_is_another_one_the_next_time_is_the_one_that_is_shown(kept: Path) -> None:
    for value in (0.6, 0.7):  # a sweep, of which a trial that had failed was made
        tracker = track(kept, run="answers")
        tracker.figures({"topic_cloze": value})
        tracker.close("FINISHED")
        time.sleep(0.01)  # MLflow orders values of one step by milliseconds
    assert run_of(kept, "answers").data.metrics["topic_cloze"] == 0.7


def test_a_run_has_its_user_source_commit_and_data_and_runs_again_when_it_goes_on(kept: Path) -> None:
    stories = DataSet("stories.jsonl.gz", "0123456789abcdef", "/data/stories.jsonl.gz", "training", {"documents": 7})
    for _ in range(2):
        tracker = track(kept, run="about")
        tracker.begin(TAGS)
        tracker.data([stories])
        tracker.text("recipe.yaml", "name: demo\n")
        tracker.note("Three sentences.")
        tracker.close("FAILED")
    tracker = track(kept, run="about")
    tracker.begin(TAGS)
    for _ in range(100):
        if (found := run_of(kept, "about")).info.status == "RUNNING":
            break
        time.sleep(0.1)
    assert found.info.status == "RUNNING"
    tracker.close("FINISHED")
    found = run_of(kept, "about")
    assert found.info.status == "FINISHED" and found.info.user_id == "ada"
    assert TAGS.items() <= found.data.tags.items() and found.data.tags["mlflow.note.content"] == "Three sentences."
    (read,) = found.inputs.dataset_inputs
    assert (read.dataset.name, read.dataset.digest) == ("stories.jsonl.gz", "0123456789abcdef")
    assert json.loads(read.dataset.profile) == {"documents": 7} and read.tags[0].value == "training"
    (written,) = (kept / "mlflow-artifacts").rglob("recipe.yaml")
    assert written.read_text() == "name: demo\n" and found.info.run_id in str(written)


def test_what_was_begun_and_not_finished_ends_with_the_run(kept: Path) -> None:
    tracker = track(kept, run="broken")
    tracker.metrics("pretrained", {"step": 1, "loss": 2.0})
    tracker.params({"seed": 0}, "trial")
    tracker.end_child("trial", "KILLED")
    tracker.close("FAILED")
    states = {stage: run_of(kept, "broken", stage).info.status for stage in ("recipe", "pretrained", "trial")}
    assert states == {"recipe": "FAILED", "pretrained": "FAILED", "trial": "KILLED"}


def test_the_load_of_the_machine_is_logged_where_it_is_asked_for(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    tracker = track(kept, run="watched", system_metrics=True)
    tracker.begin(TAGS)
    for _ in range(300):
        time.sleep(0.1)
        if "system/cpu_utilization_percentage" in (found := run_of_or_none(kept, "watched")):
            break
    tracker.close("FINISHED")
    assert 0 <= found["system/cpu_utilization_percentage"] <= 100 and found["system/system_memory_usage_megabytes"] > 0
    assert not any(key.startswith("system/") for key in run_of(kept, "about").data.metrics)


def run_of_or_none(root: Path, fingerprint: str) -> dict[str, float]:
    """The metrics of a run that may not be there yet."""
    client = client_of(root)
    query = f"tags.`slamray.run` = '{fingerprint}'"
    found = client.search_runs([client.get_experiment_by_name("test").experiment_id], query)
    return dict(found[0].data.metrics) if found else {}


def test_numbers_are_found_at_any_depth() -> None:
    assert flatten({"a": 1, "b": {"c": 2.5, "d": "text", "e": True}}) == {"a": 1, "b.c": 2.5}
