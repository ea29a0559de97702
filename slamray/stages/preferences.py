"""Stage `preferences`: pairs as text, filtered, spoken, encoded; training pairs and held-out ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from slamray import preferences
from slamray.config import CorpusConfig, PreferencesConfig, SpeechConfig
from slamray.corpus import cut_sentences, list_sources, split_of
from slamray.errors import BadInput
from slamray.evaluate.items import Utterance, content_id
from slamray.runtime.engine import Engine
from slamray.stage import Facts, Folders
from slamray.stages import corpus, speech, tables, units
from slamray.units import join_units

PAIRS = "pairs.parquet"
_UNITS = pa.list_(pa.uint16())
SCHEMA = pa.schema(
    [
        ("pair_id", pa.string()), ("split", pa.string()), ("prompt", _UNITS), ("chosen", _UNITS), ("rejected", _UNITS),
        ("prompt_text", pa.string()), ("chosen_text", pa.string()), ("rejected_text", pa.string()),
        ("voice", pa.string()), ("auto_bleu", pa.float32()),
    ]
)  # fmt: skip


def run(
    folders: Folders, out: Path, config: PreferencesConfig, shares: CorpusConfig, spoken: SpeechConfig, engine: Engine
) -> Facts:
    """Make, filter and speak the pairs; held-out pairs come from text that no training stage sees."""
    train, heldout = _texts(folders, config, shares)
    chosen = [("train", pair) for pair in _first(train.pairs, config.max_pairs)]
    chosen += [("heldout", pair) for pair in heldout.pairs[: config.heldout_pairs]]
    if not chosen:
        raise BadInput(
            f"preferences: no pair is left of {dict(train.dropped)}; give more text or a higher max_auto_bleu"
        )
    said = {_utterance(text) for _, pair in chosen for text in (pair.prompt, pair.chosen, pair.rejected)}
    facts = speech.speak(sorted(said, key=lambda u: u.utterance_id), out, spoken, engine, "preferences")
    by_id = units.by_id(out)
    rows = [row for split, pair in chosen if (row := _row(split, pair, by_id))]
    tables.write_table(out / PAIRS, pa.Table.from_pylist(rows, SCHEMA))
    return facts | {
        "pairs_train": sum(row["split"] == "train" for row in rows),
        "pairs_heldout": sum(row["split"] == "heldout" for row in rows),
        "pairs_without_sound": len(chosen) - len(rows),
        "dropped": dict(train.dropped),
        "bad_rows": len(train.quarantined),
    }


def read(folder: Path, split: str) -> list[dict[str, Any]]:
    """Pairs of `train` or `heldout`, by order of id."""
    rows: list[dict[str, Any]] = pq.read_table(folder / PAIRS, filters=[("split", "=", split)]).to_pylist()
    return rows


def _texts(
    folders: Folders, config: PreferencesConfig, shares: CorpusConfig
) -> tuple[preferences.PairSet, preferences.PairSet]:
    if config.source == "stories":
        train = preferences.from_stories(corpus.read(folders["corpus"], "train"), config)
        return train, preferences.from_stories(corpus.read(folders["corpus"], "evaluation"), config)
    train = preferences.from_swag(read_swag(config.path), config)
    heldout = preferences.PairSet()
    for pair in train.pairs:
        if split_of(pair.pair_id, shares.validation_share, shares.evaluation_share) == "evaluation":
            heldout.pairs.append(pair)
    kept = {pair.pair_id for pair in heldout.pairs}
    train.pairs = [pair for pair in train.pairs if pair.pair_id not in kept]
    return train, heldout


def read_swag(path: str) -> Iterator[dict[str, Any]]:
    """Rows of SWAG as published: Parquet or JSON lines, at any path fsspec can open."""
    if not path:
        raise BadInput("preferences.path: source=swag needs the path of SWAG's Parquet or JSONL")
    for name, _ in list_sources((path,)):
        with fsspec.open(name, "rb") as file:
            if name.endswith(".parquet"):
                for batch in pq.ParquetFile(file).iter_batches():
                    yield from batch.to_pylist()
            else:
                for number, line in enumerate(file, start=1):
                    try:
                        yield json.loads(line)
                    except ValueError as error:
                        raise BadInput(f"{name}:{number}: not JSON ({error}); repair the line") from error


def _first(pairs: list[preferences.Pair], at_most: int) -> list[preferences.Pair]:
    return pairs[:at_most] if at_most else pairs


def _utterance(text: str) -> Utterance:
    sentences = cut_sentences(text)
    return Utterance(content_id("sentences", sentences), sentences, None)


def _row(split: str, pair: preferences.Pair, by_id: dict[str, np.ndarray]) -> dict[str, Any] | None:
    found = [by_id.get(_utterance(text).utterance_id) for text in (pair.prompt, pair.chosen, pair.rejected)]
    parts = [units for units in found if units is not None and len(units)]
    if len(parts) < 3:
        return None
    prompt, chosen, rejected = parts
    return {
        "pair_id": pair.pair_id,
        "split": split,
        "prompt": prompt,
        # The continuation as it follows the prompt: a unit that goes on over the join stands once.
        "chosen": join_units([prompt, chosen])[len(prompt) :],
        "rejected": join_units([prompt, rejected])[len(prompt) :],
        "prompt_text": pair.prompt,
        "chosen_text": pair.chosen,
        "rejected_text": pair.rejected,
        "voice": pair.voice,
        "auto_bleu": pair.auto_bleu,
    }
