"""Stand-ins for recordings on a machine that has none: sentences in random order, spoken by a voice, as flac files.

`plain` holds the voice as it is; in `diverse` each recording is resampled to another speed and pitch (the speed
perturbation of Ko et al. 2015) and has white noise. Real recordings differ in far more. study_data_laptop uses them.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from slamray import store
from slamray.config.corpora import TEXT_SUFFIXES, CorpusSettings
from slamray.config.listing import find_files
from slamray.config.speech import TtsSettings
from slamray.data.text import read_documents, to_document
from slamray.errors import BadInput
from slamray.speech.audio import RATE_HZ, resample, to_flac
from slamray.speech.voices.base import Voice
from slamray.speech.voices.table import load_voice

RECORDINGS = 240  # in each folder, about an hour; chosen, not tuned
SENTENCES = 5  # in a recording, about 15 s, as in LibriSpeech; chosen, not tuned
SPEEDS = tuple(percent / 100 for percent in range(80, 126, 5))  # chosen, not tuned
NOISE_DB = (15.0, 40.0)  # signal to noise; chosen, not tuned


def main(words: Sequence[str]) -> int:
    """Write `FOLDER/plain` and `FOLDER/diverse`."""
    if len(words) != 1 or not words[0].strip():
        sys.stderr.write("error: give one folder\n")
        return 2
    try:
        store.check_folder(Path(words[0]), "FOLDER")
        count = write_stand_ins(Path(words[0]), load_voice(TtsSettings()), RECORDINGS)
        print(f"{count} recordings in {words[0]}")
    except BadInput as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def write_stand_ins(folder: Path, voice: Voice, recordings: int) -> int:
    """Write the recordings of each kind (16 kHz, 16 bit) that are not there yet; returns how many there are."""
    sentences = training_sentences(CorpusSettings())
    for kind in ("plain", "diverse"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for number in range(recordings):
            path = folder / kind / f"{kind}-{number:05d}.flac"
            if path.exists():
                continue
            seed = int.from_bytes(hashlib.sha256(path.name.encode()).digest()[:8], "little")
            rng = np.random.default_rng(seed)
            said = [sentences[i] for i in rng.integers(len(sentences), size=SENTENCES)]
            speech = voice.speak(said, int(rng.integers(2**31)))
            if kind == "diverse":
                audio = perturb(speech.audio, speech.rate_hz, rng)
            else:
                audio = resample(speech.audio, speech.rate_hz, RATE_HZ)
            store.write_atomic(path, to_flac(audio))
    return 2 * recordings


def training_sentences(config: CorpusSettings) -> list[str]:
    """The sentences of all training documents; test items come from other documents."""
    return [sentence for document in _documents(config) for sentence in document]


def _documents(config: CorpusSettings) -> Iterator[tuple[str, ...]]:
    for file in find_files(config.paths, "corpus.paths", TEXT_SUFFIXES):
        for raw in read_documents(file.path, config.text_column):
            found = to_document(
                raw, config.min_words, config.max_words, config.validation_share, config.evaluation_share
            )
            if not isinstance(found, str) and found.split == "train":
                yield found.sentences


def perturb(audio: np.ndarray, rate_hz: int, rng: np.random.Generator) -> np.ndarray:
    """Another speed and pitch (both by the factor drawn), and white noise; 16 kHz."""
    faster = resample(audio, round(rate_hz * rng.choice(SPEEDS) / 100) * 100, RATE_HZ)  # round rates: a short filter
    power = float(np.mean(faster**2))
    noise = rng.standard_normal(len(faster)).astype(np.float32)
    return faster + noise * np.float32(np.sqrt(power * 10 ** (-rng.uniform(*NOISE_DB) / 10)))
