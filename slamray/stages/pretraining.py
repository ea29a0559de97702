"""What the stages that pre-train have in common: the loop on a worker, and what it cost."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from slamray.config.compute import Compute
from slamray.config.training import PretrainSettings
from slamray.data.text import TRAIN, VALIDATION
from slamray.stage.folder import Folder
from slamray.stage.stage import Inputs
from slamray.stage.work import Metrics, Report
from slamray.stages.checkpoints import MODEL, UNTRAINED


@dataclass(frozen=True)
class Places:
    """Where a loop reads and writes."""

    model: Path
    train_rows: Path
    validation_rows: Path
    out: Path


def folders(inputs: Inputs, out: Folder) -> Places:
    """Of a stage whose inputs are the untrained model and the packed rows."""
    rows = inputs["packed"]
    return Places(inputs[UNTRAINED.stage].fetch(MODEL), rows.fetch(TRAIN), rows.fetch(VALIDATION), out.path)


def train(
    places: Places,
    pretrain: PretrainSettings,
    compute: Compute,
    after: Path | None,
    until: str | None,
    report: Report,
) -> Metrics:
    """Run the loop; its facts with the cost. after: a checkpoint to go on from. until: a budget to stop at."""
    from slamray.tokens.rows import RowStore
    from slamray.train.cost import pretraining_cost
    from slamray.train.pretrain import Part
    from slamray.train.pretrain import pretrain as run_loop

    rows = places.train_rows, places.validation_rows
    facts = run_loop(pretrain, compute, places.model, *rows, places.out, report, Part(after, until))
    return facts | pretraining_cost(pretrain, compute.workers, places.model, RowStore(places.train_rows), facts)
