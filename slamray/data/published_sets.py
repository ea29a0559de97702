"""Published test sets as they lie on disk. Labels or names say which recording is right, never the order of files.

A set's name is its kind, or its kind, a hyphen and anything (`sblimp`, `sblimp-dev`):

    sblimp           gold.csv (id filename voice type subtype correct) beside the wav files; ZeroSpeech 2021, syntactic/
    swuggy           gold.csv (id filename voice frequency word correct) beside the wav files; ZeroSpeech 2021, lexical/
    ssc, tsc         Spoken StoryCloze (TWIST): {n}_{story}_correct.wav, {n + 1}_{story}_incorrect.wav
    ms_ssc, ms_tsc   the same by several speakers (SIMS): a folder for each, of such files or of Parquet as on the hub
    cm_ssc, cm_tsc   StoryCloze heard or read (slamkit, cross-modal): {story}_mutual, _correct and _incorrect, each .wav
                     and .txt, of the prompt and of both endings; of a model of text and speech alone
    cm_ms_ssc, cm_ms_tsc    the same by several speakers: a folder for each
    salmon           SALMon: {part}/sample_{n}_{0: right, 1: wrong}.wav, or {part}/*.parquet as on the hub
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq

from slamray.config.outside import file_content, local_content
from slamray.data.ids import content_id
from slamray.data.item_pairs import ItemPair
from slamray.data.recordings import Recording, check_columns
from slamray.errors import BadInput
from slamray.given import files_below, has_suffix, is_clutter, one_of, opening, read_text

GOLD = "gold.csv"
IN_VOCABULARY, OUT_OF_VOCABULARY = "in_vocabulary", "out_of_vocabulary"
EACH_PART = "each part"  # of SALMon
WAYS = ("ss", "st", "ts", "tt")  # prompt, then ending: s is heard, t is read
SALMON_PARTS = (
    "bg_alignment",
    "bg_all_consistency",
    "bg_domain_consistency",
    "gender_consistency",
    "rir_consistency",
    "sentiment_alignment",
    "sentiment_consistency",
    "speaker_consistency",
)
# The columns of slprl/SALMon and slprl/multispeaker-storycloze on the hub. The column of the right recording leads to
# those of the wrong recording, of the item's number, of the right text and of the wrong text.
_HUB = {
    "positive_audio": ("negative_audio", "ind", None, None),
    "correct_audio": ("negative_audio", "id", "correct_text", "negative_text"),
}
_STORY = re.compile(
    r"(?:\d+_)?(?P<item>.+)_(?P<label>correct|incorrect)", re.IGNORECASE
)  # the number runs over files, not stories
_PROMPT, _RIGHT, _WRONG = "_mutual", "_correct", "_incorrect"  # of slamkit's cross-modal stories
_SAMPLE = re.compile(r"sample_(?P<item>\d+)_(?P<label>[01])", re.IGNORECASE)


@dataclass(frozen=True)
class PublishedSet:
    """A test set without faults: its recordings, each once, and its pairs."""

    name: str
    recordings: tuple[Recording, ...]
    pairs: tuple[ItemPair, ...]
    identity: Mapping[str, Any]
    """A checksum of the names and contents below the folder, and one of the labels; not where the folder lies."""
    facts: Mapping[str, Any]
    """pairs, items, items of each part, published counts, and a note where they differ."""


@dataclass(frozen=True)
class _Side:
    """A recording with its label. `item` is what is tested; several voices may say it."""

    name: str  # for errors and ids: path below the folder, with row and column in a Parquet file
    right: bool
    part: str
    item: str
    voice: str
    text: str
    path: Path
    parquet_row: int | None = None
    column: str = "audio"
    prompt: Path | None = None  # heard before it, of which prompt_text is read
    prompt_text: str = ""


@dataclass(frozen=True)
class PublishedKind:
    """How sets of a kind are read, and how many items the published ones have.

    read: the labelled recordings of a folder. published: numbers of items, by what they are of. counted: the part that
    these numbers are of; empty: all. average: how a set's figure is made, the mean over items or the mean of its parts'
    means. across: whether prompt and ending are each heard or read, in four metrics.
    """

    title: str
    read: Callable[[Path], Iterator[_Side]]
    published: Mapping[str, int]
    counted: str = ""
    average: Literal["items", "parts"] = "items"
    across: bool = False


def metrics_of_set(name: str) -> list[str]:
    """The metrics of a set: its own name, or four where prompt and ending are heard or read (`cm_tsc_st-dev`)."""
    kind, dash, rest = name.partition("-")
    ways = (f"_{way}" for way in WAYS) if kind in KINDS and KINDS[kind].across else ("",)
    return [f"{kind}{way}{dash}{rest}" for way in ways]


def joined_id(prompt: Sequence[str], ending: Sequence[str]) -> str:
    """The id of the sound of a prompt and its ending that was encoded as one; of their utterances."""
    return content_id("joined", *prompt, *ending)


def kind_of(name: str) -> str:
    """The kind of a set, by its name; BadInput for a kind that is not known."""
    kind = name.partition("-")[0]
    if kind not in KINDS:
        raise BadInput(f"evaluate.sets.{name}: no such kind of set; a name starts with one of {' '.join(KINDS)}")
    return kind


def read_set(name: str, folder: Path, joined: bool = False) -> PublishedSet:
    """Read the labels of a set and pair its recordings; no audio is opened.

    joined: each ending is a recording after its prompt, too, as slamkit encodes the two. BadInput names the file: a
    pair without its partner, a name twice, a label missing or unknown, a file missing.
    """
    kind = kind_of(name)
    if not folder.is_dir() or not str(folder).strip("."):
        raise BadInput(f"evaluate.sets.{name}={folder}: no such folder")
    with opening(f"evaluate.sets.{name}={folder}"):
        sides = list(KINDS[kind].read(folder))
    if not sides:
        raise BadInput(
            f"evaluate.sets.{name}={folder}: no recording of a {kind} set in it; "
            "slamray/data/published_sets.py shows the layouts"
        )
    recordings = {
        side.name: Recording(content_id(name, side.name), str(side.path), side.parquet_row, side.column)
        for side in sides
    }
    prompts = {str(side.prompt): side.prompt for side in sides if side.prompt}
    for key, path in prompts.items():
        recordings[key] = Recording(content_id(name, path.relative_to(folder).as_posix()), str(path))
    pairs = tuple(_pair_up(name, folder, sides, recordings))
    after = []
    for side in sides if joined else ():
        if side.prompt:
            key = joined_id([recordings[str(side.prompt)].utterance_id], [recordings[side.name].utterance_id])
            after.append(Recording(key, str(side.path), after=str(side.prompt)))
    identity = _identity(folder, sides) | ({"joined": True} if after else {})
    return PublishedSet(name, (*recordings.values(), *after), pairs, identity, _count(KINDS[kind], pairs))


def _read_sblimp(folder: Path) -> Iterator[_Side]:
    for wav, right, row in _read_gold(folder, ("type", "subtype")):
        item = f"{row['type']}/{row['subtype']}/{row['id']}"
        yield _Side(wav, right, row["type"], item, row["voice"], row.get("transcription") or wav, folder / wav)


def _read_swuggy(folder: Path) -> Iterator[_Side]:
    for wav, right, row in _read_gold(folder, ("frequency", "word")):
        part = _vocabulary(f"{folder / GOLD}:{row['line']}: {wav}", row) if right else ""
        yield _Side(wav, right, part, row["id"], row["voice"], row["word"] or wav, folder / wav)


def _read_gold(folder: Path, columns: Sequence[str]) -> Iterator[tuple[str, bool, Mapping[str, str]]]:
    """Of a ZeroSpeech 2021 folder: name of each wav file, whether it is right, and its row. columns: of the kind."""
    there = [path for path in files_below(folder) if path.parent == folder]
    gold = one_of(there, GOLD)
    if gold is None:
        raise BadInput(
            f"{folder / GOLD}: no such file; give the folder with {GOLD} beside the wav files, .../dev or .../test"
        )
    sounds = {path.stem: path.name for path in there if has_suffix(path.name, ".wav")}
    unlabelled = set(sounds.values())
    seen: set[str] = set()
    reader = csv.DictReader(io.StringIO(read_text(gold), newline=""))
    needed = {"id", "filename", "voice", "correct", *columns}
    if missing := sorted(needed - set(reader.fieldnames or ())):
        raise BadInput(f"{gold}: no column {' '.join(missing)}; it has {' '.join(reader.fieldnames or ())}")
    for line, row in enumerate(reader, start=2):
        if empty := sorted(name for name in needed if row[name] is None):
            raise BadInput(f"{gold}:{line}: nothing in column {' '.join(empty)}; repair the row")
        named = row["filename"]
        stem = named[: -len(".wav")] if has_suffix(named, ".wav") else named
        wav = sounds.get(stem, f"{stem}.wav")
        if wav in seen:
            raise BadInput(f"{gold}:{line}: {wav} is named twice; remove one of its rows")
        seen.add(wav)
        if wav not in unlabelled:
            raise BadInput(f"{gold}:{line}: {folder / wav} is missing; bring the whole folder or remove its row")
        if row["correct"] not in ("0", "1"):
            raise BadInput(f"{gold}:{line}: {wav}: correct is {row['correct']!r}, not 0 or 1; repair the label")
        unlabelled.discard(wav)
        yield wav, row["correct"] == "1", row | {"line": str(line)}
    if unlabelled:
        raise BadInput(f"{folder / min(unlabelled)}: no label; it has no row in {gold}")


def _vocabulary(place: str, row: Mapping[str, str]) -> str:
    """Whether the word occurs in LibriSpeech, as ZeroSpeech's evaluation decides it: by its frequency there."""
    try:
        return IN_VOCABULARY if float(row["frequency"]) >= 1 else OUT_OF_VOCABULARY
    except ValueError as error:
        raise BadInput(f"{place}: frequency is {row['frequency']!r}, no number; repair the label") from error


