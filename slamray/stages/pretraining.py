"""What the stages that pre-train have in common: the loop on a worker, and what it cost."""

from __future__ import annotations

from dataclasses import dataclass

from slamray.config.compute import Compute
from slamray.config.training import PretrainSettings
from slamray.data.text import TRAIN, VALIDATION
from slamray.stage.folder import Folder
from slamray.stage.stage import Inputs
from slamray.stage.work import Metrics, Report
from slamray.stages.checkpoints import MODEL, UNTRAINED


@dataclass(frozen=True)
class Places:
    """Where a loop reads and writes; each worker fetches for itself."""

    model: Folder
    rows: Folder
    out: Folder


def folders(inputs: Inputs, out: Folder) -> Places:
    """Of a stage whose inputs are the untrained model and the packed rows."""
    return Places(inputs[UNTRAINED.stage] / MODEL, inputs["packed"], out)


def train(
    places: Places,
    pretrain: PretrainSettings,
    compute: Compute,
    after: Folder | None,
    until: str | None,
    report: Report,
) -> Metrics:
    """Run the loop; its facts with the cost. after: a checkpoint to go on from. until: a budget to stop at."""
    from slamray.tokens.rows import RowStore
    from slamray.train.cost import pretraining_cost
    from slamray.train.pretrain import Part
    from slamray.train.pretrain import pretrain as run_loop

    model, rows = places.model.fetch(), places.rows.fetch(TRAIN)
    part = Part(after.fetch() if after else None, until)
    facts = run_loop(pretrain, compute, model, rows, places.rows.fetch(VALIDATION), places.out, report, part)
    return facts | pretraining_cost(pretrain, compute.workers, model, RowStore(rows), facts)
