"""Sweeps on the tests' Ray cluster, tiny: what is shared, what a failure costs, stopping, MLflow that is not there."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray

from slamray.commands.sweep import main
from slamray.config.compute import Compute
from slamray.runtime import tune
from slamray.runtime.engine import Engine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ITEMS = ["evaluate.items.topic_cloze=4", "evaluate.items.sentence_order=4", "evaluate.items.words_in_sentence=0"]
Told = tuple[int, str, str]  # exit status, stdout, stderr


@pytest.fixture(autouse=True, scope="module")
def one_cluster(engine: Engine) -> Any:
    """A command's end would stop the tests' cluster."""
    engine.connect()
    patch = pytest.MonkeyPatch()
    patch.setattr(Engine, "close", lambda self: None)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def words(tiny_words: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    varied = ("pretrain.budget", "dpo.budget", "evaluate.items", "tracking")
    kept = [word for word in tiny_words if not word.startswith(varied)]
    return [
        *kept, *ITEMS, f"root={tmp_path_factory.mktemp('runs')}", "recipe=dpo_budget_laptop", "sweep.keep=1",
        "sweep.space.total=tokens:8192", "sweep.seeds=[0, 1]", "sweep.metrics=[perplexity, topic_cloze]",
        "sweep.objective=[topic_cloze, sentence_order]",
    ]  # fmt: skip


def root_of(words: list[str]) -> Path:
    return Path(next(word for word in words if word.startswith("root=")).removeprefix("root="))


def made(root: Path, stage: str) -> dict[str, dict[str, Any]]:
    """Manifests of a stage by fingerprint."""
    found = [json.loads(path.read_text()) for path in root.glob(f"{stage}/*/manifest.json")]
    return {manifest["fingerprint"]: manifest for manifest in found}


def table_of(root: Path) -> list[dict[str, Any]]:
    """The runs' table of the sweep that was drawn last."""
    newest = max(root.glob("sweep/*/manifest.json"), key=lambda path: path.stat().st_mtime_ns)
    rows: list[dict[str, Any]] = pq.read_table(newest.parent / "runs.parquet").to_pylist()
    return rows


def run(words: list[str], capsys: pytest.CaptureFixture[str]) -> Told:
    status = main(words)
    said = capsys.readouterr()
    return status, said.out, said.err


NOBODY = "tracking.uri=http://127.0.0.1:9"  # the port of "discard": no server listens there