def _read_stories(folder: Path) -> Iterator[_Side]:
    """Sides of Spoken StoryCloze; a folder inside is a speaker."""
    for path in files_below(folder, (".parquet",)):
        speaker = "/".join(path.relative_to(folder).parent.parts)
        yield from _read_hub(folder, path, speaker or "all", "", speaker)
    for path in files_below(folder, (".wav",)):
        if not (found := _STORY.fullmatch(path.stem)):
            raise BadInput(f"{path}: no label; a story's name ends in _correct.wav or _incorrect.wav")
        speaker = "/".join(path.relative_to(folder).parent.parts)
        name = path.relative_to(folder).as_posix()
        yield _Side(
            name, found["label"].lower() == "correct", speaker or "all", found["item"], speaker, path.stem, path
        )


def _read_across(folder: Path) -> Iterator[_Side]:
    """Sides of slamkit's cross-modal stories; a folder inside is a speaker.

    The layout is what metric/cross_modal_metric.py reads at 388b402.
    """
    there = set(files_below(folder, (".wav", ".txt")))
    for right in sorted(path for path in there if path.name.endswith(f"{_RIGHT}.wav")):
        item = right.name.removesuffix(f"{_RIGHT}.wav")
        speaker = "/".join(right.relative_to(folder).parent.parts)
        sounds = {label: right.with_name(f"{item}{label}.wav") for label in (_PROMPT, _RIGHT, _WRONG)}
        texts = {label: path.with_suffix(".txt") for label, path in sounds.items()}
        if missing := sorted(path for path in (*sounds.values(), *texts.values()) if path not in there):
            raise BadInput(
                f"{missing[0]}: missing beside {right.name}; a story is six files, .wav and .txt of each part"
            )
        said = {label: read_text(path).strip() for label, path in texts.items()}
        if empty := [texts[label] for label, text in said.items() if not text]:
            raise BadInput(
                f"{empty[0]}: nothing is written in it; bring the text of {empty[0].with_suffix('.wav').name}"
            )
        for label in (_RIGHT, _WRONG):
            yield _Side(
                sounds[label].relative_to(folder).as_posix(),
                label == _RIGHT,
                speaker or "all",
                item,
                speaker,
                said[label],
                sounds[label],
                prompt=sounds[_PROMPT],
                prompt_text=said[_PROMPT],
            )
    known = (f"{_PROMPT}.wav", f"{_RIGHT}.wav", f"{_WRONG}.wav")
    for path in sorted(there):
        stem = path.name.rsplit("_", 1)[0]
        if path.suffix == ".wav" and not (path.name.endswith(known) and path.with_name(f"{stem}{_RIGHT}.wav") in there):
            raise BadInput(f"{path}: of no story; names are NAME{_PROMPT}.wav, NAME{_RIGHT}.wav and NAME{_WRONG}.wav")


