"""Turns what a run tells (tracking.py) into MLflow calls that are safe to repeat: nothing is logged twice.

A run that starts again, or a training that goes on from a checkpoint, tells some of it once more. What MLflow has of a
step stays, and is not joined by a second value that its charts would draw as well.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote

SQLITE = "sqlite:///"
RUN, STAGE, FINGERPRINT = "slamray.run", "slamray.stage", "slamray.fingerprint"  # tags that runs are found by
KIND = {"mlflow.experimentKind": "custom_model_development"}  # else MLflow's page asks whoever opens it
RECIPE = "recipe"  # the stage of the run itself
Point = tuple[str, float, int]  # of a curve: metric, value, step


class Sender:
    """Events as MLflow calls."""

    def __init__(self, uri: str, experiment: str, root: Path, system_metrics: bool = False) -> None:
        self._uri, self._experiment, self._root = uri, experiment, root
        self._system_metrics = system_metrics
        self._client: Any = None
        self._monitor: Any = None
        self._experiment_id = ""
        self._runs: dict[tuple[str, str], str] = {}
        self._values: dict[str, dict[str, float]] = {}  # by run: the latest value of each metric
        self._begun: set[str] = set()  # children that have told of a step and not of their end
        self._steps: dict[tuple[str, str], int] = {}  # by run and metric: the last step of it

    def send(self, event: Mapping[str, Any]) -> None:
        if self._client is None:
            self._connect()
        run, value = event["run"], event["value"]
        tags = value if event["kind"] == "begin" else {}  # of a user MLflow hears only when it makes a run
        run_id = self._run(run, event["run_name"], event["stage"], tags, value.get("began"))
        match event["kind"]:
            case "begin":
                self._begin(run_id, value)
            case "params":
                from mlflow.entities import Param

                known = self._client.get_run(run_id).data.params
                new = [Param(key, text) for key, text in value.items() if key not in known]
                for start in range(0, len(new), 100):  # MLflow's limit for one call
                    self._client.log_batch(run_id, params=new[start : start + 100])
            case "metrics":
                self._log_curve(run_id, value["rows"])
                self._begun.add(run_id)
                self._log_curve(self._run(run, event["run_name"], ""), value["rows"], f"{event['stage']}/")
            case "finish":
                self._log_figures(run_id, value["numbers"])
                self._client.set_tag(run_id, FINGERPRINT, value["fingerprint"])
                self._begun.discard(run_id)
                self._client.set_terminated(run_id, "FINISHED", _milliseconds(value.get("ended")))
            case "figures":
                self._log_figures(run_id, value)
            case "data":
                self._client.log_inputs(run_id, [_data_set(**one) for one in value["sets"]])
            case "text":
                self._client.log_text(run_id, value["text"], value["name"])
            case "artifact":
                self._client.log_artifact(run_id, value["path"])
            case "note":
                self._client.set_tag(run_id, "mlflow.note.content", value["text"])
            case "end":
                self._end(run_id, value["status"], with_children=not event["stage"])

    def _connect(self) -> None:
        self._client, self._experiment_id = connect(self._uri, self._experiment, self._root)

    def _begin(self, run_id: str, tags: Mapping[str, str]) -> None:
        for key, text in tags.items():
            self._client.set_tag(run_id, key, text)
        self._client.update_run(run_id, status="RUNNING")
        if self._system_metrics and self._monitor is None:
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            self._monitor = SystemMetricsMonitor(run_id, resume_logging=True, tracking_uri=self._uri)
            self._monitor.start()

    def _end(self, run_id: str, status: str, with_children: bool) -> None:
        """Where the run itself ends, what was begun and not finished ends too."""
        ended = [run_id, *(self._begun if with_children else ())]
        if with_children and self._monitor is not None:
            self._monitor.finish()
            self._monitor = None
        for one in ended:
            self._client.set_terminated(one, status if one == run_id else "FAILED")
            self._begun.discard(one)

    def _run(
        self,
        fingerprint: str,
        run_name: str,
        stage: str,
        tags: Mapping[str, str] = MappingProxyType({}),
        began: float | None = None,
    ) -> str:
        key = (fingerprint, stage)
        if key not in self._runs:
            found = find_run(self._client, self._experiment_id, fingerprint, stage or RECIPE)
            if found is not None:
                self._runs[key] = found.info.run_id
                self._values[found.info.run_id] = dict(found.data.metrics)
            else:
                own = {**tags, RUN: fingerprint, STAGE: stage or RECIPE}
                if stage:
                    own["mlflow.parentRunId"] = self._run(fingerprint, run_name, "")
                run = self._client.create_run(
                    self._experiment_id, _milliseconds(began), tags=own, run_name=stage or run_name
                )
                self._runs[key] = run.info.run_id
                self._values[run.info.run_id] = {}
        return self._runs[key]

    def _log_curve(self, run_id: str, rows: Sequence[Mapping[str, float]], prefix: str = "") -> None:
        """Numbers of steps, each later than the last that MLflow has of them; of the run itself by their stage's."""
        new: list[Point] = []
        for row in rows:
            step = int(row.get("step", 0))
            for name, number in row.items():
                key = f"{prefix}{name}"
                if step > self._last_step(run_id, key) and not (prefix and name == "step"):
                    new.append((key, number, step))
                    self._values[run_id][key] = number
                    self._steps[run_id, key] = step
        self._log(run_id, new)

    def _log_figures(self, run_id: str, numbers: Mapping[str, float]) -> None:
        """Numbers that belong to no step, where MLflow has another value or none, and no curve of that name."""
        known = self._values[run_id]
        self._log(
            run_id,
            [
                (key, number, 0)
                for key, number in numbers.items()
                if known.get(key) != number and self._last_step(run_id, key) <= 0
            ],
        )

    def _last_step(self, run_id: str, key: str) -> int:
        """-1 where MLflow has nothing of the metric."""
        if key not in self._values[run_id]:
            return -1
        if (run_id, key) not in self._steps:
            self._steps[run_id, key] = max(point.step for point in self._client.get_metric_history(run_id, key))
        return self._steps[run_id, key]

    def _log(self, run_id: str, points: Sequence[Point]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        batch = [Metric(key, float(value), now, step) for key, value, step in points]
        for start in range(0, len(batch), 1000):  # MLflow's limit for one call
            self._client.log_batch(run_id, metrics=batch[start : start + 1000])
        self._values[run_id] |= {key: value for key, value, _ in points}


def connect(uri: str, experiment: str, root: Path) -> tuple[Any, str]:
    """A client of the store at this address, and the experiment's id; the experiment is made where it is not there."""
    from mlflow import MlflowClient  # two seconds; not before something is to be sent
    from mlflow.exceptions import MlflowException

    client = MlflowClient(tracking_uri=uri)
    remove_strays(uri)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        place = (root / "mlflow-artifacts").absolute().as_uri() if uri.startswith("sqlite") else None
        try:
            return client, client.create_experiment(experiment, artifact_location=place, tags=KIND)
        except MlflowException:  # another driver made it between the two calls
            found = client.get_experiment_by_name(experiment)
    assert found is not None, f"{experiment} is neither there nor can it be made"
    return client, found.experiment_id


def find_run(client: Any, experiment_id: str, fingerprint: str, stage: str = RECIPE) -> Any:
    """The run of a fingerprint, or its child for a stage; None where there is none."""
    query = f"tags.`{RUN}` = '{fingerprint}' and tags.`{STAGE}` = '{stage}'"
    found = client.search_runs([experiment_id], query, max_results=1)
    return found[0] if found else None


def log_model(client: Any, run: Any, folder: Path, name: str, fingerprint: str, card: str) -> str:
    """An exported folder as a model of a run, which MLflow registers and loads; the model's id.

    By mlflow.transformers, which writes safetensors and loads a pipeline: mlflow.pyfunc would need a class, pickled or
    as code. Its way from a folder's path, without the weights in memory, fails with transformers 5 (mlflow 3.17).
    A model of the same fingerprint, which the run has already, stays the only one.
    """
    import mlflow.transformers
    import transformers
    from huggingface_hub import ModelCard
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    run_id, experiment_id = run.info.run_id, run.info.experiment_id
    for known in client.search_logged_models([experiment_id], filter_string=f"name = '{name}'"):
        same = known.tags.get(FINGERPRINT) == fingerprint and known.source_run_id == run_id
        if same and str(known.status) == "READY":
            return str(known.model_id)
    tags = {FINGERPRINT: fingerprint, "mlflow.note.content": card}
    model = client.create_logged_model(experiment_id, name, run_id, tags, dict(run.data.params))
    about = Model(
        artifact_path=model.artifact_location, model_uuid=model.model_id, run_id=run_id, model_id=model.model_id
    )
    with TemporaryDirectory(dir=folder.parent) as scratch:
        saved = Path(scratch) / "model"
        mlflow.transformers.save_model(
            transformers.pipeline("text-generation", model=str(folder), tokenizer=str(folder), device="cpu"),
            str(saved),
            model_card=ModelCard(card),
            mlflow_model=about,
            pip_requirements=[f"transformers=={transformers.__version__}", "torch"],
        )
        client.log_model_artifacts(model.model_id, str(saved))
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    return str(model.model_id)


def _data_set(name: str, digest: str, source: str, context: str, profile: Mapping[str, Any]) -> Any:
    """As MLflow has it, without its readers: they would open the data to find the digest."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    kind = "hugging_face" if source.startswith("hf://") else "local"
    place = json.dumps({"path": source, "uri": source})
    return DatasetInput(
        Dataset(name, digest, kind, place, profile=json.dumps(profile)), [InputTag("mlflow.data.context", context)]
    )


def _milliseconds(unix_seconds: float | None) -> int | None:
    return None if unix_seconds is None else int(1000 * unix_seconds)


def sqlite_path(uri: str) -> Path:
    """The file that such an address names."""
    return Path(unquote(uri.removeprefix(SQLITE).partition("?")[0]))


def remove_strays(uri: str) -> None:
    """MLflow makes the folder of an SQLite file by its quoted name: remove it, where it is another one and empty."""
    quoted = Path(uri.removeprefix(SQLITE)).parent
    if uri.startswith(SQLITE) and quoted != sqlite_path(uri).parent and quoted.is_dir() and not any(quoted.iterdir()):
        os.removedirs(quoted)  # with the folders above that are empty then
