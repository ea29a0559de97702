"""Stage `preferences`: pairs as text, filtered, spoken, encoded; training pairs and held-out ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from slamray.config.base import part_of
from slamray.config.corpora import ROW_SUFFIXES, PreferencesSettings
from slamray.config.hub import hub_data
from slamray.config.listing import File, find_files
from slamray.config.speech import DEFAULT_VOICE, SpeakingSettings
from slamray.config.tree import Recipe
from slamray.data import preference_pairs
from slamray.data.ids import content_id, split_of
from slamray.data.item_pairs import Utterance
from slamray.data.preference_pairs import PARTS, SPOKEN_COLUMNS, SWAG_COLUMNS, PairSet, PreferencePair, Unread
from slamray.data.recordings import Recording, parquet_length, published_split
from slamray.data.row_files import read_rows
from slamray.data.text import EVALUATION, TRAIN, cut_sentences
from slamray.errors import BadInput
from slamray.given import opening
from slamray.stage.folder import Folder
from slamray.stage.stage import Inputs, Stage
from slamray.stage.tables import check_bad_share, write_quarantine
from slamray.stage.work import Machine
from slamray.stages import corpus, units
from slamray.stages.speak_and_listen import SpeechFacts, listen, speak
from slamray.stages.units import SPEAKING
from slamray.stages.vocabulary import vocabulary_of
from slamray.tokens.documents import join_units
from slamray.tokens.vocabulary import FILE, Vocabulary

PAIRS = "pairs.parquet"
PUBLISHED_SPLITS = ("train", "validation")  # of SpokenSwag as published; the second is held out
PATH = "preferences.path"
SOME_PAIRS = 50  # that a check of a corpus's stories is content with
STORIES_PER_PAIR = 20  # read at most, the first by id, where few pairs of a large corpus are wanted; chosen, not tuned
_UNITS = pa.list_(pa.uint16())
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("pair_id", "split")),
        *((part, _UNITS) for part in PARTS),
        *((f"{part}_text", pa.string()) for part in PARTS),
        ("voice", pa.string()),
        ("auto_bleu", pa.float32()),
    ]
)


@dataclass(frozen=True)
class PreferencesFacts(SpeechFacts):
    """Pairs of each kind; dropped: good rows that were left out, counted by reason."""

    pairs_train: int
    pairs_heldout: int
    pairs_without_sound: int
    dropped: Mapping[str, int]
    bad_rows: int


@dataclass(frozen=True)
class HeldOut:
    """Which rows of a source without splits are held out: as the corpus's evaluation documents."""

    validation_share: float
    evaluation_share: float


def stage(recipe: Recipe, documents: Stage) -> Stage:
    """From sentences of the documents, or from what `preferences.path` names."""
    settings = {
        "preferences": recipe.preferences,
        "speaking": part_of(recipe.speech, SpeakingSettings),
        "validation_share": recipe.corpus.validation_share,
        "evaluation_share": recipe.corpus.evaluation_share,
        "vocabulary": vocabulary_of(recipe),
    }
    many = recipe.preferences.max_pairs or "all"
    heldout = HeldOut(recipe.corpus.validation_share, recipe.corpus.evaluation_share)
    return Stage(
        "preferences",
        run,
        settings,
        (documents,),
        group=SPEAKING,
        check=partial(check_pairs, recipe.preferences, heldout),
        cost=lambda: f"speaks and encodes {many} pairs",
    )


def check_pairs(preferences: PreferencesSettings, heldout: HeldOut, inputs: Inputs) -> None:
    """BadInput when no pair can be made, or too many rows are bad; of a large corpus some stories tell it."""
    some = preferences.model_copy(update={"max_pairs": min(preferences.max_pairs or SOME_PAIRS, SOME_PAIRS)})
    texts = _texts(inputs, some, heldout)
    if preferences.source != "stories":
        check_bad_share(texts.bad, texts.read, preferences.max_bad_share, "preferences.max_bad_share")
    if not texts.train.pairs:
        raise BadInput(_no_pairs(texts.train))