def _read_salmon(folder: Path) -> Iterator[_Side]:
    """Sides of SALMon; a folder inside is a part."""
    for part in sorted(path for path in folder.iterdir() if path.is_dir() and not is_clutter(path.name)):
        audio = files_below(part, (".wav", ".parquet"))
        if audio and part.name not in SALMON_PARTS:
            raise BadInput(f"{audio[0]}: {part.name} is no part of SALMon; its parts are {' '.join(SALMON_PARTS)}")
        for path in audio:
            if has_suffix(path.name, ".parquet"):
                yield from _read_hub(folder, path, part.name, f"{part.name}/", "")
                continue
            if not (found := _SAMPLE.fullmatch(path.stem)):
                raise BadInput(f"{path}: no label; names are sample_N_0.wav (right) and sample_N_1.wav (wrong)")
            name, item = path.relative_to(folder).as_posix(), f"{part.name}/{found['item']}"
            yield _Side(name, found["label"] == "0", part.name, item, "", path.stem, path)


def _read_hub(folder: Path, path: Path, part: str, prefix: str, voice: str) -> Iterator[_Side]:
    """Sides of a Parquet file of the hub: a row is a pair, its columns say which recording is right."""
    with opening(str(path)):
        file = pq.ParquetFile(path)
    columns = file.schema_arrow.names
    right = next((column for column in _HUB if column in columns), None)
    if right is None or not {_HUB[right][0], _HUB[right][1]} <= set(columns):
        raise BadInput(f"{path}: no columns of right and wrong audio with an id; it has {' '.join(columns)}")
    wrong, number, *texts = _HUB[right]
    check_columns(file.schema_arrow, (right, wrong), (right, wrong), str(path))
    kept = [column for column in (number, *texts) if column in columns]
    name = path.relative_to(folder).as_posix()
    with opening(str(path)):
        rows = file.read(columns=kept).to_pylist()
    for i, row in enumerate(rows):
        item = f"{prefix}{row[number]}"
        for column, text in zip((right, wrong), texts, strict=True):
            place = f"{name}:{i}:{column}"
            said = str(row.get(text) or place)
            yield _Side(place, column == right, part, item, voice, said, path, i, column)


