"""The few MLflow calls used. Only the driver calls them; they never raise, never wait, and lose nothing.

Every call becomes an event that a thread sends. Events lie in a file under the root, or beside its cache where the root
is an object store, until they are sent, whatever ends the process, and go first at the next start of the same command,
which continues the run: runs are found by tags.
"""

from __future__ import annotations

import json
import os
import queue
import re
import sqlite3
import sys
import threading
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, unquote

from slamray import store
from slamray.errors import BadInput
from slamray.stage.folder import Folder, Root

SQLITE = "sqlite:///"
ANSWER_SECONDS = 10.0  # within which a server must answer whoever wants to read of it; chosen, not tuned
CLOSE_SECONDS = 30.0  # a run waits at most this long at its end for a slow server; chosen, not tuned
_NOT_IN_KEYS = re.compile(r"[^\w./-]")  # MLflow refuses most other characters
NETWORK = {"nfs", "nfs4", "cifs", "smb3"}  # file systems on which SQLite's locks do not hold (sqlite.org/faq.html, 5)
PARAM_LENGTH = 500  # MLflow refuses longer values in some stores (user lesson 24)


class Tracker(Protocol):
    """One run of a recipe, with one child for each stage; or of a sweep, with one for each trial."""

    def params(self, params: Mapping[str, Any], child: str = "") -> None: ...

    def metrics(self, stage: str, metrics: Mapping[str, Any]) -> None: ...

    def finish_stage(self, stage: str, manifest: Mapping[str, Any]) -> None: ...

    def artifact(self, path: Path) -> None: ...

    def note(self, text: str) -> None: ...

    def close(self, status: str) -> None: ...


class NullTracker:
    """A tracker that tracks nothing."""

    def params(self, params: Mapping[str, Any], child: str = "") -> None: ...

    def metrics(self, stage: str, metrics: Mapping[str, Any]) -> None: ...

    def finish_stage(self, stage: str, manifest: Mapping[str, Any]) -> None: ...

    def artifact(self, path: Path) -> None: ...

    def note(self, text: str) -> None: ...

    def close(self, status: str) -> None: ...


class MlflowTracker:
    """Sends events of one recipe run to MLflow from a thread of its own."""

    def __init__(self, uri: str, experiment: str, run_name: str, fingerprint: str, root: Path) -> None:
        self._sender = _Sender(uri, experiment, root)
        self._base = {"run": fingerprint, "run_name": run_name}
        self._kept = unsent(root, fingerprint)
        self._lock = threading.Lock()
        text = self._kept.read_text() if self._kept.exists() else ""
        whole, _, torn = text.rpartition("\n")
        if torn:  # the process was killed while it wrote the last line
            store.write_atomic(self._kept, f"{whole}\n".encode() if whole else b"")
        # In order, all that is not known to be sent: what the file holds, besides a few that were sent before them.
        self._waiting = deque(json.loads(line) for line in whole.splitlines())
        self._events: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        for event in self._waiting:
            self._events.put(event)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def params(self, params: Mapping[str, Any], child: str = "") -> None:
        """Flat, short parameters, of the run or of a child; written once, for MLflow refuses to change them."""
        texts = {_NOT_IN_KEYS.sub("_", key): str(value)[:PARAM_LENGTH] for key, value in params.items()}
        self._put("params", child, texts)

    def metrics(self, stage: str, metrics: Mapping[str, Any]) -> None:
        """Numbers of a training step; `step` orders them."""
        self._put("metrics", stage, {k: v for k, v in metrics.items() if isinstance(v, int | float)})

    def finish_stage(self, stage: str, manifest: Mapping[str, Any]) -> None:
        """A stage's facts as metrics of its child run, and the manifest's fingerprint as tag."""
        numbers = flatten(manifest["facts"]) | {"wall_seconds": manifest["wall_seconds"]}
        self._put("finish", stage, {"numbers": numbers, "fingerprint": manifest["fingerprint"]})

    def artifact(self, path: Path) -> None:
        """A file, kept with the run."""
        self._put("artifact", "", {"path": str(path)})

    def note(self, text: str) -> None:
        """What MLflow shows as the run's description."""
        self._put("note", "", {"text": text})

    def close(self, status: str) -> None:
        """Mark the run FINISHED or FAILED; keep what could not be sent in time."""
        self._put("end", "", {"status": status})
        self._events.put(None)
        self._thread.join(CLOSE_SECONDS)
        with self._lock:
            if self._waiting:
                store.write_atomic(self._kept, "".join(json.dumps(event) + "\n" for event in self._waiting).encode())
                sys.stderr.write(
                    f"mlflow: {len(self._waiting)} events not sent; kept in {self._kept} for the next start\n"
                )

    def _put(self, kind: str, stage: str, value: Mapping[str, Any]) -> None:
        event = {**self._base, "kind": kind, "stage": stage, "value": dict(value)}
        with self._lock:
            self._waiting.append(event)
            try:
                with self._kept.open("a") as file:
                    file.write(json.dumps(event) + "\n")
            except OSError as error:  # a full disk; what trains will say so
                sys.stderr.write(
                    f"mlflow: {self._kept}: {error.strerror}; the event is lost if the process is killed\n"
                )
        self._events.put(event)

    def _work(self) -> None:
        failed = False
        while (event := self._events.get()) is not None:
            if failed:  # keep the order: the rest waits for the next start
                continue
            try:
                self._sender.send(event)
            except Exception as error:  # whatever MLflow raises must not reach training
                sys.stderr.write(f"mlflow: {type(error).__name__}: {str(error).splitlines()[0]}\n")
                failed = True
                continue
            with self._lock:
                self._waiting.popleft()
                if not self._waiting:
                    self._kept.unlink(missing_ok=True)