def _no_pairs(train: PairSet) -> str:
    return f"preferences: no pair is left of {dict(train.dropped)}; give more text or a higher max_auto_bleu"


def run(
    inputs: Inputs,
    out: Folder,
    machine: Machine,
    preferences: PreferencesSettings,
    speaking: SpeakingSettings,
    validation_share: float,
    evaluation_share: float,
    vocabulary: Vocabulary,
) -> PreferencesFacts:
    """Make, filter and speak the pairs; held-out pairs come from text that no training stage sees.

    SpokenSwag is spoken already: its recordings are encoded, and its validation split is held out.
    """
    texts = _texts(inputs, preferences, HeldOut(validation_share, evaluation_share))
    train, heldout = texts.train, texts.heldout
    write_quarantine(out, texts.bad)
    if preferences.source != "stories":
        check_bad_share(texts.bad, texts.read, preferences.max_bad_share, "preferences.max_bad_share")
    chosen = [("train", pair) for pair in train.pairs[: preferences.max_pairs or None]]
    chosen += [("heldout", pair) for pair in heldout.pairs[: preferences.heldout_pairs]]
    if not chosen:
        raise BadInput(_no_pairs(train))
    if preferences.source == "spoken_swag":
        recordings = [recording for _, pair in chosen for recording in _recordings(pair)]
        facts = listen(recordings, out, machine, speaking, "preferences", "speech.max_bad_share")
        ids = _recording_ids
    else:
        said = {utterance for _, pair in chosen for utterance in _utterances(pair)}
        facts = speak(sorted(said, key=lambda u: u.utterance_id), out, machine, speaking, "preferences")
        ids = _utterance_ids
    by_id = units.by_id(out)
    rows = [row for split, pair in chosen if (row := _row(split, pair, [by_id.get(key) for key in ids(pair)]))]
    out.write_table(PAIRS, pa.Table.from_pylist(rows, SCHEMA))
    out.write_json(FILE, vocabulary.to_json())
    return PreferencesFacts(
        **asdict(facts),
        pairs_train=sum(row["split"] == "train" for row in rows),
        pairs_heldout=sum(row["split"] == "heldout" for row in rows),
        pairs_without_sound=len(chosen) - len(rows),
        dropped=dict(train.dropped),
        bad_rows=len(texts.bad),
    )


def read(folder: Folder, split: str) -> list[dict[str, Any]]:
    """Pairs of `train` or `heldout`, by order of id."""
    rows: list[dict[str, Any]] = folder.read_table(PAIRS, filters=[("split", "=", split)]).to_pylist()
    return rows


@dataclass(frozen=True)
class Texts:
    """Training pairs and held-out ones; the rows that none could be made of, by place and reason, of so many read."""

    train: PairSet
    heldout: PairSet
    bad: Sequence[dict[str, str]] = ()
    read: int = 0


def _texts(inputs: Inputs, preferences: PreferencesSettings, heldout: HeldOut) -> Texts:
    """The pairs of the source, as text."""
    if preferences.source == "stories":
        wanted = ((TRAIN, preferences.max_pairs), (EVALUATION, preferences.heldout_pairs))
        train, kept = (
            preference_pairs.from_stories(corpus.read(inputs["corpus"], split, STORIES_PER_PAIR * pairs), preferences)
            for split, pairs in wanted
        )
        return Texts(train, kept)
    if preferences.source == "spoken_swag":
        files = _published(preferences)
        by_split = [[file for file in files if published_split(file.name) == split] for split in PUBLISHED_SPLITS]
        rows = [list(read_spoken_swag(own)) for own in by_split]
        train, kept = (preference_pairs.from_spoken_swag(own, preferences) for own in rows)
        bad = [row for own, found in zip(rows, (train, kept), strict=True) for row in _bad_rows(own, found)]
        return Texts(train, kept, bad, sum(map(len, rows)))
    swag = list(read_swag(preferences.path))
    found = preference_pairs.from_swag([row for _, row in swag], preferences)
    return Texts(*_split(found, heldout), _bad_rows(swag, found), len(swag))


