"""Stage `units`: the corpus's training and validation documents, spoken and encoded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from slamray.config.compute import Compute
from slamray.config.corpora import RecordedSettings
from slamray.config.speech import SpeechSettings
from slamray.data.items import Utterance
from slamray.stage import tables
from slamray.stage.stage import Asking, Folders
from slamray.stages import corpus, recorded, speech

STORIES = "stories"  # the spoken documents, as a source of a mixture
SOURCE_NAMES = {"recorded": "recordings"}  # of stages whose name is not their source's


def run(folders: Folders, out: Path, config: SpeechSettings, compute: Compute) -> Asking:
    """Speak the chosen documents; facts count utterances, seconds and units."""
    count = config.train_documents
    train = [] if count is None else corpus.read(folders["corpus"], "train", count)
    validation = corpus.read(folders["corpus"], "validation", config.validation_documents)
    utterances = [Utterance(row["doc_id"], tuple(row["sentences"]), None) for row in train + validation]
    facts = yield from speech.speak(utterances, out, config, compute, "units")
    return facts | {"train": len(train), "validation": len(validation)}


def source_names(config: RecordedSettings) -> list[str]:
    """The sources that a recipe's mixture may name."""
    plain = [SOURCE_NAMES["recorded"]] if config.paths else []
    return [STORIES, *plain, *recorded.given_doors(config)]


def read(folders: Folders, split: str, recorded_validation_share: float) -> dict[str, list[np.ndarray]]:
    """Deduplicated units of a split by source, by order of id: spoken stories, then each corpus of recordings."""
    wanted = {row["doc_id"] for row in corpus.read(folders["corpus"], split)}
    found = {STORIES: [row for key, row in sorted(by_id(folders["units"]).items()) if key in wanted]}
    for name, folder in folders.items():
        if name not in ("units", "corpus"):
            rows = by_id(folder)
            splits = recorded.splits(folder, rows, recorded_validation_share)
            found[SOURCE_NAMES.get(name, name)] = [row for key, row in sorted(rows.items()) if splits[key] == split]
    return found


def by_id(units: Path) -> dict[str, np.ndarray]:
    """Deduplicated units of every utterance by its id."""
    table = tables.read_shards(units / tables.SHARDS)
    ids: list[Any] = table["utterance_id"].to_pylist()
    return {key: row.values.to_numpy() for key, row in zip(ids, table["units"], strict=True)}
