"""Small test sets in the published layouts, spoken by the TTS, for the tests of evaluation."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

from slamray.config.speech import TtsSettings
from slamray.data.item_pairs import Utterance
from slamray.data.published_sets import SALMON_PARTS
from slamray.speech.audio import from_pcm
from slamray.stages.speech_kernels import Speak

RATE_HZ = 16_000
NOUNS = ("dog", "cat", "bird", "cow", "duck", "frog", "girl", "boy", "king", "bear")
VERBS = ("run", "sleep", "jump", "sing", "swim", "wait", "eat", "hide", "work", "dance")
WORDS = (("brick", "blick"), ("squalled", "squilled"), ("house", "hause"), ("table", "tible"), ("river", "rimmer"))
ENDINGS = (
    ("Tom saw a dog.", "The dog ran to him.", "The moon is a cheese."),
    ("Ann lost her hat.", "She found it at home.", "The car was very red."),
    ("It began to rain.", "We all got wet.", "He ate seven books."),
    ("The cat was hungry.", "She gave it some milk.", "They painted the train."),
    ("Ben fell asleep.", "He woke up late.", "The fish drove away."),
    ("Mum made a cake.", "We ate it all.", "The wall sang a song."),
)


def say(texts: Sequence[str]) -> dict[str, np.ndarray]:
    """float32 audio at 16 kHz of each text."""
    voice = Speak(TtsSettings())
    return {text: from_pcm(voice.speak(Utterance(text, (text,), None)).pcm) for text in texts}


def write(path: Path, audio: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio, RATE_HZ)


def write_gold(folder: Path, columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> None:
    with (folder / "gold.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(columns))
        writer.writeheader()
        writer.writerows(rows)


def write_sblimp(folder: Path) -> None:
    """200 pairs of two kinds in ZeroSpeech's layout: random names, rows in random order, one voice as in its test set.

    Subjects and verbs are spoken once each and joined: 400 sentences of 40 utterances.
    """
    subjects = [f"The {noun}{s}" for noun in NOUNS for s in ("", "s")]
    audio = say(subjects + [f"{verb}{s}" for verb in VERBS for s in ("", "s")])
    sides = []
    for number, (noun, verb) in enumerate((n, v) for n in NOUNS for v in VERBS):
        for subtype, subject, right, wrong in (("plural", f"The {noun}s", verb, f"{verb}s"),
                                               ("singular", f"The {noun}", f"{verb}s", verb)):  # fmt: skip
            sides += [(number, subtype, subject, word, correct) for word, correct in ((right, 1), (wrong, 0))]
    names = [f"{a}{b}{c}" for a in "abcdefgh" for b in "ijklmnop" for c in "qrstuvwx"]
    rows = []
    for name, (number, subtype, subject, word, correct) in zip(
        random.Random(0).sample(names, len(sides)), sides, strict=True
    ):
        write(folder / f"{name}.wav", np.concatenate([audio[subject], audio[word]]))
        rows.append({"id": number, "filename": name, "voice": "hibari", "type": f"agreement_{subtype}",
                     "subtype": subtype, "transcription": f"{subject} {word}.", "correct": correct})  # fmt: skip
    write_gold(folder, rows[0], random.Random(1).sample(rows, len(rows)))


def write_swuggy(folder: Path) -> None:
    """Five words in two voices, the second slower; the last word is out of the vocabulary."""
    audio = say([word for pair in WORDS for word in pair])
    rows = []
    for number, pair in enumerate(WORDS):
        for correct, word in ((1, pair[0]), (0, pair[1])):
            for voice, speed in (("A", 1.0), ("B", 0.9)):
                name = f"{word}{voice}"
                write(folder / f"{name}.wav", slower(audio[word], speed))
                frequency = "" if not correct else 0 if number == 4 else 7
                rows.append({"id": number, "filename": name, "voice": voice, "frequency": frequency, "word": word,
                             "phones": word, "length": 5, "correct": correct})  # fmt: skip
    write_gold(folder, rows[0], rows)


def write_stories(folder: Path) -> None:
    """Six stories in TWIST's layout: a number that runs over files, the story's id, the label."""
    audio = say([f"{a} {end}" for a, *ends in ENDINGS for end in ends])
    for number, (start, right, wrong) in enumerate(ENDINGS):
        story = f"{number:04x}-{start.split()[0].lower()}"
        write(folder / f"{2 * number}_{story}_correct.wav", audio[f"{start} {right}"])
        write(folder / f"{2 * number + 1}_{story}_incorrect.wav", audio[f"{start} {wrong}"])


def write_across(folder: Path, stories: int = len(ENDINGS)) -> None:
    """Stories in slamkit's cross-modal layout: sound and text of the prompt and of both endings, six files each."""
    audio = say([text for texts in ENDINGS[:stories] for text in texts])
    for number, texts in enumerate(ENDINGS[:stories]):
        for label, text in zip(("mutual", "correct", "incorrect"), texts, strict=True):
            write(folder / f"{number:04x}-story_{label}.wav", audio[text])
            (folder / f"{number:04x}-story_{label}.txt").write_text(f"{text}\n")


def write_salmon(folder: Path) -> None:
    """Three items in each of SALMon's eight parts: the end of a wrong one is of another speed."""
    texts = [f"{start} {end}" for start, end, _ in ENDINGS[:3]]
    audio = say(texts)
    for part in SALMON_PARTS:
        for number, text in enumerate(texts):
            half = len(audio[text]) // 2
            write(folder / part / f"sample_{number}_0.wav", audio[text])
            wrong = np.concatenate([audio[text][:half], slower(audio[text][half:], 0.7)])
            write(folder / part / f"sample_{number}_1.wav", wrong)


def to_hub(folder: Path, pairs: Mapping[str, Sequence[tuple[Path, Path]]], right: str, number: str) -> None:
    """The hub's layout: {part}/train-00000-of-00001.parquet, a row for each (right, wrong) pair of wav files."""
    for part, files in pairs.items():
        rows = [
            {
                number: i,
                right: {"bytes": _flac(a), "path": a.name},
                "negative_audio": {"bytes": _flac(b), "path": b.name},
            }
            for i, (a, b) in enumerate(files)
        ]
        (folder / part).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), folder / part / "train-00000-of-00001.parquet", row_group_size=2)


def slower(audio: np.ndarray, speed: float) -> np.ndarray:
    """The same at another speed and pitch, as another speaker would have."""
    places = np.arange(0, len(audio) - 1, speed)
    return np.interp(places, np.arange(len(audio)), audio).astype(np.float32)


def _flac(path: Path) -> bytes:
    audio, rate_hz = soundfile.read(path, dtype="float32")
    buffer = io.BytesIO()
    soundfile.write(buffer, audio, rate_hz, format="FLAC")
    return buffer.getvalue()