def _bad_rows(rows: Sequence[tuple[str, Any]], found: PairSet) -> list[dict[str, str]]:
    return [{"id": rows[index][0], "reason": reason} for index, reason in found.quarantined]


def _split(found: PairSet, heldout: HeldOut) -> tuple[PairSet, PairSet]:
    kept = [
        pair
        for pair in found.pairs
        if split_of(pair.pair_id, heldout.validation_share, heldout.evaluation_share) == "evaluation"
    ]
    ids = {pair.pair_id for pair in kept}
    train = [pair for pair in found.pairs if pair.pair_id not in ids]
    return PairSet(train, found.quarantined, found.dropped), PairSet(kept)


def read_swag(path: str) -> Iterator[tuple[str, Any]]:
    """Each row of SWAG as published with its place: Parquet or JSON, at any path fsspec can open."""
    for file in find_files([path], PATH, ROW_SUFFIXES):
        for row in read_rows(file, SWAG_COLUMNS, PATH):
            yield row.place, Unread(row.reason) if row.reason else row.value


def read_spoken_swag(files: Sequence[File]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(`path:row`, text columns) of SpokenSwag's Parquet files; BadInput when one lacks a column."""
    for file in files:
        parquet_length(file, (*PARTS, *SPOKEN_COLUMNS), PARTS)  # BadInput when it is something else
        with opening(file.path), file.open() as opened:
            rows = pq.read_table(opened, columns=list(SPOKEN_COLUMNS)).to_pylist()
        yield from ((f"{file.path}:{number}", row) for number, row in enumerate(rows))


def check_source(preferences: PreferencesSettings) -> None:
    """BadInput when the source's files are not given, or are not what it is published as."""
    if preferences.source == "swag" and not preferences.path:
        raise BadInput(f"{PATH}: source=swag needs the path of SWAG's Parquet or JSONL")
    if preferences.source == "spoken_swag":
        if not preferences.path:
            raise BadInput(f"{PATH}: source=spoken_swag needs the folder or hf:// path of its Parquet files")
        if hub_data(preferences.path) is None:  # a plan asks no hub
            _published(preferences)


def _published(preferences: PreferencesSettings) -> list[File]:
    files = [file for file in find_files([preferences.path], PATH, ROW_SUFFIXES) if file.has_suffix(".parquet")]
    if not any(published_split(file.name) == "train" for file in files):
        raise BadInput(f"{PATH}: {preferences.path} has no train-*.parquet; it is not SpokenSwag")
    return files


def _recordings(pair: PreferencePair) -> list[Recording]:
    """The three recordings of a published pair."""
    path, _, row = pair.source_id.rpartition(":")
    return [
        Recording(key, path, int(row), column=part, text_column=f"{part}_text")
        for key, part in zip(_recording_ids(pair), PARTS, strict=True)
    ]


def _recording_ids(pair: PreferencePair) -> list[str]:
    return [content_id("recording", pair.pair_id, part) for part in PARTS]


def _utterances(pair: PreferencePair) -> list[Utterance]:
    """Prompt, chosen and rejected, said by the pair's voice."""
    voice = "" if pair.voice == DEFAULT_VOICE else pair.voice
    said = [cut_sentences(text) for text in (pair.prompt, pair.chosen, pair.rejected)]
    ids = [content_id("sentences", sentences, *([voice] if voice else [])) for sentences in said]
    return [Utterance(key, sentences, None, voice=voice) for key, sentences in zip(ids, said, strict=True)]


def _utterance_ids(pair: PreferencePair) -> list[str]:
    return [utterance.utterance_id for utterance in _utterances(pair)]


def _row(split: str, pair: PreferencePair, found: Sequence[np.ndarray | None]) -> dict[str, Any] | None:
    parts = [part for part in found if part is not None and len(part)]
    if len(parts) < len(PARTS):
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