def _pair_up(
    name: str, folder: Path, sides: Sequence[_Side], recordings: Mapping[str, Recording]
) -> Iterator[ItemPair]:
    """Exactly one right and one wrong recording for each item and voice."""
    found: dict[tuple[str, str], dict[bool, _Side]] = {}
    for side in sides:
        pair = found.setdefault((side.item, side.voice), {})
        if other := pair.get(side.right):
            kind = "right" if side.right else "wrong"
            raise BadInput(
                f"{folder / side.name}: {side.item} has two {kind} recordings, this and {other.name}; remove one"
            )
        pair[side.right] = side
    for (item, voice), pair in sorted(found.items()):
        if len(pair) < 2:
            (alone,) = pair.values()
            lost = "wrong" if alone.right else "right"
            raise BadInput(f"{folder / alone.name}: its partner, the {lost} recording of {item}, is missing")
        right, wrong = (pair[label] for label in (True, False))
        chosen, rejected = (recordings[side.name].utterance_id for side in (right, wrong))
        pair_id = "/".join(part for part in (name, item, voice) if part)
        prompt = (recordings[str(right.prompt)].utterance_id,) if right.prompt else ()
        texts = (right.prompt_text, right.text, wrong.text)
        yield ItemPair(pair_id, name, right.part, prompt, (chosen,), (rejected,), *texts, item)


