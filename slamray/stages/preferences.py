"""Stage `preferences`: pairs as text, filtered, spoken, encoded; training pairs and held-out ones."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from slamray.config.base import identity
from slamray.config.compute import Compute
from slamray.config.corpora import CorpusSettings, PreferencesSettings
from slamray.config.speech import DEFAULT_VOICE, SpeechSettings
from slamray.data import preference_pairs as preferences
from slamray.data.items import Utterance, content_id
from slamray.data.recordings import File, Recording, find_files, identity_of, parquet_length, published_split
from slamray.data.text import cut_sentences, list_sources, split_of
from slamray.errors import BadInput
from slamray.stage import tables
from slamray.stage.stage import Asking, Folders
from slamray.stages import corpus, speech, units
from slamray.tokens.documents import join_units
from slamray.tokens.vocabulary import Vocabulary, write_vocabulary

PAIRS = "pairs.parquet"
SPLITS = ("train", "validation")  # of SpokenSwag as published; the second is held out
_UNITS = pa.list_(pa.uint16())
SCHEMA = pa.schema(
    [
        ("pair_id", pa.string()), ("split", pa.string()), ("prompt", _UNITS), ("chosen", _UNITS), ("rejected", _UNITS),
        ("prompt_text", pa.string()), ("chosen_text", pa.string()), ("rejected_text", pa.string()),
        ("voice", pa.string()), ("auto_bleu", pa.float32()),
    ]
)  # fmt: skip


def run(
    folders: Folders,
    out: Path,
    config: PreferencesSettings,
    shares: CorpusSettings,
    spoken: SpeechSettings,
    vocabulary: Vocabulary,
    compute: Compute,
) -> Asking:
    """Make, filter and speak the pairs; held-out pairs come from text that no training stage sees.

    SpokenSwag is spoken already: its recordings are encoded, and its validation split is held out.
    """
    train, heldout = _texts(folders, config, shares)
    chosen = [("train", pair) for pair in _first(train.pairs, config.max_pairs)]
    chosen += [("heldout", pair) for pair in heldout.pairs[: config.heldout_pairs]]
    if not chosen:
        raise BadInput(
            f"preferences: no pair is left of {dict(train.dropped)}; give more text or a higher max_auto_bleu"
        )
    if config.source == "spoken_swag":
        recordings = [row for _, pair in chosen for row in _recordings(pair)]
        key = "speech.max_bad_share"
        facts = yield from speech.listen(recordings, out, spoken, compute, "preferences", spoken.max_bad_share, key)
    else:
        said = {utterance for _, pair in chosen for utterance in _utterances(pair)}
        said_in_order = sorted(said, key=lambda u: u.utterance_id)
        facts = yield from speech.speak(said_in_order, out, spoken, compute, "preferences")
    by_id = units.by_id(out)
    ids = _recording_ids if config.source == "spoken_swag" else _utterance_ids
    rows = [row for split, pair in chosen if (row := _row(split, pair, [by_id.get(key) for key in ids(pair)]))]
    tables.write_table(out / PAIRS, pa.Table.from_pylist(rows, SCHEMA))
    write_vocabulary(out, vocabulary)
    return facts | {
        "pairs_train": sum(row["split"] == "train" for row in rows),
        "pairs_heldout": sum(row["split"] == "heldout" for row in rows),
        "pairs_without_sound": len(chosen) - len(rows),
        "dropped": dict(train.dropped),
        "bad_rows": len(train.quarantined),
    }


def pairs_identity(config: PreferencesSettings) -> dict[str, Any]:
    """What the pairs are made of and how; recordings enter by their listing, not by where they lie."""
    tree = identity(config)
    return tree | {"path": identity_of(_published(config))} if config.source == "spoken_swag" else tree


def read(folder: Path, split: str) -> list[dict[str, Any]]:
    """Pairs of `train` or `heldout`, by order of id."""
    rows: list[dict[str, Any]] = pq.read_table(folder / PAIRS, filters=[("split", "=", split)]).to_pylist()
    return rows


def _texts(
    folders: Folders, config: PreferencesSettings, shares: CorpusSettings
) -> tuple[preferences.PairSet, preferences.PairSet]:
    if config.source == "stories":
        train = preferences.from_stories(corpus.read(folders["corpus"], "train"), config)
        return train, preferences.from_stories(corpus.read(folders["corpus"], "evaluation"), config)
    if config.source == "spoken_swag":
        files = {split: [f for f in _published(config) if published_split(f.name) == split] for split in SPLITS}
        train, heldout = (preferences.from_spoken_swag(read_spoken_swag(files[split]), config) for split in SPLITS)
        return train, heldout
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


def read_spoken_swag(files: Sequence[File]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(`path:row`, text columns) of SpokenSwag's Parquet files; BadInput when one lacks a column."""
    for file in files:
        parquet_length(file, (*preferences.PARTS, *preferences.SPOKEN_COLUMNS))  # BadInput when it is something else
        with fsspec.open(file.path, "rb") as opened:
            rows = pq.read_table(opened, columns=list(preferences.SPOKEN_COLUMNS)).to_pylist()
        yield from ((f"{file.path}:{number}", row) for number, row in enumerate(rows))


def _published(config: PreferencesSettings) -> list[File]:
    if not config.path:
        raise BadInput("preferences.path: source=spoken_swag needs the folder or hf:// path of its Parquet files")
    files = [file for file in find_files([config.path], "preferences.path") if file.name.endswith(".parquet")]
    if not any(published_split(file.name) == "train" for file in files):
        raise BadInput(f"preferences.path: {config.path} has no train-*.parquet; it is not SpokenSwag")
    return files


def _recordings(pair: preferences.Pair) -> list[dict[str, Any]]:
    """The three recordings of a published pair."""
    path, _, row = pair.source_id.rpartition(":")
    return [
        asdict(Recording(key, path, int(row), column=part, text_column=f"{part}_text"))
        for key, part in zip(_recording_ids(pair), preferences.PARTS, strict=True)
    ]


def _recording_ids(pair: preferences.Pair) -> list[str]:
    return [content_id("recording", pair.pair_id, part) for part in preferences.PARTS]


def _first(pairs: list[preferences.Pair], at_most: int) -> list[preferences.Pair]:
    return pairs[:at_most] if at_most else pairs


def _utterances(pair: preferences.Pair) -> list[Utterance]:
    """Prompt, chosen and rejected, said by the pair's voice."""
    voice = "" if pair.voice == DEFAULT_VOICE else pair.voice
    said = [cut_sentences(text) for text in (pair.prompt, pair.chosen, pair.rejected)]
    ids = [content_id("sentences", sentences, *([voice] if voice else [])) for sentences in said]
    return [Utterance(key, sentences, None, voice=voice) for key, sentences in zip(ids, said, strict=True)]


def _utterance_ids(pair: preferences.Pair) -> list[str]:
    return [utterance.utterance_id for utterance in _utterances(pair)]


def _row(split: str, pair: preferences.Pair, found: Sequence[np.ndarray | None]) -> dict[str, Any] | None:
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
