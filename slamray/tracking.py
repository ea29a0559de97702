"""What a run tells MLflow. Only the driver calls it; it never raises, never waits, and loses nothing.

Every call becomes an event that a thread sends (mlflow_events.py). Events lie in a file under the root, or beside its
cache where the root is an object store, until they are sent, whatever ends the process, and go first at the next start
of the same command, which continues the run: runs are found by tags.
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
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from slamray import store
from slamray.config.compute import TrackingSettings
from slamray.errors import BadInput
from slamray.mlflow_events import SQLITE, Sender, sqlite_path
from slamray.stage.folder import Folder, Root
from slamray.stage.work import EACH_STEP

ANSWER_SECONDS = 10.0  # within which a server must answer whoever wants to read of it; chosen, not tuned
CLOSE_SECONDS = 30.0  # a run waits at most this long at its end for a slow server; chosen, not tuned
_NOT_IN_KEYS = re.compile(r"[^\w./-]")  # MLflow refuses most other characters
NETWORK = {"nfs", "nfs4", "cifs", "smb3"}  # file systems on which SQLite's locks do not hold (sqlite.org/faq.html, 5)
ROWS = 200  # steps of one event; chosen, not tuned
PARAM_LENGTH = 500  # MLflow refuses longer values in some stores (user lesson 24)


@dataclass(frozen=True)
class DataSet:
    """Data that a run reads. source: as the recipe gives it. context: what it is for. profile: what is in it, if known.

    digest: at most 36 characters, which differ where the content does.
    """

    name: str
    digest: str
    source: str
    context: str
    profile: Mapping[str, Any]


class Tracker(Protocol):
    """One run of a recipe, with one child for each stage; or of a sweep, with one for each trial."""

    def begin(self, tags: Mapping[str, str]) -> None: ...

    def params(self, params: Mapping[str, Any], child: str = "") -> None: ...

    def metrics(self, stage: str, metrics: Mapping[str, Any]) -> None: ...

    def curve(self, stage: str, told: Sequence[Mapping[str, Any]]) -> None: ...

    def finish_stage(self, stage: str, manifest: Mapping[str, Any]) -> None: ...

    def figures(self, figures: Mapping[str, float]) -> None: ...

    def data(self, sets: Sequence[DataSet]) -> None: ...

    def text(self, name: str, text: str, child: str = "") -> None: ...

    def artifact(self, path: Path) -> None: ...

    def note(self, text: str) -> None: ...

    def end_child(self, child: str, status: str) -> None: ...

    def close(self, status: str) -> None: ...


class NullTracker:
    """A tracker that tracks nothing."""

    def begin(self, tags: Mapping[str, str]) -> None: ...

    def params(self, params: Mapping[str, Any], child: str = "") -> None: ...

    def metrics(self, stage: str, metrics: Mapping[str, Any]) -> None: ...

    def curve(self, stage: str, told: Sequence[Mapping[str, Any]]) -> None: ...

    def finish_stage(self, stage: str, manifest: Mapping[str, Any]) -> None: ...

    def figures(self, figures: Mapping[str, float]) -> None: ...

    def data(self, sets: Sequence[DataSet]) -> None: ...

    def text(self, name: str, text: str, child: str = "") -> None: ...

    def artifact(self, path: Path) -> None: ...

    def note(self, text: str) -> None: ...

    def end_child(self, child: str, status: str) -> None: ...

    def close(self, status: str) -> None: ...


class MlflowTracker:
    """Sends events of one recipe run to MLflow from a thread of its own."""

    def __init__(
        self, uri: str, experiment: str, run_name: str, fingerprint: str, root: Path, system_metrics: bool = False
    ) -> None:
        self._sender = Sender(uri, experiment, root, system_metrics)
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

    def begin(self, tags: Mapping[str, str]) -> None:
        """The run goes on, or starts, with these tags of MLflow."""
        self._put("begin", "", tags)

    def params(self, params: Mapping[str, Any], child: str = "") -> None:
        """Flat, short parameters, of the run or of a child; written once, for MLflow refuses to change them."""
        texts = {_NOT_IN_KEYS.sub("_", key): str(value)[:PARAM_LENGTH] for key, value in params.items()}
        self._put("params", child, texts)

    def metrics(self, stage: str, metrics: Mapping[str, Any]) -> None:
        """Numbers of a training step, which `step` orders; of each step where there is a row for each."""
        self.curve(stage, [metrics])

    def curve(self, stage: str, told: Sequence[Mapping[str, Any]]) -> None:
        """All that a training has told, in its order."""
        every = [row for metrics in told for row in metrics.get(EACH_STEP) or [metrics]]
        rows = [{key: value for key, value in row.items() if isinstance(value, int | float)} for row in every]
        for start in range(0, len(rows), ROWS):
            self._put("metrics", stage, {"rows": rows[start : start + ROWS]})

    def finish_stage(self, stage: str, manifest: Mapping[str, Any]) -> None:
        """A stage's facts as metrics of its child run, the manifest's fingerprint as tag, and when it was made."""
        numbers = flatten(manifest["facts"]) | {"wall_seconds": manifest["wall_seconds"]}
        began = manifest.get("began_unix_seconds")  # of a trial of a sweep, which several stages make, nothing is told
        times = {} if began is None else {"began": began, "ended": began + manifest["wall_seconds"]}
        self._put("finish", stage, {"numbers": numbers, "fingerprint": manifest["fingerprint"], **times})

    def figures(self, figures: Mapping[str, float]) -> None:
        """Numbers of the whole run."""
        self._put("figures", "", {_NOT_IN_KEYS.sub("_", key): value for key, value in figures.items()})

    def data(self, sets: Sequence[DataSet]) -> None:
        """What the run reads."""
        self._put("data", "", {"sets": [asdict(one) for one in sets]})

    def text(self, name: str, text: str, child: str = "") -> None:
        """A small file of text, kept with the run or a child."""
        self._put("text", child, {"name": name, "text": text})

    def artifact(self, path: Path) -> None:
        """A file, kept with the run."""
        self._put("artifact", "", {"path": str(path)})

    def note(self, text: str) -> None:
        """What MLflow shows as the run's description."""
        self._put("note", "", {"text": text})

    def end_child(self, child: str, status: str) -> None:
        """Mark a child that came to nothing FAILED or KILLED."""
        self._put("end", child, {"status": status})

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
    kind = store.file_system(sqlite_path(uri).parent) if uri.startswith(SQLITE) else ""
    if kind in NETWORK:
        raise BadInput(f"tracking.uri: {uri} lies on {kind}, where SQLite's locks do not hold; {need}")
    return uri


def sqlite_uri(path: Path) -> str:
    """The address of an SQLite file: SQLAlchemy decodes what stands after %, and ends the path at a question mark."""
    return SQLITE + str(path).replace("%", "%25").replace("?", "%3F")


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
        path = sqlite_path(uri)
        try:
            with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as found:
                found.execute("select count(*) from experiments").fetchone()
        except sqlite3.Error as error:
            raise BadInput(f"{path}: no store of MLflow ({error}); mend or remove it, or give uri=") from error


def open_tracker(told: TrackingSettings, run_name: str, fingerprint: str, root: Root) -> Tracker:
    """MLflow at `tracking_uri`, or a null tracker."""
    if not told.enabled:
        return NullTracker()
    folder = Folder(root)
    uri = tracking_uri(told.uri, folder)
    return MlflowTracker(uri, told.experiment, run_name, fingerprint, folder.scratch(), told.system_metrics)
