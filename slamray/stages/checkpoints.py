"""The unit LM on its way: the three checkpoints that are measured, compared and exported, in this order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slamray.stage.stage import Stage

MODEL = "model"  # in the folder of each of these stages: a plain transformers checkpoint


@dataclass(frozen=True)
class Checkpoint:
    """stage: the name of the stage that makes it. title: for readers."""

    stage: str
    title: str


UNTRAINED = Checkpoint("untrained", "untrained")
PRETRAINED = Checkpoint("pretrained", "pre-trained")
ALIGNED = Checkpoint("aligned", "after DPO")
CHECKPOINTS = (UNTRAINED, PRETRAINED, ALIGNED)
TITLES = {checkpoint.stage: checkpoint.title for checkpoint in CHECKPOINTS}


def checkpoints_of(stages: Sequence[Stage]) -> list[Stage]:
    """Those of the stages that make a checkpoint, in order; a recipe without DPO has no aligned one."""
    found = {stage.name: stage for stage in stages}
    return [found[checkpoint.stage] for checkpoint in CHECKPOINTS if checkpoint.stage in found]
