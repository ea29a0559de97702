"""Stage `units`: the corpus's training and validation documents, spoken and encoded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from slamray.config import SpeechConfig
from slamray.evaluate.items import Utterance
from slamray.runtime.engine import Engine
from slamray.stage import Facts, Folders
from slamray.stages import corpus, recorded, speech, tables


def run(folders: Folders, out: Path, config: SpeechConfig, engine: Engine) -> Facts:
    """Speak the chosen documents; facts count utterances, seconds and units."""
    train = corpus.read(folders["corpus"], "train", config.train_documents)
    validation = corpus.read(folders["corpus"], "validation", config.validation_documents)
    utterances = [Utterance(row["doc_id"], tuple(row["sentences"]), None) for row in train + validation]
    facts = speech.speak(utterances, out, config, engine, "units")
    return facts | {"train": len(train), "validation": len(validation)}


def read(folders: Folders, split: str, recorded_validation_share: float) -> list[tuple[str, np.ndarray]]:
    """(id, deduplicated units) of a split: spoken documents, then recordings if there are any, each by order of id."""
    wanted = {row["doc_id"] for row in corpus.read(folders["corpus"], split)}
    rows = [(key, row) for key, row in sorted(by_id(folders["units"]).items()) if key in wanted]
    if "recorded" in folders:
        heard = sorted(by_id(folders["recorded"]).items())
        rows += [(key, row) for key, row in heard if recorded.split(key, recorded_validation_share) == split]
    return rows


def by_id(units: Path) -> dict[str, np.ndarray]:
    """Deduplicated units of every utterance by its id."""
    table = tables.read_shards(units / speech.SHARDS)
    ids: list[Any] = table["utterance_id"].to_pylist()
    return {key: row.values.to_numpy() for key, row in zip(ids, table["units"], strict=True)}