def _identity(folder: Path, sides: Sequence[_Side]) -> dict[str, Any]:
    gold = one_of([path for path in files_below(folder) if path.parent == folder], GOLD)
    labels = {"labels": file_content(str(gold), "evaluate.sets")} if gold else {}
    read = {side.path for side in sides} | {side.prompt for side in sides if side.prompt}
    texts = {path.with_suffix(".txt") for path in read if any(side.prompt for side in sides)}
    return local_content(sorted(read | texts), folder) | labels


def _count(kind: PublishedKind, pairs: Sequence[ItemPair]) -> dict[str, Any]:
    """Items here beside the published ones. A subset is legal, and said to be one."""
    parts = Counter(part for part, _ in {(pair.part, pair.item) for pair in pairs})
    items = len({pair.item for pair in pairs})
    return {
        "pairs": len(pairs),
        "items": items,
        "parts": dict(sorted(parts.items())),
        "published": dict(kind.published),
        "note": _note(kind, items, parts),
    }


def _note(kind: PublishedKind, items: int, parts: Mapping[str, int]) -> str:
    """Where the number of items is not a published one; else empty."""
    expected = " or ".join(f"{n:,} ({where})" for where, n in kind.published.items())
    if kind.average == "parts":
        odd = [f"{part} {parts.get(part, 0)}" for part in SALMON_PARTS if parts.get(part) != kind.published[EACH_PART]]
        return f"not as published: {', '.join(odd)}; published are {expected}" if odd else ""
    counted = parts.get(kind.counted, 0) if kind.counted else items
    if counted in kind.published.values():
        return ""
    of = f" {kind.counted.replace('in_', 'in the ')}" if kind.counted else ""
    sort = "a subset" if counted < max(kind.published.values()) else "more"
    return f"{counted:,} items{of}, {sort}: published are {expected}"


# Items as published. sBLIMP and sWUGGY: zerospeech.com, task 4, and the number of files (slamkit issue 17); sWUGGY's
# are of words in the vocabulary, and the figure of both is over pairs, each the mean over its voices (ZeroSpeech 2021's
# score). StoryCloze: its test set of 2016. SALMon: 200 in each part (its hub page); it has figures for its parts alone,
# and the mean of the eight is a figure of this project.
_STORIES = {"test": 1_871}
KINDS: dict[str, PublishedKind] = {
    "sblimp": PublishedKind("sBLIMP", _read_sblimp, {"dev": 6_300, "test": 63_000}),
    "swuggy": PublishedKind("sWUGGY", _read_swuggy, {"dev": 5_000, "test": 20_000}, counted=IN_VOCABULARY),
    "ssc": PublishedKind("Spoken StoryCloze", _read_stories, _STORIES),
    "tsc": PublishedKind("Topic StoryCloze, spoken", _read_stories, _STORIES),
    "ms_ssc": PublishedKind("Spoken StoryCloze, several speakers", _read_stories, _STORIES),
    "ms_tsc": PublishedKind("Topic StoryCloze, several speakers", _read_stories, _STORIES),
    "cm_ssc": PublishedKind("StoryCloze", _read_across, _STORIES, across=True),
    "cm_tsc": PublishedKind("Topic StoryCloze", _read_across, _STORIES, across=True),
    "cm_ms_ssc": PublishedKind("StoryCloze, several speakers", _read_across, _STORIES, across=True),
    "cm_ms_tsc": PublishedKind("Topic StoryCloze, several speakers", _read_across, _STORIES, across=True),
    "salmon": PublishedKind("SALMon", _read_salmon, {EACH_PART: 200}, average="parts"),
}
