"""The command itself, as a person or a cluster runs it: whole runs of the recipe with tiny models."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
DASHBOARD = "http://127.0.0.1:8366"  # away from 8265, where other clusters look for a free one, and from 10002 on


def slam(words: list[str], root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "jobs/slam.py", *words, f"root={root}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """A one-machine cluster with token authentication, as `make cluster-up` starts it; the environment to reach it."""
    ray = str(Path(sys.executable).parent / "ray")
    environment = os.environ | {"RAY_AUTH_MODE": "token"}
    start = ["start", "--head", "--port=6390", "--dashboard-host=127.0.0.1", "--dashboard-port=8366", "--num-cpus=2"]
    start += ["--dashboard-agent-listen-port=52399"]  # the tests' other cluster has the usual one
    subprocess.run([ray, "get-auth-token", "--generate"], env=environment, check=True, capture_output=True)
    # --block, to stop this cluster alone: `ray stop` would take the tests' other cluster with it.
    running = subprocess.Popen([ray, *start, "--block"], env=environment, stdout=subprocess.DEVNULL)
    for _ in range(60):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", 8366)) == 0:
                break
        time.sleep(1)
    yield environment | {"RAY_ADDRESS": DASHBOARD}
    running.kill()  # its processes end with it; told to stop, it takes half a minute
    running.wait(60)


@pytest.fixture(scope="module")
def finished(cluster: dict[str, str], tiny_words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a run that was submitted as a Ray job and has ended well."""
    root = tmp_path_factory.mktemp("runs")
    ray = str(Path(sys.executable).parent / "ray")
    words = [*tiny_words, f"root={root}", "tracking.enabled=true"]
    job = [ray, "job", "submit", "--working-dir", str(ROOT), "--", sys.executable, "jobs/slam.py", *words]
    for _ in range(30):
        done = subprocess.run(job, env=cluster, capture_output=True, text=True, check=False)
        starting = ("No available agent", "Failed to connect to Ray at address")
        if not any(words in done.stdout + done.stderr for words in starting):
            break
        time.sleep(2)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "12 of 12 stages made" in done.stdout
    return root


def test_an_unauthenticated_request_to_the_cluster_is_refused(cluster: dict[str, str]) -> None:
    import urllib.error
    import urllib.request

    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{DASHBOARD}/api/jobs/", timeout=30)


def test_a_submitted_job_leaves_every_stage_with_its_record(finished: Path) -> None:
    manifests = [json.loads(path.read_text()) for path in finished.glob("*/*/manifest.json")]
    assert len(manifests) == 12
    assert all(manifest["provenance"]["libraries"]["ray"] for manifest in manifests)
    units = next(m for m in manifests if m["name"] == "units")["facts"]
    assert units["utterances"] == 18 and units["quarantined"] == 0  # 16 for training and 2 for validation


def test_the_report_is_one_file_that_needs_no_network(finished: Path) -> None:
    (page,) = finished.glob("report/*/report.html")
    text = page.read_text()
    assert "<svg" in text and "<audio" in text
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)[^"']+""", text)


def test_mlflow_holds_one_run_with_a_child_for_each_stage(finished: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{finished}/mlflow.db")
    experiment = client.get_experiment_by_name("slamray")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = {run.data.tags["slamray.stage"]: run for run in runs if run is not parent}
    assert len(children) == 12 and {run.data.tags["mlflow.parentRunId"] for run in children.values()} == {
        parent.info.run_id
    }
    assert parent.info.status == "FINISHED" and {run.info.status for run in children.values()} == {"FINISHED"}
    assert len(parent.data.params) < 60 and parent.data.params["dpo.budget"] == "steps:2"
    figures = facts_of(finished, "scores_aligned")["figures"]
    assert parent.data.metrics["perplexity"] == figures["perplexity"]["perplexity"]
    assert parent.data.metrics["topic_cloze"] == figures["topic_cloze"]["accuracy"]
    spent = [facts_of(finished, name)["device_seconds"] for name in ("pretrained", "aligned")]
    assert parent.data.metrics["device_hours"] == pytest.approx(sum(spent) / 3600)
    assert {f"seconds/{name}" for name in children} <= parent.data.metrics.keys()
    for run, prefix in ((children["pretrained"], ""), (parent, "pretrained/")):
        assert [p.step for p in client.get_metric_history(run.info.run_id, f"{prefix}loss")] == [4]
    # every step of DPO is a point, though it reports every tenth and at its end
    assert [p.step for p in client.get_metric_history(parent.info.run_id, "aligned/loss")] == [1, 2]
    assert {file.path for file in client.list_artifacts(parent.info.run_id)} == {"report.html", "recipe.yaml"}
    assert parent.data.tags["mlflow.note.content"].startswith("0.")  # hours of speech: the report's first sentence
    assert "dpo.budget=steps:2" in parent.data.tags["slamray.words"]
    (stories,) = parent.inputs.dataset_inputs
    content = facts_of(finished, "corpus", "identity")["corpus"]["paths"]
    assert stories.dataset.name == "stories.jsonl.gz" and content["sha256"].startswith(stories.dataset.digest)


def facts_of(root: Path, stage: str, part: str = "facts") -> dict[str, Any]:
    (path,) = root.glob(f"{stage}/*/manifest.json")
    found: dict[str, Any] = json.loads(path.read_text())[part]
    return found


def test_the_exported_model_is_logged_in_the_run_and_mlflow_loads_it(
    finished: Path, tiny_words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{finished}/mlflow.db")
    command = [sys.executable, "jobs/export.py", *tiny_words, f"root={finished}", f"out={tmp_path}", "track=true"]
    done = subprocess.run([*command, "layout=transformers"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    folder, address = done.stdout.split()
    import mlflow.transformers
    from transformers import AutoModelForCausalLM

    loaded, plain = mlflow.transformers.load_model(address).model, AutoModelForCausalLM.from_pretrained(folder)
    weights = plain.state_dict()
    assert all(bool((value == weights[name]).all()) for name, value in loaded.state_dict().items())


def test_the_same_command_again_does_nothing_in_under_20_seconds(finished: Path, tiny_words: list[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    began = time.monotonic()
    done = slam(tiny_words, finished)
    assert time.monotonic() - began < 20
    assert done.returncode == 0 and "0 of 12 stages made" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()} == before


def test_a_request_the_machine_can_never_meet_ends_before_any_work(tiny_words: list[str], tmp_path: Path) -> None:
    done = slam([*tiny_words, "compute.tts_actors=999"], tmp_path)
    assert done.returncode == 2
    assert "error: compute.tts_actors: needs 999 CPUs" in done.stderr
    assert not list(tmp_path.glob("*/*/manifest.json"))
