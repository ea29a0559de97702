"""Readers of the paper's corpora (docs/paper.md 1.6, Table 8), one for each published layout; English parts alone.

Each takes the files of a corpus, in the order of their names, and yields its recordings bit by bit, so that no more
than a folder's are held; it may walk the files twice. Test parts are left out and counted, so no stage trains or
validates on them.
"""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import soundfile

from slamray.config.listing import File, by_folder
from slamray.data.ids import text_id
from slamray.data.recordings import Listing, Recording, parquet_rows, published_split
from slamray.errors import BadInput
from slamray.given import is_text, opening, reason_of

TEST = "test part"
VAD_SECONDS = 60.0  # libri-light's cut_by_vad.py, --target_len_sec
_VAD_PIECE = re.compile(r"_\d{4}$")  # how cut_by_vad.py names what it writes
_STM_JUNK = re.compile(r"<unk>|<sil>|\[[^\]]*\]|\{[^}]*\}|\(\d+\)")  # noises and numbers of pronunciations
Cuts = list[tuple[float, float]]


def librispeech(files: Iterable[File]) -> Iterator[Listing]:
    """LibriSpeech: {train,dev,test}-*/speaker/chapter/*.flac with *.trans.txt, or the hub's Parquet.

    dev-clean and dev-other are the validation split.
    """
    for folder in by_folder(files):
        yield from _parquet(folder, "text")
        yield _chapter(folder)


def _chapter(files: Sequence[File]) -> Listing:
    listing, texts = Listing(), {}
    for file in files:
        if file.has_suffix(".trans.txt"):
            lines = (line.partition(" ") for line in file.read_lines())
            texts.update({f"{file.folder}/{name}": _transcript(text, listing) for name, _, text in lines})
    for file in files:
        if file.has_suffix(".flac"):
            split = published_split(file.folder)
            if not split:
                raise BadInput(f"recorded.librispeech: no folder of {file.name} is called train-*, dev-* or test-*")
            text = texts.get(f"{file.folder}/{file.stem}", "")
            _add(listing, Recording(text_id(file.name), file.path, text=text, split=split))
    return listing


def librilight(files: Iterable[File]) -> Iterator[Listing]:
    """Libri-Light: {small,medium,large}/speaker/book/*.flac, each with a .json that holds its voice activity.

    Silences are removed and pieces cut as Libri-Light's cut_by_vad.py does; pieces which that script has written are
    read as they are. The corpus publishes no split.
    """
    yield from map(_book, by_folder(files))


def _book(files: Sequence[File]) -> Listing:
    listing = Listing()
    names = {file.name.lower(): file for file in files if file.has_suffix(".json")}
    for file in files:
        stem = file.name.rpartition(".")[0]
        if not file.has_suffix(".flac", ".wav"):
            continue
        about = names.get(f"{stem}.json".lower())
        if about is None and _VAD_PIECE.search(stem):
            listing.recordings.append(Recording(text_id(file.name), file.path))
            continue
        try:
            pieces = cut_by_vad(_voice_activity(about), VAD_SECONDS)
        except ValueError as error:
            listing.recordings.append(Recording(text_id(file.name), file.path, reason=f"{file.name}: {error}"))
            continue
        listing.recordings += [
            Recording(text_id(f"{stem}_{i:04d}"), file.path, cuts=cuts) for i, cuts in enumerate(pieces)
        ]
        if not pieces:
            listing.dropped["no voice in the recording"] += 1
    return listing


def cut_by_vad(voiced: Cuts, target_seconds: float) -> list[Cuts]:
    """Pieces of consecutive voiced stretches, each at most as long as the target; a longer stretch is one piece."""
    pieces: list[Cuts] = []
    filled = 0.0
    for start, end in voiced:
        if not pieces or (filled + end - start > target_seconds and filled > 0):
            pieces.append([])
            filled = 0.0
        pieces[-1].append((start, end))
        filled += end - start
    return pieces


