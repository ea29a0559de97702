"""What the score and evaluation stages ask of their kernel: measurements of checkpoints, and where results lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slamray.stage.folder import Folder

AUDIO = "audio"  # continuations to be listened to
SCORES = "scores.parquet"  # a row for each pair
PERPLEXITY, CONTINUE, PAIRS = "perplexity", "continue", "pairs"  # kinds of tasks


@dataclass(frozen=True)
class Task:
    """One measurement of one checkpoint; its result goes below `out`, to a file of the task's name.

    model: the checkpoint's folder. Of kind PAIRS: `source` is the stage whose folder holds the pairs of `metric`, of
    which those from start to stop are scored (-1: to the last).
    """

    checkpoint: str
    model: str
    kind: str
    out: str
    source: str = ""
    metric: str = ""
    start: int = 0
    stop: int = -1

    @property
    def file(self) -> str:
        """Where its result lies, below `out`."""
        name = f"{self.kind}-{self.metric}-{self.start:06d}" if self.kind == PAIRS else self.kind
        return f"tasks/{name}.json"

    @property
    def folder(self) -> Folder:
        return Folder(Path(self.out))

    @property
    def is_done(self) -> bool:
        return self.folder.exists(self.file)

    @property
    def result(self) -> Any:
        return self.folder.read_json(self.file)


@dataclass(frozen=True)
class TaskDone:
    """A task that has left its result."""

    file: str


def read_scores(folder: Folder) -> list[dict[str, Any]]:
    """One row for each pair that a stage scored."""
    rows: list[dict[str, Any]] = folder.read_table(SCORES).to_pylist()
    return rows
