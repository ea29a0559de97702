"""Stages `recorded` and one named after each published corpus: recordings read and encoded into the same units."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np

from slamray.config.base import Located, part_of
from slamray.config.corpora import RecordedSettings
from slamray.config.listing import File, Files, each_file
from slamray.config.outside import data_content
from slamray.config.speech import ListeningSettings
from slamray.config.tree import Recipe
from slamray.data.ids import text_id
from slamray.data.published_corpora import CORPORA
from slamray.data.recordings import Listing, Recording, parquet_length, published_split
from slamray.data.text import VALIDATION
from slamray.errors import BadInput
from slamray.stage.folder import Folder
from slamray.stage.stage import Inputs, Stage
from slamray.stage.work import Machine
from slamray.stages.speak_and_listen import SpeechFacts, listen

PLAIN = "recorded"  # the stage of `recorded.paths`
AUDIO_SUFFIXES = (".flac", ".wav", ".mp3", ".ogg", ".sph")
PLAIN_SUFFIXES = (*AUDIO_SUFFIXES, ".parquet")
BAD_SHARE = "recorded.max_bad_share"


@dataclass(frozen=True)
class CorpusOfRecordingsFacts(SpeechFacts):
    """dropped: what the reader of the corpus left out on purpose, counted by reason."""

    dropped: Mapping[str, int]


def stages(recipe: Recipe) -> tuple[Stage, ...]:
    """A stage for the recordings of `recorded.paths`, and one for each published corpus that the recipe names."""
    given, listening = recipe.recorded, listening_of(recipe)
    found = []
    check_at_most(given)
    trains_alone = recipe.speech.train_documents is None and not given.paths and len(given_corpora(given)) == 1
    if given.paths:
        plain = partial(data_content, given.paths, "recorded.paths", PLAIN_SUFFIXES)
        found.append(Stage(PLAIN, run_plain, {"files": Located(plain, given), "listening": listening}, version=2))
    for name in given_corpora(given):
        content = partial(data_content, getattr(given, name), f"recorded.{name}")
        at_most = given.at_most.get(name, 0)
        settings = {"name": name, "files": Located(content, given), "at_most": at_most, "listening": listening}
        many = f"{at_most:,}" if at_most else "all"
        work = partial(run_corpus, trains_alone=True) if trains_alone else run_corpus
        found.append(Stage(name, work, settings, version=2, cost=partial("encodes {} recordings".format, many)))
    return tuple(found)


def check_at_most(given: RecordedSettings) -> None:
    """BadInput when `recorded.at_most` names something that is no published corpus."""
    odd = sorted(given.at_most.keys() - CORPORA.keys())
    if odd:
        raise BadInput(
            f"recorded.at_most: no published corpus is called {' '.join(odd)}; there are {' '.join(CORPORA)}"
        )


def run_plain(
    inputs: Inputs, out: Folder, machine: Machine, files: Located, listening: ListeningSettings
) -> SpeechFacts:
    """Read and encode every recording; unreadable ones go to quarantine with the reason."""
    found = each_file(files.place.paths, "recorded.paths", PLAIN_SUFFIXES)
    recordings = (recording for file in found for recording in _recordings_of(file))
    return listen(recordings, out, machine, listening, PLAIN, BAD_SHARE)


def run_corpus(
    inputs: Inputs,
    out: Folder,
    machine: Machine,
    name: str,
    files: Located,
    at_most: int,
    listening: ListeningSettings,
    trains_alone: bool = False,
) -> CorpusOfRecordingsFacts:
    """Read and encode a published corpus; at_most: recordings that are not for validation, 0 for all.

    trains_alone: nothing else is trained on, so BadInput, before anything is read, where all of it is for validation.
    """
    given = getattr(files.place, name)
    dropped: Counter[str] = Counter()
    count: Counter[str] = Counter()  # of each split

    def recordings() -> Iterator[Recording]:
        for listing in listings(given, name, at_most):
            dropped.update(listing.dropped)
            for recording in listing.recordings:
                count[recording.split] += 1
                yield recording
        if not count:
            raise BadInput(f"recorded.{name}: no recording found in {given}; {dict(dropped)}")
        if trains_alone and set(count) == {VALIDATION}:
            raise BadInput(no_training({name: count.total()}))

    facts = listen(recordings(), out, machine, listening, name, BAD_SHARE)  # which lists all before it reads one
    return CorpusOfRecordingsFacts(**asdict(facts), dropped=dict(dropped))


def listings(given: Sequence[str], name: str, at_most: int) -> Iterator[Listing]:
    """The recordings of a published corpus, some at a time: of those that are not for validation the first `at_most`.

    They are the first in the order of their ids; 0: all. All ids are looked at once before, at 8 bytes each.
    """
    files = Files(given, f"recorded.{name}")
    if not at_most:
        yield from CORPORA[name](files)
        return
    files = replace(files, without=not_needed(files, at_most))
    last = last_id((one.utterance_id for found in CORPORA[name](files) for one in _bounded(found)), at_most)
    for found in CORPORA[name](files):
        kept = [one for one in found.recordings if one.split == VALIDATION or one.utterance_id <= last]
        yield Listing(kept, found.dropped)


def _bounded(listing: Listing) -> Iterator[Recording]:
    """Those of which there are at most so many."""
    return (one for one in listing.recordings if one.split != VALIDATION)


def last_id(ids: Iterable[str], at_most: int) -> str:
    """The last of the first `at_most` ids (16 hex digits each) in their order."""
    found = np.fromiter((int(one, 16) for one in ids), np.uint64)
    if len(found) <= at_most:
        return "f" * 16
    return f"{int(np.partition(found, at_most - 1)[at_most - 1]):016x}"


def not_needed(files: Iterable[File], at_most: int) -> set[str]:
    """Paths of the files without which the first `at_most` recordings are there, so that they need not be fetched.

    Only Parquet says in its footer how many it holds; it is taken file by file, in the order of the ids of their names.
    What is published as validation or test, and every other kind of file, is needed.
    """
    parquet = [file for file in files if file.has_suffix(".parquet") and published_split(file.name) in ("", "train")]
    left_out, rows = set(), 0
    for file in sorted(parquet, key=lambda file: text_id(file.name)):
        if rows >= at_most:
            left_out.add(file.path)
        else:
            rows += parquet_length(file, ["audio"])
    return left_out


def listening_of(recipe: Recipe) -> ListeningSettings:
    """How recordings are heard, with the share of bad ones that recordings may have."""
    heard = part_of(recipe.speech, ListeningSettings)
    return heard.model_copy(update={"max_bad_share": recipe.recorded.max_bad_share})


def no_training(counts: Mapping[str, int]) -> str:
    """What is said where recordings alone are trained on and all of them, so many a corpus, are for validation."""
    said = ", ".join(f"recorded.{name}: {count}" for name, count in counts.items())
    return (
        f"no training document: every recording given is of a validation split ({said}); give training parts too "
        "(train-*), or speak text as well: speech.train_documents=0"
    )


def has_recordings(given: RecordedSettings) -> bool:
    """Whether a recipe names any."""
    return bool(given.paths or given_corpora(given))


def given_corpora(given: RecordedSettings) -> list[str]:
    """Names of the published corpora that a recipe gives a place for."""
    return [name for name in CORPORA if getattr(given, name)]


def _recordings_of(file: File) -> Iterator[Recording]:
    if not file.has_suffix(".parquet"):
        yield Recording(text_id(file.name), file.path)
        return
    for row in range(parquet_length(file, ["audio"])):
        yield Recording(text_id(f"{file.name}:{row}"), file.path, row)
