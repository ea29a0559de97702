"""Stage `units`: the corpus's training and validation documents, spoken and encoded."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial

import numpy as np

from slamray.config.speech import SpeechSettings
from slamray.config.tree import Recipe
from slamray.data.text import TRAIN, VALIDATION
from slamray.errors import BadInput
from slamray.stage.folder import Folder
from slamray.stage.parts import parts_of
from slamray.stage.stage import Inputs, Stage, read_facts
from slamray.stage.tables import read_units
from slamray.stage.work import Machine
from slamray.stages.corpus import CorpusFacts
from slamray.stages.recorded import has_recordings
from slamray.stages.speak_and_listen import SpeechFacts, speak_parts

SPEAKING = "speaking"  # group of the stages that speak: their rows share the actors


@dataclass(frozen=True)
class UnitsFacts(SpeechFacts):
    """train, validation: documents that were to be spoken."""

    train: int
    validation: int


def stage(recipe: Recipe, documents: Stage) -> Stage:
    """From the training and validation splits of the documents."""
    count = recipe.speech.train_documents
    many = "no" if count is None else count or "all"
    return Stage(
        "units",
        run,
        {"speech": recipe.speech},
        (documents,),
        group=SPEAKING,
        check=partial(check_splits, count is not None, has_recordings(recipe.recorded)),
        cost=lambda: f"speaks and encodes {many} training documents",
    )


def check_splits(speaks: bool, has_others: bool, inputs: Inputs) -> None:
    """BadInput when the corpus leaves nothing to train on or to validate with, and there are no recordings besides."""
    found = read_facts(inputs["corpus"], CorpusFacts)
    splits = f"of {found.documents} documents {found.train} train, {found.validation} validate"
    if speaks and not found.train and not has_others:
        raise BadInput(
            f"corpus.paths: {splits}; bring more text, or lower corpus.validation_share and corpus.evaluation_share"
        )
    if not found.validation and not has_others:
        raise BadInput(f"corpus.validation_share: {splits}; bring more text or raise the share")


def run(inputs: Inputs, out: Folder, machine: Machine, speech: SpeechSettings) -> UnitsFacts:
    """Speak the chosen documents: those of training, then those of validation, each by order of id."""
    count = speech.train_documents
    train = [] if count is None else parts_of(inputs["corpus"], TRAIN, count)
    validation = parts_of(inputs["corpus"], VALIDATION, speech.validation_documents)
    facts = speak_parts([*train, *validation], out, machine, speech, "units")
    spoken = {"train": sum(part.rows for part in train), "validation": sum(part.rows for part in validation)}
    return UnitsFacts(**asdict(facts), **spoken)


def by_id(folder: Folder) -> dict[str, np.ndarray]:
    """Deduplicated units of every utterance of a stage that speaks or listens: of test items or pairs."""
    table = read_units(folder, ["utterance_id", "units"])
    ids = table["utterance_id"].to_pylist()
    return {key: row.values.to_numpy() for key, row in zip(ids, table["units"], strict=True)}