def _voice_activity(file: File | None) -> Cuts:
    """The voiced stretches of a recording's .json. ValueError says what is wrong with the file."""
    if file is None:
        raise ValueError("no .json beside it")
    try:
        about = json.loads(file.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its .json is none ({reason_of(error)})") from error
    voiced = about.get("voice_activity") if isinstance(about, dict) else None
    if not isinstance(voiced, list):
        raise ValueError("its .json has no voice_activity")
    try:
        cuts = [(float(start), float(end)) for start, end in voiced]
    except (TypeError, ValueError) as error:
        raise ValueError("its voice_activity is no list of [start, end] in seconds") from error
    if any(not 0 <= start < end < math.inf for start, end in cuts):
        raise ValueError("a stretch of voice_activity does not end after its start")
    return cuts


def swc(files: Iterable[File]) -> Iterator[Listing]:
    """Spoken Wikipedia (SWC 2.0): english/Article/aligned.swc with audio.ogg, or audio1.ogg, audio2.ogg ...

    A recording is a sentence, from its first word's start to its last word's end. A sentence that holds a word without
    alignment is left out, as nobody knows what was read there (docs/paper.md 1.6). The corpus publishes no split.
    """
    yield from map(_articles, by_folder(files))


def _articles(files: Sequence[File]) -> Listing:
    listing = Listing()
    audio = defaultdict(list)
    for file in files:
        if re.fullmatch(r"audio\d*\.ogg", file.own_name.lower()):
            audio[file.folder].append(file)
    for file in files:
        if file.own_name.lower() != "aligned.swc":
            continue
        if {"german", "dutch"} & set(file.name.lower().split("/")):
            listing.dropped["article in another language"] += 1
            continue
        parts = sorted(audio[file.folder], key=lambda part: int(re.sub(r"\D", "", part.stem) or 0))
        try:
            _add_article(listing, file, parts)
        except (ElementTree.ParseError, ValueError, OSError) as error:
            reason = f"{file.name}: {reason_of(error)}"
            listing.recordings.append(Recording(text_id(file.name), file.path, reason=reason))
    return listing


def _add_article(listing: Listing, file: File, parts: Sequence[File]) -> None:
    if not parts:
        raise ValueError("no audio*.ogg beside it")
    starts = [0.0]  # where each audio file starts on the article's clock, which runs through all of them
    for part in parts[:-1]:
        starts.append(starts[-1] + _seconds(part))
    for number, words in enumerate(_aligned_sentences(file.read_bytes())):
        edges = [edge for _, start, end in words for edge in (start, end)]
        if not words or -1.0 in edges or edges != sorted(edges) or edges[0] == edges[-1]:
            listing.dropped["sentence not aligned throughout"] += 1
            continue
        place = max(i for i, start in enumerate(starts) if start <= edges[0])
        if place + 1 < len(starts) and edges[-1] > starts[place + 1]:
            listing.dropped["sentence over two files"] += 1
            continue
        cut = (edges[0] - starts[place], edges[-1] - starts[place])
        spans = [(word, start - edges[0], end - edges[0]) for word, start, end in words]
        text = " ".join(word for word, _, _ in words)
        name = f"{file.name}:{number}"
        listing.recordings.append(Recording(text_id(name), parts[place].path, cuts=[cut], text=text, words=spans))


def _aligned_sentences(text: bytes) -> Iterator[list[tuple[str, float, float]]]:
    """(word, start, end in seconds, -1 where not aligned) of the words of each sentence that has any."""
    for sentence in ElementTree.fromstring(text).iter("s"):
        words = []
        for token in sentence.iter("t"):
            read = list(token.iter("n"))  # how the token is read: "1996" has two, punctuation none
            if read:
                times = [float(n.get(edge, -1000)) / 1000 for n in read for edge in ("start", "end")]
                written = (token.text or "").strip() or " ".join(n.get("pronunciation", "") for n in read)
                words.append((written, times[0], times[-1]) if -1.0 not in times else (written, -1.0, -1.0))
        if words:
            yield words


def _seconds(file: File) -> float:
    with opening(file.path), file.open() as opened, soundfile.SoundFile(opened) as sound:
        if sound.frames >= 1 << 60:  # as libsndfile gives it where a header does not say
            raise ValueError("its header does not say how long it is")
        return float(sound.frames / sound.samplerate)


def tedlium(files: Iterable[File]) -> Iterator[Listing]:
    """TED-LIUM 3: data/{sph,stm} trains, legacy/dev validates; 1 and 2: {train,dev,test}/{sph,stm}.

    A recording is a segment of a talk's .stm. Talks that are also in dev or test are not trained on. Of release 3
    legacy/train is left out: data holds its talks. A release has some 2,400 talks.
    """
    kept = [file for file in files if file.has_suffix(".sph", ".stm")]
    audio = {file.name.lower(): file for file in kept if file.has_suffix(".sph")}
    talks = {file: _tedlium_split(file.folder) for file in kept if file.has_suffix(".stm")}
    heldout = {file.stem for file, split in talks.items() if split in ("validation", "test")}
    third = {file.stem for file, split in talks.items() if split == "data"}
    for file, split in talks.items():
        listing = Listing()
        again = split in ("legacy train", "train") and file.stem in third
        if again or split == "legacy train" or (split in ("data", "train") and file.stem in heldout):
            listing.dropped["talk that is elsewhere too"] += 1
        elif split == "test":
            listing.dropped[TEST] += 1
        else:
            sound = audio.get(f"{file.folder.rpartition('/')[0]}/sph/{file.stem}.sph".lower())
            _add_talk(listing, file, sound, "train" if split == "data" else split)
        yield listing


def _tedlium_split(folder: str) -> str:
    """validation, test, train (of release 1 or 2), data (which trains, of release 3), or legacy train."""
    parts, split = folder.lower().split("/"), published_split(folder)
    if "legacy" not in parts and "data" in parts:
        return "data"
    if not split:
        raise BadInput(
            f"recorded.tedlium: {folder} is neither data, legacy/dev nor {{train,dev,test}}; "
            "give the folder of the release"
        )
    return f"legacy {split}" if split == "train" and "legacy" in parts else split


def _add_talk(listing: Listing, file: File, sound: File | None, split: str) -> None:
    if sound is None:
        reason = f"{file.name}: no {file.stem}.sph in the folder sph beside it"
        listing.recordings.append(Recording(text_id(file.name), file.path, split=split, reason=reason))
        return
    for number, line in enumerate(file.read_lines(), start=1):
        name = f"{file.name}:{number}"
        fields = line.split(maxsplit=6)  # talk channel speaker start end <labels> words
        if not fields or line.startswith(";;"):
            continue
        try:
            cut = (float(fields[3]), float(fields[4]))
            text = fields[6]
            if not 0 <= cut[0] < cut[1] < math.inf:
                raise ValueError
        except (IndexError, ValueError):
            reason = f"{name}: not a segment of the form talk channel speaker start end <labels> words"
            listing.recordings.append(Recording(text_id(name), sound.path, split=split, reason=reason))
            continue
        if text.strip() == "ignore_time_segment_in_scoring" or fields[2] == "inter_segment_gap":
            listing.dropped["segment not to be scored"] += 1
            continue
        words = " ".join(_STM_JUNK.sub(" ", _transcript(text, listing)).split()).replace(" '", "'")
        listing.recordings.append(Recording(text_id(name), sound.path, cuts=[cut], text=words, split=split))


def peoples_speech(files: Iterable[File]) -> Iterator[Listing]:
    """People's Speech: Parquet with audio and text, split by the files' names."""
    return _parquet(files, "text")


def voxpopuli(files: Iterable[File]) -> Iterator[Listing]:
    """VoxPopuli: {unlabelled_data,transcribed_data}/en/year/*.ogg with asr_{train,dev,test}.tsv, or Parquet of `en`.

    Unlabelled speech has no split; whole sessions (raw_audios) are left out. All 182,000 transcripts are held.
    """
    told = Listing()
    rows = {key: row for file in files if _is_english(file) for key, row in _transcribed(file, told)}
    yield told
    for folder in by_folder(files):
        english = [file for file in folder if _is_english(file)]
        yield from _parquet(english, "normalized_text")
        yield _sessions(english, rows)
        yield Listing(dropped=Counter({"file in another language": len(folder) - len(english)}))


def _is_english(file: File) -> bool:
    return bool(re.search(r"(^|[^a-z])en([^a-z]|$)", file.folder.lower()))


def _transcribed(file: File, listing: Listing) -> Iterator[tuple[str, tuple[str, str]]]:
    """(id, (transcript, split)) of the rows of a file, if it is one of transcripts."""
    if re.fullmatch(r"asr_(train|dev|test)\.tsv", file.own_name.lower()):
        for about in _table(file, ("id",)):
            text = about.get("normalized_text") or about.get("raw_text") or ""
            yield about["id"], (_transcript(text, listing), published_split(file.stem))


def _sessions(files: Sequence[File], rows: Mapping[str, tuple[str, str]]) -> Listing:
    listing = Listing()
    for file in files:
        if not file.has_suffix(".ogg"):
            continue
        if "raw_audios" in file.folder.split("/"):
            listing.dropped["whole session"] += 1
            continue
        text, split = rows.get(file.stem, ("", ""))
        if not split and "transcribed_data" in file.folder.split("/"):
            reason = f"{file.name}: in no asr_*.tsv beside its year"
            listing.recordings.append(Recording(text_id(file.name), file.path, reason=reason))
        else:
            _add(listing, Recording(text_id(file.name), file.path, text=text, split=split))
    return listing


def _table(file: File, needed: Sequence[str]) -> Iterator[dict[str, str]]:
    """Rows of a table with tabs, by the names in its first line. BadInput where one that is needed is not there."""
    head, *lines = file.read_lines() or [""]
    names = head.split("\t")
    if missing := [name for name in needed if name not in names]:
        raise BadInput(f"{file.path}: no column {' '.join(missing)} between tabs; it has {' '.join(names)}")
    for line in lines:
        row = dict(zip(names, line.split("\t"), strict=False))
        if all(name in row for name in needed):
            yield row


def _transcript(text: str, listing: Listing) -> str:
    """The text, or none, which is counted, where it is no text: the sound is good without it."""
    if is_text(text):
        return text
    listing.dropped["transcript that is not UTF-8"] += 1
    return ""


def stinystories(files: Iterable[File]) -> Iterator[Listing]:
    """sTinyStories: Parquet with audio, text and aligned_text [{word, start_time, end_time}]."""
    return _parquet(files, "text", "aligned_text")


def _parquet(files: Iterable[File], text_column: str, words_column: str = "") -> Iterator[Listing]:
    for file in files:
        if file.has_suffix(".parquet"):
            listing = Listing()
            for recording in parquet_rows(file, text_column, words_column):
                _add(listing, recording)
            yield listing


def _add(listing: Listing, recording: Recording) -> None:
    if recording.split == "test":
        listing.dropped[TEST] += 1
    else:
        listing.recordings.append(recording)


CORPORA: dict[str, Callable[[Iterable[File]], Iterator[Listing]]] = {
    "librispeech": librispeech,
    "librilight": librilight,
    "swc": swc,
    "tedlium": tedlium,
    "peoples_speech": peoples_speech,
    "voxpopuli": voxpopuli,
    "stinystories": stinystories,
}
