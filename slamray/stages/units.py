"""Stage `units`: the corpus's training and validation documents, spoken and encoded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from slamray.config import SpeechConfig
from slamray.evaluate.items import Utterance
from slamray.runtime.engine import Engine
from slamray.stage import Facts, Folders
from slamray.stages import corpus, speech, tables



def run(folders: Folders, out: Path, config: SpeechConfig, engine: Engine) -> Facts:
    """Speak the chosen documents; facts count utterances, seconds and units."""
    train = corpus.read(folders["corpus"], "train", config.train_documents)
    validation = corpus.read(folders["corpus"], "validation", config.validation_documents)
    utterances = [Utterance(row["doc_id"], tuple(row["sentences"]), None) for row in train + validation]
    facts = speech.speak(utterances, out, config, engine, "units")
    return facts | {"train": len(train), "validation": len(validation)}


def read(units: Path, corpus_folder: Path, split: str) -> list[tuple[str, np.ndarray]]:
    """(doc_id, deduplicated units) of a split, by order of id."""
    wanted = {row["doc_id"] for row in corpus.read(corpus_folder, split)}
    table = tables.read_shards(units / speech.SHARDS).sort_by("utterance_id")
    rows: list[tuple[str, np.ndarray]] = []
    for doc_id, row in zip(table["utterance_id"].to_pylist(), table["units"], strict=True):
        if doc_id in wanted:
            rows.append((doc_id, row.values.to_numpy()))
    return rows


def by_id(units: Path) -> dict[str, np.ndarray]:
    """Deduplicated units of every utterance by its id."""
    table = tables.read_shards(units / speech.SHARDS)
    ids: list[Any] = table["utterance_id"].to_pylist()
    return {key: row.values.to_numpy() for key, row in zip(ids, table["units"], strict=True)}


def mean_durations(units: Path, n_units: int) -> np.ndarray:
    """Mean frames of each unit (float32); units that never occur get the overall mean."""
    table = tables.read_shards(units / speech.SHARDS)
    ids = pc.list_flatten(table["units"]).to_numpy()
    frames = pc.list_flatten(table["durations"]).to_numpy()
    counts = np.bincount(ids, minlength=n_units)
    sums = np.bincount(ids, weights=frames, minlength=n_units)
    return np.where(counts > 0, sums / np.maximum(counts, 1), frames.mean()).astype(np.float32)
