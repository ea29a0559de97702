"""Kernels that make a shard's audio: speak text, read recordings. They know rows and files, not Ray."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from slamray.config.speech import TtsSettings
from slamray.data.items import Utterance
from slamray.data.recordings import Recording
from slamray.errors import BadInput
from slamray.speech.audio import load_audio, resample
from slamray.speech.voices.table import load_synthesiser

RATE_HZ = 16_000  # what every HuBERT hears


class Speak:
    """Kernel: a shard of utterances to their audio, 16-bit at 16 kHz. An utterance with no sound carries its reason."""

    def __init__(self, tts: dict[str, Any], phones: bool = False) -> None:
        torch.set_num_threads(1)
        self._phones = phones
        self._config = TtsSettings(**tts)
        self._synthesiser = load_synthesiser(self._config)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        spoken = [self._speak(Utterance(**u)) for u in json.loads(row["utterances"])]
        return row | {
            "audio": [audio for audio, _ in spoken],
            "about": json.dumps([about for _, about in spoken]),
        }

    def _speak(self, utterance: Utterance) -> tuple[bytes, dict[str, Any]]:
        speaker = self._config.backend + (f":{utterance.voice}" if utterance.voice else "")
        about: dict[str, Any] = {"utterance_id": utterance.utterance_id, "speaker": speaker, "reason": ""}
        seed = row_seed(self._config.seed, utterance.noise_id or utterance.utterance_id)
        try:
            if utterance.phonemes is not None:
                speech = self._synthesiser.speak_phonemes(utterance.phonemes, seed, utterance.voice)
            else:
                speech = self._synthesiser.speak(utterance.sentences or (), seed, utterance.voice)
        except BadInput as error:
            return b"", about | {"reason": str(error)}
        audio = resample(speech.audio, speech.rate_hz, RATE_HZ)
        about["sentences"] = [asdict(span) for span in speech.sentences]
        about["words"] = [asdict(span) for span in speech.words]
        if self._phones:
            about["phones"] = [asdict(span) for span in speech.phones]
        return _to_pcm(audio), about


class Listen:
    """Kernel: a shard of recordings to their audio, 16-bit at 16 kHz. One that cannot be read carries its reason."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self._parquet = ParquetRows()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        heard = [self._load(Recording(**recording)) for recording in json.loads(row["utterances"])]
        return row | {"audio": [a for a, _ in heard], "about": json.dumps([b for _, b in heard])}

    def _load(self, recording: Recording) -> tuple[bytes, dict[str, Any]]:
        about: dict[str, Any] = {"utterance_id": recording.utterance_id, "speaker": "", "sentences": [], "words": []}
        if recording.reason:
            return b"", about | {"reason": recording.reason}
        try:
            audio, text, words = self._read(recording)
        except (BadInput, OSError) as error:
            return b"", about | {"reason": str(error).splitlines()[0]}
        if text:
            about["sentences"] = [{"text": text, "start_seconds": 0.0, "end_seconds": len(audio) / RATE_HZ}]
        about["words"] = [{"text": word, "start_seconds": start, "end_seconds": end} for word, start, end in words]
        return _to_pcm(audio), about | {"reason": ""}

    def _read(self, recording: Recording) -> tuple[np.ndarray, str, Sequence[tuple[str, float, float]]]:
        """Audio, text and word times, as far as there are any."""
        if recording.parquet_row is None:
            with fsspec.open(recording.path, "rb") as file:
                audio = load_audio(file, RATE_HZ, recording.cuts, recording.path)
            return audio, recording.text, recording.words
        name = f"{recording.path}: row {recording.parquet_row}"
        columns = tuple(c for c in (recording.column, recording.text_column, recording.words_column) if c)
        row = self._parquet.read(recording.path, recording.parquet_row, columns)
        content = (row[recording.column] or {}).get("bytes")
        if not content:
            raise BadInput(f"{name} holds no audio bytes in column {recording.column}")
        audio = load_audio(content, RATE_HZ, recording.cuts, name)
        return audio, row.get(recording.text_column) or "", _words_of(row.get(recording.words_column), name)


def row_seed(seed: int, row_id: str) -> int:
    """A seed for one row, so that neither order nor number of workers changes what is drawn for it."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{row_id}".encode()).digest()[:4], "big")


class ParquetRows:
    """Rows of Parquet files, local or at any path fsspec opens.

    Keeps the row group that was read last: rows come in order, and a group is the least that can be read.
    """

    def __init__(self) -> None:
        self._key: tuple[str, tuple[str, ...]] = ("", ())
        self._first, self._rows = 0, pa.table({})

    def read(self, path: str, row: int, columns: tuple[str, ...]) -> dict[str, Any]:
        """The given columns of one row; audio is {bytes, path}, as Hugging Face stores it."""
        if self._key != (path, columns) or not self._first <= row < self._first + len(self._rows):
            with fsspec.open(path, "rb") as opened:
                file, first, group = pq.ParquetFile(opened), 0, 0
                while row >= first + file.metadata.row_group(group).num_rows:
                    first += file.metadata.row_group(group).num_rows
                    group += 1
                self._key, self._first = (path, columns), first
                self._rows = file.read_row_group(group, columns=list(columns))
        found: dict[str, Any] = self._rows.slice(row - self._first, 1).to_pylist()[0]
        return found


def _words_of(aligned: list[dict[str, Any]] | None, name: str) -> list[tuple[str, float, float]]:
    """sTinyStories' aligned_text: [{word, start_time, end_time}], seconds. BadInput when it is something else."""
    try:
        return [(str(a["word"]), float(a["start_time"]), float(a["end_time"])) for a in aligned or ()]
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{name}: its word times are not of the form word, start_time, end_time") from error


def _to_pcm(audio: np.ndarray) -> bytes:
    return (np.clip(audio, -1, 32767 / 32768) * 32768).astype(np.int16).tobytes()