def unsent(root: Path, fingerprint: str) -> Path:
    """The file of a run's events that were not sent, if there are any."""
    return root / f"mlflow-unsent-{fingerprint}.jsonl"


class _Sender:
    """Turns events into MLflow calls; safe to repeat."""

    def __init__(self, uri: str, experiment: str, root: Path) -> None:
        self._uri, self._experiment, self._root = uri, experiment, root
        self._client: Any = None
        self._experiment_id = ""
        self._runs: dict[tuple[str, str], str] = {}

    def send(self, event: Mapping[str, Any]) -> None:
        if self._client is None:
            self._connect()
        run_id = self._run(event["run"], event["run_name"], event["stage"])
        value = event["value"]
        match event["kind"]:
            case "params":
                from mlflow.entities import Param

                known = self._client.get_run(run_id).data.params
                new = [Param(key, text) for key, text in value.items() if key not in known]
                for start in range(0, len(new), 100):  # MLflow's limit for one call
                    self._client.log_batch(run_id, params=new[start : start + 100])
            case "metrics":
                self._log(run_id, value, int(value.get("step", 0)))
            case "finish":
                self._log(run_id, value["numbers"], 0)
                self._client.set_tag(run_id, "slamray.fingerprint", value["fingerprint"])
                self._client.set_terminated(run_id, "FINISHED")
            case "artifact":
                self._client.log_artifact(run_id, value["path"])
            case "note":
                self._client.set_tag(run_id, "mlflow.note.content", value["text"])
            case "end":
                self._client.set_terminated(run_id, value["status"])

    def _connect(self) -> None:
        from mlflow import MlflowClient  # two seconds; not before something is to be sent
        from mlflow.exceptions import MlflowException

        client = MlflowClient(tracking_uri=self._uri)
        remove_strays(self._uri)
        found = client.get_experiment_by_name(self._experiment)
        if found is None:
            place = (self._root / "mlflow-artifacts").absolute().as_uri() if self._uri.startswith("sqlite") else None
            try:
                self._experiment_id = client.create_experiment(self._experiment, artifact_location=place)
            except MlflowException:  # another driver made it between the two calls
                found = client.get_experiment_by_name(self._experiment)
        if found is not None:
            self._experiment_id = found.experiment_id
        self._client = client

    def _run(self, fingerprint: str, run_name: str, stage: str) -> str:
        key = (fingerprint, stage)
        if key not in self._runs:
            query = f"tags.`slamray.run` = '{fingerprint}' and tags.`slamray.stage` = '{stage or 'recipe'}'"
            found = self._client.search_runs([self._experiment_id], query, max_results=1)
            if found:
                self._runs[key] = found[0].info.run_id
            else:
                tags = {"slamray.run": fingerprint, "slamray.stage": stage or "recipe"}
                if stage:
                    tags["mlflow.parentRunId"] = self._run(fingerprint, run_name, "")
                run = self._client.create_run(self._experiment_id, run_name=stage or run_name, tags=tags)
                self._runs[key] = run.info.run_id
        return self._runs[key]

    def _log(self, run_id: str, numbers: Mapping[str, float], step: int) -> None:
        import time

        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        batch = [Metric(key, float(value), now, step) for key, value in numbers.items()]
        for start in range(0, len(batch), 1000):  # MLflow's limit for one call
            self._client.log_batch(run_id, metrics=batch[start : start + 1000])


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """All numbers of a tree by dotted key; rows of a list by their metric, and by their part after a slash."""
    flat: dict[str, float] = {}
    for key, value in tree.items():
        name = f"{prefix}{_NOT_IN_KEYS.sub('_', key)}"
        if isinstance(value, Mapping):
            flat |= flatten(value, name + ".")
        elif isinstance(value, list):
            for row in value:
                if isinstance(row, Mapping) and "metric" in row:
                    part = "" if row.get("part", "all") == "all" else f"/{row['part']}"
                    flat |= flatten(row, f"{name}.{_NOT_IN_KEYS.sub('_', row['metric'] + part)}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            flat[name] = value
    return flat


def tracking_uri(given: str, root: Folder) -> str:
    """Where MLflow's store is: the given one, MLFLOW_TRACKING_URI, or an SQLite file under the root.

    BadInput for an SQLite file where its locks do not hold, or beside a root that is on no disk.
    """
    uri = given or os.environ.get("MLFLOW_TRACKING_URI", "")
    need = "give tracking.uri=http://HOST:5000 (an MLflow server), or tracking.enabled=false"
    if not root.is_shared and (not uri or uri.startswith("sqlite")):
        raise BadInput(f"tracking.uri: root={root} is an object store, and an SQLite file lies on a disk; {need}")
    uri = uri or sqlite_uri(root.fetch().resolve() / "mlflow.db")
    kind = store.file_system(_sqlite_path(uri).parent) if uri.startswith(SQLITE) else ""
    if kind in NETWORK:
        raise BadInput(f"tracking.uri: {uri} lies on {kind}, where SQLite's locks do not hold; {need}")
    return uri


def sqlite_uri(path: Path) -> str:
    """The address of an SQLite file: SQLAlchemy decodes what stands after %, and ends the path at a question mark."""
    return SQLITE + str(path).replace("%", "%25").replace("?", "%3F")


def _sqlite_path(uri: str) -> Path:
    return Path(unquote(uri.removeprefix(SQLITE).partition("?")[0]))


def remove_strays(uri: str) -> None:
    """MLflow makes the folder of an SQLite file by its quoted name: remove it, where it is another one and empty."""
    quoted = Path(uri.removeprefix(SQLITE)).parent
    if uri.startswith(SQLITE) and quoted != _sqlite_path(uri).parent and quoted.is_dir() and not any(quoted.iterdir()):
        os.removedirs(quoted)  # with the folders above that are empty then


def check_answers(uri: str) -> None:
    """BadInput, in seconds, when a store to be read does not answer: a server that is away, a file that is no store."""
    if uri.startswith(("http://", "https://")):
        try:
            with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=ANSWER_SECONDS):
                pass
        except urllib.error.HTTPError:  # something answers; MLflow says what is wrong
            pass
        except (OSError, ValueError) as error:
            reason = str(getattr(error, "reason", "") or error)
            raise BadInput(f"{uri}: the tracking server does not answer ({reason}); start it, or give uri=") from error
    elif uri.startswith(SQLITE):
        path = _sqlite_path(uri)
        try:
            with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as found:
                found.execute("select count(*) from experiments").fetchone()
        except sqlite3.Error as error:
            raise BadInput(f"{path}: no store of MLflow ({error}); mend or remove it, or give uri=") from error


def open_tracker(enabled: bool, uri: str, experiment: str, run_name: str, fingerprint: str, root: Root) -> Tracker:
    """MLflow at `tracking_uri`, or a null tracker."""
    if not enabled:
        return NullTracker()
    folder = Folder(root)
    return MlflowTracker(tracking_uri(uri, folder), experiment, run_name, fingerprint, folder.scratch())
