"""What is fuzzed: strategies of arbitrary input, and what each reader may do with it: read it, or say one line.

A property raises for whatever else comes out: another exception, a reason of several lines or with a memory address, or
work beyond bounds of time and memory.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import resource
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from hypothesis import strategies as st

from slamray.config.corpora import TEXT_SUFFIXES, PreferencesSettings
from slamray.config.load import load_recipe
from slamray.config.speech import TtsSettings
from slamray.config.tree import Recipe
from slamray.data.item_pairs import Utterance
from slamray.data.preference_pairs import ENDINGS, SPOKEN_COLUMNS, SWAG_COLUMNS, from_spoken_swag, from_swag
from slamray.data.published_corpora import CORPORA
from slamray.data.published_sets import GOLD, KINDS, SALMON_PARTS, read_set
from slamray.data.recordings import Recording
from slamray.data.text import END_OF_STORY, RawDocument, TextDocument, read_documents, to_document
from slamray.errors import BadInput
from slamray.given import read_mapping
from slamray.speech.audio import RATE_HZ, load_audio
from slamray.speech.voices.english import EnglishReader, load_reader
from slamray.speech.voices.fastspeech2 import to_arpabet
from slamray.stage.records import to_table
from slamray.stages.speech_kernels import Listen, Speak, reason_of_row
from support.listed import listed

SECONDS = 20.0  # of processor time for one input; the longest that was seen took 3
EXTRA_BYTES = 2 << 30  # of address space beyond what the process holds already; inputs are some kB
_ADDRESS = re.compile(r"0x[0-9a-f]{8,}")


@dataclass(frozen=True)
class Property:
    """Arbitrary input, and what takes it; examples: of the draw that CI makes."""

    strategy: st.SearchStrategy[Any]
    check: Callable[[Any], None]
    examples: int


class OutOfTime(BaseException):
    """Work takes longer than one input may; no reader that catches exceptions may swallow it."""


@contextmanager
def bounded() -> Iterator[None]:
    """OutOfTime and MemoryError where work takes more than one input may."""

    def out_of_time(number: int, frame: object) -> None:
        raise OutOfTime(f"more than {SECONDS:g} s of processor time")

    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGPROF, out_of_time)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (held + EXTRA_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, handler)


def one_line(reason: str) -> None:
    """AssertionError for a reason that is none, is longer than a line, or names an address."""
    told = " ".join(reason.split())
    assert told and not _ADDRESS.search(told), reason
    assert len(told) < 2000, told
    assert "Traceback" not in told, told


@contextmanager
def read_or_refused() -> Iterator[None]:
    """Nothing but BadInput may come out, within bounds."""
    with bounded():
        try:
            yield
        except BadInput as error:
            one_line(str(error))


# Arbitrary text: any code point, halves of surrogate pairs too, and what front ends treat in ways of their own.
PLAIN_ODD = (
    "$9.99 1e309 3/4 1,000,000,000,000 -0 IV A.B.C. e.g. http://a.b/c?d=e a@b.cc #1 % 's '' [x](/y/) 1990s 12:30 Mr. I."
)
FOREIGN_ODD = "½ ٣٤ — … …?! e\u0301 ﬃ 🙂 漢字 नमस्ते « °C \u200b \ufeff \u202e"
ODD = (*PLAIN_ODD.split(), *FOREIGN_ODD.split(" "), "\x00", "\t", END_OF_STORY, "9" * 80, "a" * 99)
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=80)
TEXT = st.one_of(
    ANY_TEXT,
    st.lists(st.one_of(st.sampled_from(ODD), st.text(max_size=8), st.sampled_from(["the", "dog", "said", "no"]))).map(
        " ".join
    ),
    st.lists(st.sampled_from(ODD), max_size=12).map("".join),
)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXT)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=8
)
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)


@st.composite
def mutated(draw: st.DrawFn, contents: st.SearchStrategy[bytes]) -> bytes:
    """Content with some bytes set, cut, doubled or put in; mostly near its start, where headers are."""
    content = bytearray(draw(contents))
    for _ in range(draw(st.integers(0, 4))):
        most = len(content) if draw(st.booleans()) else min(len(content), 64)
        place = draw(st.integers(0, most))
        match draw(st.sampled_from(("byte", "number", "cut", "put", "again"))):
            case "byte" if place < len(content):
                content[place] = draw(st.integers(0, 255))
            case "number":
                order = draw(st.sampled_from(("little", "big")))
                content[place : place + 4] = draw(st.sampled_from(EXTREMES)).to_bytes(4, order)  # type: ignore[arg-type]
            case "cut":
                del content[place:]
            case "put":
                content[place:place] = draw(st.binary(max_size=16))
            case "again":
                content += content[place : place + 512]
    return bytes(content)


def speech_of(check: Callable[[str], None]) -> Callable[[Any], None]:
    """Sentences of a document, as a voice is given them."""

    def each(text: str) -> None:
        with bounded():
            document = to_document(RawDocument("a.jsonl:1", text), 1, 50, 0.1, 0.1)
            if isinstance(document, str):
                one_line(document)
                return
            for sentence in document.sentences:
                assert sentence.encode() and sentence == sentence.strip()
                check(sentence)

    return each


@cache
def reader(british: bool) -> EnglishReader:
    """The front end of every voice: hibari's, Kokoro's and FastSpeech 2's read English into the same phonemes."""
    return load_reader(british)


