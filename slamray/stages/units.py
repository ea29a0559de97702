"""Stage `units`: the corpus's training and validation documents, spoken and encoded."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from slamray.config.speech import SpeechSettings
from slamray.config.tree import Recipe
from slamray.data.item_pairs import Utterance
from slamray.stage.folder import Folder
from slamray.stage.stage import Inputs, Stage
from slamray.stage.tables import read_shards
from slamray.stage.work import Machine
from slamray.stages import corpus
from slamray.stages.speak_and_listen import SpeechFacts, speak

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
        cost=lambda: f"speaks and encodes {many} training documents",
    )


def run(inputs: Inputs, out: Folder, machine: Machine, speech: SpeechSettings) -> UnitsFacts:
    """Speak the chosen documents."""
    count = speech.train_documents
    train = [] if count is None else corpus.read(inputs["corpus"], "train", count)
    validation = corpus.read(inputs["corpus"], "validation", speech.validation_documents)
    utterances = [Utterance(document.doc_id, document.sentences, None) for document in train + validation]
    facts = speak(utterances, out, machine, speech, "units")
    return UnitsFacts(**asdict(facts), train=len(train), validation=len(validation))


def by_id(folder: Folder) -> dict[str, np.ndarray]:
    """Deduplicated units of every utterance of a stage that speaks or listens, by its id."""
    table = read_shards(folder, ["utterance_id", "units"])
    ids = table["utterance_id"].to_pylist()
    return {key: row.values.to_numpy() for key, row in zip(ids, table["units"], strict=True)}