@pytest.mark.long
def test_a_sweep_is_made_though_mlflow_refuses_and_tells_it_later(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    root, shares = root_of(words), "sweep.space.shares=[0, 0.25]"
    status, out, err = run([*words, shares, NOBODY], capsys)
    assert status == 0, err[-3000:]
    assert "events not sent" in err and list(root.glob("mlflow-unsent-*.jsonl"))
    for name in ("corpus", "units", "preferences", "items", "packed"):
        assert len(made(root, name)) == 1, name
    # one trunk for each seed and share: the shorter's is the beginning of the longer's
    assert len(made(root, "trunk")) == 4 and len(made(root, "pretrained")) == 4 and len(made(root, "aligned")) == 2
    (folder,) = root.glob("sweep/*")
    assert {path.name for path in folder.iterdir()} >= {"sweep.png", "runs.parquet", "summary.parquet", "answer.txt"}
    sentence, cost = (folder / "answer.txt").read_text().splitlines()
    assert sentence in out and "over 2 seeds" in sentence and "device-hours" in cost
    assert len(table_of(root)) == 2 * 2 * 2  # points, seeds, metrics

    before = {path: path.stat().st_mtime_ns for path in root.glob("*/*/manifest.json")}
    status, again, _ = run([*words, shares], capsys)
    assert status == 0 and sentence in again
    assert {path: path.stat().st_mtime_ns for path in root.glob("*/*/manifest.json")} == before
    assert not list(root.glob("mlflow-unsent-*.jsonl"))
    parent, children = tracked(root)
    assert len(children) == 4 and parent.data.tags["mlflow.note.content"].startswith(sentence)
    assert {child.data.params["axis.DPO_percent_of_the_budget"] for child in children} == {"0.0", "25.0"}
    measured = {"perplexity", "topic_cloze", "objective", "tokens", "flops", "device_hours"}
    assert all(measured <= child.data.metrics.keys() for child in children)
    assert all(len(child.data.params) < 8 for child in children)
    assert {"perplexity", "topic_cloze", "device_hours", "sure"} <= parent.data.metrics.keys()
    assert parent.inputs.dataset_inputs[0].dataset.name == "stories.jsonl.gz"


def tracked(root: Path) -> tuple[Any, list[Any]]:
    """The sweep's run in MLflow, and its trials'."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{root}/mlflow.db")
    experiment = client.get_experiment_by_name("slamray")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [one for one in runs if "mlflow.parentRunId" not in one.data.tags]
    assert {file.path for file in client.list_artifacts(parent.info.run_id)} >= {"sweep.png", "runs.parquet"}
    return parent, [one for one in runs if "seed" in one.data.params]


@pytest.mark.long
def test_a_second_sweep_on_one_root_shares_speech_and_trunks(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    root = root_of(words)
    before = {name: set(made(root, name)) for name in ("units", "preferences", "trunk", "pretrained")}
    assert len(before["trunk"]) == 4, "the test before this one made them"
    status, _, err = run([*words, "tracking.enabled=false", "sweep.space.shares=[0, 0.5]", "sweep.seeds=[0]"], capsys)
    assert status == 0, err[-3000:]
    assert "2 trials, 1 ended before" in err
    assert set(made(root, "units")) == before["units"] and set(made(root, "preferences")) == before["preferences"]
    new = made(root, "pretrained").keys() - before["pretrained"]
    assert len(new) == 1
    (added,) = (made(root, "pretrained")[key] for key in new)
    assert added["facts"]["shared_seconds"] > 0 and added["inputs"]["trunk"] in made(root, "trunk")


@pytest.mark.long
def test_a_trial_that_raises_is_reported_and_costs_only_itself(
    words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "rates.yaml"
    path.write_text(
        "extends: demo\nname: rates\nsweep:\n  title: Rates\n  tuning: rate_and_batch\n  seeds: [0]\n"
        "  metrics: [perplexity]\n  objective: [topic_cloze]\n"
        "  space: {learning_rates: [1.0e-3, 1.0e+30], tokens_per_step: [1024]}\n"
    )
    own = ("recipe", "sweep.", "pretrain.tokens_per_step")
    kept = [word for word in words if not word.startswith(own)]
    asked = [*kept, f"recipe={path}", "tracking.enabled=false", "pretrain.budget=steps:3", "dpo.budget=null"]
    status, out, err = run(asked, capsys)
    assert status == 1
    (failure,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert failure.startswith("error: learning rate 1e+30, tokens a step 1024, seed 0 failed: ")
    assert "not finite" in failure
    assert "Traceback" not in out + err
    assert [row["variant"] for row in table_of(root_of(words))] == ["learning rate 0.001, tokens a step 1024"]


def test_a_trial_that_is_stopped_frees_the_only_slot_for_the_next(tmp_path: Path) -> None:
    """Each trains on the whole cluster; `poor` tells a low value and then never ends."""

    def train(name: str, tell: Callable[[float, float], None]) -> dict[str, Any]:
        engine = Engine(Compute(cpus_per_worker=int(ray.cluster_resources()["CPU"])))
        engine.observe = lambda stage, metrics: tell(50, metrics["value"])

        def loop(report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
            report({"value": 0.1 if name == "poor" else 0.9})
            time.sleep(3600 if name == "poor" else 2)
            return {"trained": name}

        return {"value": 0.9, **engine.train(name, loop, tmp_path / name)}

    ended: list[tune.Ended] = []
    tune.run(train, ["good", "poor", "later"], 1, "asha", ended.append, tmp_path / "tune")
    assert [(one.name, one.how) for one in ended] == [("good", "finished"), ("poor", "stopped"), ("later", "finished")]
    assert ended[1].told["value"] == 0.1 and not (tmp_path / "poor" / "facts.json").exists()


def test_a_trial_whose_process_dies_is_begun_again_and_one_that_raises_is_not(tmp_path: Path) -> None:
    def work(name: str, tell: Callable[[float, float], None]) -> dict[str, Any]:
        with (tmp_path / f"{name}.txt").open("a") as file:
            file.write("begun\n")
        if name == "raises":
            raise ValueError("as planted")
        if name == "lost" or len((tmp_path / f"{name}.txt").read_text().splitlines()) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"value": 0.5}

    ended: list[tune.Ended] = []
    tune.run(work, ["dies", "raises", "lost"], 1, "none", ended.append, tmp_path / "tune", max_failures=1)
    found = {one.name: one for one in ended}
    assert len(ended) == 3 and found["dies"].how == "finished" and found["dies"].told["value"] == 0.5
    assert (found["raises"].how, found["raises"].reason) == ("failed", "ValueError: as planted")
    assert found["lost"].how == "failed" and found["lost"].reason
    begun = {name: (tmp_path / f"{name}.txt").read_text().count("begun") for name in found}
    assert begun == {"dies": 2, "raises": 1, "lost": 2}


@pytest.mark.long
def test_optuna_proposes_points_and_the_best_two_get_all_seeds(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    shares = "sweep.space.shares=[0, 0.25, 0.5]"
    status, out, err = run([*words, "tracking.enabled=false", shares, "sweep.search=2"], capsys)
    assert status == 0, err[-3000:]
    seeds: dict[str, set[int]] = {}
    for row in table_of(root_of(words)):
        seeds.setdefault(row["variant"], set()).add(row["seed"])
    assert sum(found == {0, 1} for found in seeds.values()) >= 2
    assert "over 2 seeds" in out