@cache
def speak() -> Speak:
    return Speak(TtsSettings())


def phonemes_of(sentence: str, british: bool) -> list[str]:
    """Phoneme strings; none where the reader fails, which costs that row alone by the gate that an actor has."""
    try:
        return reader(british).phonemise(sentence)
    except MemoryError:
        raise
    except Exception as error:  # of any voice over any text
        one_line(reason_of_row(error, f"{sentence[:60]!r}: the voice"))
        return []


def reads_american(sentence: str) -> None:
    """The phonemes of hibari, and of FastSpeech 2 in its own alphabet."""
    for phonemes in phonemes_of(sentence, False):
        assert isinstance(phonemes, str) and phonemes
        signs, _ = to_arpabet(phonemes)
        assert all(isinstance(sign, str) for sign in signs)


def reads_british(sentence: str) -> None:
    """Of Kokoro's British voices."""
    assert all(isinstance(phonemes, str) for phonemes in phonemes_of(sentence, True))


def speaks(sentence: str) -> None:
    """The whole voice, as a shard's actor calls it."""
    sound = speak().speak(Utterance("a", (sentence[:60],), None))
    if sound.reason:
        one_line(sound.reason)
    else:
        assert len(sound.pcm) and sound.sentences


SOUNDS = [("WAV", kind) for kind in ("PCM_16", "PCM_U8", "PCM_24", "FLOAT", "DOUBLE", "ULAW", "IMA_ADPCM", "GSM610")]
SOUNDS += [
    (kind, "PCM_16") for kind in ("WAVEX", "AIFF", "AU", "W64", "RF64", "CAF", "NIST", "FLAC", "SVX", "VOC", "RAW")
]
SOUNDS += [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")]


@cache
def sound(form: str, kind: str, rate_hz: int, channels: int) -> bytes:
    """A whole file of 0.1 s of noise; empty where libsndfile has no such form."""
    noise_LC = np.random.default_rng(0).uniform(-0.5, 0.5, (rate_hz // 10, channels))
    file = io.BytesIO()
    try:
        soundfile.write(file, noise_LC, rate_hz, format=form, subtype=kind)
    except (soundfile.LibsndfileError, ValueError):
        return b""
    return file.getvalue()


SOUND_FILES = st.builds(
    lambda kind, rate_hz, channels: sound(*kind, rate_hz, channels),
    st.sampled_from(SOUNDS),
    st.sampled_from((8_000, 16_000, 44_100)),
    st.sampled_from((1, 2, 6)),
)
MAGIC = (
    b"RIFF",
    b"RIFX",
    b"fLaC",
    b"OggS",
    b"ID3",
    b"\xff\xfb",
    b"FORM",
    b".snd",
    b"caff",
    b"NIST_1A\n   1024\n",
    b"RF64",
    b"riff",
)
ANY_SOUND = st.one_of(
    mutated(SOUND_FILES),
    st.binary(max_size=512),
    st.builds(bytes.__add__, st.sampled_from(MAGIC), st.binary(max_size=512)),
)


def hears(given: tuple[bytes, list[tuple[float, float]], bool]) -> None:
    """Bytes of a cell, or a file, whole or in cuts."""
    content, cuts, opened = given
    with read_or_refused():
        audio = load_audio(io.BytesIO(content) if opened else content, RATE_HZ, cuts, "a.wav")
        assert audio.dtype == np.float32 and audio.ndim == 1 and len(audio) and np.isfinite(audio).all()
        assert len(audio) < RATE_HZ * 600


def dumped(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


ROWS = st.lists(st.one_of(st.fixed_dictionaries({"text": st.one_of(TEXT, VALUES)}), VALUES), max_size=5)


@st.composite
def row_files(draw: st.DrawFn) -> tuple[str, bytes]:
    """A file's name and content: JSON lines, an array, plain text, Parquet, compressed or not; or none of these."""
    rows = draw(ROWS)
    kind = draw(st.sampled_from(("lines", "array", "text", "parquet", "any")))
    match kind:
        case "lines":
            content = draw(st.sampled_from((b"\n", b"\r\n", b"\n\n", b"\r"))).join(map(dumped, rows))
        case "array":
            content = json.dumps(rows, indent=draw(st.sampled_from((None, 1)))).encode()
        case "text":
            content = draw(TEXT).encode(draw(st.sampled_from(("utf-8", "utf-16", "utf-32", "latin-1"))), "replace")
        case "parquet":
            content = draw(parquet_files(("text",)))
        case _:
            content = draw(st.binary(max_size=256))
    content = draw(mutated(st.just(content))) if draw(st.booleans()) else content
    content = draw(st.sampled_from((b"", b"", b"\xef\xbb\xbf", b"\xff\xfe", b"\x00"))) + content
    content = gzip.compress(content, mtime=0) if draw(st.integers(0, 4)) == 0 else content
    content = draw(mutated(st.just(content))) if draw(st.integers(0, 4)) == 0 else content
    return "a" + draw(st.sampled_from((*TEXT_SUFFIXES, ".JSONL", ".Parquet"))), content


COLUMNS: tuple[tuple[pa.DataType, st.SearchStrategy[Any]], ...] = (
    (pa.string(), st.text(max_size=20)),
    (pa.binary(), st.one_of(st.binary(max_size=40), SOUND_FILES)),
    (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    (pa.float64(), st.floats()),
    (pa.list_(pa.string()), st.lists(st.text(max_size=5), max_size=3)),
    (pa.list_(pa.float32()), st.lists(st.floats(width=32), max_size=5)),
    (
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        st.fixed_dictionaries({"bytes": st.none() | SOUND_FILES, "path": st.none() | st.text(max_size=5)}),
    ),
    (
        pa.struct([("array", pa.list_(pa.float64())), ("sampling_rate", pa.int64())]),
        st.fixed_dictionaries({"array": st.lists(st.floats(), max_size=5), "sampling_rate": st.integers(-5, 10**6)}),
    ),
    (pa.timestamp("us"), st.integers(0, 10**15)),
    (pa.null(), st.none()),
)


@st.composite
def parquet_files(draw: st.DrawFn, names: tuple[str, ...]) -> bytes:
    """A table with most of the columns, of any type."""
    rows = draw(st.integers(0, 3))
    columns = {}
    for name in names:
        if draw(st.integers(0, 9)) == 0:
            continue
        kind, values = draw(st.sampled_from(COLUMNS))
        cells = draw(st.lists(st.none() | values, min_size=rows, max_size=rows))
        columns[name] = pa.array(cells, kind)
    file = io.BytesIO()
    pq.write_table(pa.table(columns or {"other": pa.array([1] * rows, pa.int64())}), file)
    return file.getvalue()


@contextmanager
def laid_out(files: Mapping[str, bytes]) -> Iterator[Path]:
    """A folder with these files."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        yield Path(folder)


def documents(given: tuple[str, bytes]) -> None:
    """Every document of a file is one, or says why it is none."""
    name, content = given
    with laid_out({name: content}) as folder, read_or_refused():
        for raw in read_documents(str(folder / name), "text"):
            assert raw.place and (raw.text is None) == bool(raw.reason)
            found = to_document(raw, 1, 50, 0.1, 0.1)
            if isinstance(found, TextDocument):
                assert found.text.encode() and found.sentences
            else:
                one_line(found)


def near(columns: tuple[str, ...]) -> st.SearchStrategy[Any]:
    """Rows that nearly have these columns."""
    whole = {column: st.one_of(TEXT, TEXT, VALUES) for column in columns}
    return st.one_of(VALUES, st.fixed_dictionaries({}, optional=whole), st.fixed_dictionaries(whole))


SWAG = near(SWAG_COLUMNS).map(
    lambda row: row | {"gold-source": "gold"} if isinstance(row, dict) and "gold-source" in row else row
)
LABELLED = st.builds(
    lambda row, label: row | {"label": label} if isinstance(row, dict) else row,
    SWAG,
    st.one_of(st.integers(-1, 4), st.booleans(), st.floats(), SCALARS),
)


def pairs(given: tuple[list[Any], list[Any]]) -> None:
    """SWAG's rows and SpokenSwag's: each is a pair, is left out, or has a reason."""
    swag, spoken = given
    settings = PreferencesSettings()
    with read_or_refused():
        found = [from_swag(swag, settings)]
        mapped = [(f"a:{n}", row) for n, row in enumerate(spoken) if isinstance(row, dict)]
        found.append(from_spoken_swag(mapped, settings))
        for one in found:
            for _, reason in one.quarantined:
                one_line(reason)
            for pair in one.pairs:
                for text in (pair.prompt, pair.chosen, pair.rejected):
                    assert text.encode() and text == text.strip()


ENTITY = b"<!DOCTYPE a [<!ENTITY b 'c'>]>"
XML = st.sampled_from(
    (
        *(b"<article><s>", b"</s></article>", b"<s>", b"</s>", b"<t>a</t>", b"<t>", b"</t>", b"&#0;", b"&b;", ENTITY),
        *(b"<n start='1' end='2'/>", b"<n start='x'/>", b"<n pronunciation='a' start='5' end='4'/>"),
    )
)
STM = st.one_of(
    st.text(max_size=40),
    st.builds("{} 1 {} {} {} <o,f0,male> {}".format, st.text(max_size=4), st.text(max_size=4), SCALARS, SCALARS, TEXT),
)
ACTIVITY = st.one_of(
    VALUES,
    st.fixed_dictionaries({"voice_activity": st.lists(st.lists(st.one_of(st.floats(), st.integers()), max_size=3))}),
)
GOLD_HEADS = (
    ("id", "filename", "voice", "type", "subtype", "correct", "transcription"),
    ("id", "filename", "voice", "frequency", "word", "phones", "correct"),
)


def tables(sign: str, heads: tuple[tuple[str, ...], ...], cells: tuple[str, ...]) -> st.SearchStrategy[bytes]:
    """Lines of cells, the first of which mostly names the columns."""
    row = st.lists(st.sampled_from(cells) | TEXT, max_size=8).map(tuple)
    lines = st.builds(lambda head, rows: [head, *rows], st.sampled_from(heads) | row, st.lists(row, max_size=3))
    return lines.map(lambda rows: "\n".join(map(sign.join, rows)).encode("utf-8", "surrogatepass"))


TEXTS: dict[str, st.SearchStrategy[bytes]] = {
    ".trans.txt": st.lists(st.builds("{} {}".format, st.sampled_from(("a", "b", "")), TEXT)).map(
        lambda lines: "\n".join(lines).encode("utf-8", "surrogatepass")
    ),
    ".json": ACTIVITY.map(dumped),
    ".swc": st.lists(XML, max_size=12).map(b"".join),
    ".stm": st.lists(STM, max_size=4).map(lambda lines: "\n".join(lines).encode("utf-8", "surrogatepass")),
    ".tsv": tables("\t", (("id", "raw_text", "normalized_text"),), ("a", "b", "")),
    ".parquet": parquet_files(("audio", "text", "normalized_text", "aligned_text")),
    ".csv": tables(",", GOLD_HEADS, ("a.wav", "b", "1", "0", "sp1")),
}
LAYOUTS = {
    "librispeech": ("train-clean/1/2/a.flac", "train-clean/1/2/1-2.trans.txt", "x/a.flac", "dev-clean/a.parquet"),
    "librilight": ("small/1/2/a.flac", "small/1/2/a.json", "small/1/a_0001.flac", "b.wav", "b.json"),
    "swc": ("english/A/aligned.swc", "english/A/audio.ogg", "english/A/audio2.ogg", "german/B/aligned.swc"),
    "tedlium": ("data/stm/a.stm", "data/sph/a.sph", "legacy/dev/stm/b.stm", "legacy/dev/sph/b.sph", "stm/c.stm"),
    "peoples_speech": ("train/a.parquet", "b.parquet"),
    "voxpopuli": (
        "transcribed_data/en/asr_train.tsv",
        "transcribed_data/en/2009/a.ogg",
        "unlabelled_data/en/b.ogg",
        "en/a.parquet",
    ),
    "stinystories": ("train/a.parquet", "b.parquet"),
}
SET_LAYOUTS = {
    "sblimp": (GOLD, "a.wav", "b.wav", "1.wav"),
    "swuggy": (GOLD, "a.wav", "b.wav"),
    "ssc": ("1_correct.wav", "1_incorrect.wav", "s/2_correct.wav", "a.parquet"),
    "tsc": ("1_correct.wav", "1_incorrect.wav", "b.parquet"),
    "salmon": (
        f"{min(SALMON_PARTS)}/sample_0_0.wav",
        f"{min(SALMON_PARTS)}/sample_0_1.wav",
        f"{max(SALMON_PARTS)}/a.parquet",
        "x/a.wav",
    ),
}


@st.composite
def layouts(draw: st.DrawFn, known: Mapping[str, tuple[str, ...]]) -> tuple[str, dict[str, bytes]]:
    """A corpus or a set, and files where it has them: texts near to its own, sounds, or any bytes."""
    name = draw(st.sampled_from(sorted(known)))
    files = {}
    for path in draw(st.lists(st.sampled_from(known[name]), min_size=1, unique=True)):
        own = next((made for suffix, made in TEXTS.items() if path.endswith(suffix)), SOUND_FILES)
        made = draw(st.sampled_from(("own", "own", "mutated", "any")))
        content = {"own": own, "mutated": mutated(own), "any": st.binary(max_size=64)}[made]
        files[path] = draw(content)
    return name, files


@cache
def listen() -> Listen:
    return Listen()


def heard(recordings: Sequence[Recording]) -> None:
    """Some recordings, as the actor of a shard reads them: each is a sound, or has a reason."""
    for recording in recordings[:3]:
        if recording.reason:
            one_line(recording.reason)
        sound = listen()._load(recording)
        assert bool(sound.reason) != bool(len(sound.pcm))
        if sound.reason:
            one_line(sound.reason)
        else:
            to_table([sound], type(sound))


def corpora(given: tuple[str, dict[str, bytes]]) -> None:
    """A published corpus lists recordings that a stage can write, or says one line."""
    name, files = given
    with laid_out(files) as folder, read_or_refused():
        listing = listed(name, folder)
        assert to_table(listing.recordings, Recording).num_rows == len(listing.recordings)
        heard(listing.recordings)


def sets(given: tuple[str, dict[str, bytes]]) -> None:
    """A published test set is read whole, or says one line."""
    name, files = given
    with laid_out(files) as folder, read_or_refused():
        found = read_set(name, folder)
        assert found.pairs and to_table(found.recordings, Recording).num_rows == len(found.recordings)
        heard(found.recordings)


def mappings(content: bytes) -> None:
    """A configuration is a mapping, or says one line."""
    with laid_out({"config.json": content}) as folder, read_or_refused():
        assert isinstance(read_mapping(folder / "config.json"), dict)


KEYS = [
    *(
        f"{group}.{key}"
        for group in ("corpus", "speech", "pack", "dpo", "pretrain", "compute")
        for key in Recipe.model_fields[group].annotation.model_fields
    ),
    "root",
    "name",
]  # type: ignore[union-attr]
WORDS = st.lists(
    st.one_of(st.builds("{}={}".format, st.sampled_from(KEYS), st.one_of(TEXT, SCALARS, VALUES.map(repr))), TEXT),
    max_size=3,
)


def words(given: list[str]) -> None:
    """A command's words make a recipe, or say one line."""
    with read_or_refused():
        assert isinstance(load_recipe(given), Recipe)


def some(rows: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(rows, max_size=3)


CUTS = st.just([]) | st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=2)
PROPERTIES = {
    "front ends read": Property(TEXT, speech_of(reads_american), 150),
    "british front ends read": Property(TEXT, speech_of(reads_british), 50),
    "a voice speaks": Property(TEXT, speech_of(speaks), 6),
    "sounds are heard": Property(st.tuples(ANY_SOUND, CUTS, st.booleans()), hears, 200),
    "documents are read": Property(row_files(), documents, 120),
    "pairs are made": Property(
        st.tuples(st.lists(LABELLED, max_size=3), st.lists(near(SPOKEN_COLUMNS), max_size=3)), pairs, 60
    ),
    "corpora are listed": Property(layouts(LAYOUTS), corpora, 60),
    "sets are read": Property(layouts(SET_LAYOUTS), sets, 60),
    "configurations are read": Property(
        st.one_of(VALUES.map(dumped), mutated(VALUES.map(dumped)), st.binary()), mappings, 50
    ),
    "words are understood": Property(WORDS, words, 40),
}
assert LAYOUTS.keys() == CORPORA.keys() and {name.partition("-")[0] for name in SET_LAYOUTS} <= KINDS.keys()
assert set(ENDINGS) <= set(SWAG_COLUMNS) and os.name == "posix"
