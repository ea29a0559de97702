"""Kernels that make a shard's audio: speak text, read recordings. They know rows and files, not Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from slamray.config.speech import TtsSettings
from slamray.data.ids import row_seed
from slamray.data.item_pairs import Utterance
from slamray.data.recordings import Recording
from slamray.data.text import TextDocument, long_word
from slamray.errors import BadInput
from slamray.given import reason_of
from slamray.speech.audio import FULL_SCALE, RATE_HZ, as_heard, load_audio, to_pcm
from slamray.speech.spans import Span
from slamray.speech.voices.base import PhonemeVoice
from slamray.speech.voices.table import load_voice
from slamray.stage.parts import RowReader
from slamray.stage.records import from_table
from slamray.stages.shards import Shard
from slamray.stages.speak_and_listen import ShardOfSound, Sound

TOLD = 60  # characters of a text that a reason begins with, so that the row is found


class Speak:
    """Kernel: a shard of utterances to their audio. An utterance with no sound carries its reason."""

    def __init__(self, tts: TtsSettings) -> None:
        one_thread()
        self._tts = tts
        self._voice, self._reader = load_voice(tts), RowReader()

    def __call__(self, shard: Shard) -> ShardOfSound:
        if shard.is_done:
            return ShardOfSound(shard, ())
        return ShardOfSound(shard, tuple(self.speak(*asked) for asked in self._requests(shard)))

    def _requests(self, shard: Shard) -> list[tuple[Utterance, str]]:
        """Utterances with the split that they are of; a document of the corpus is spoken as it is."""
        rows = self._reader.read(shard.requests)
        if "doc_id" not in rows.column_names:
            return [(utterance, "") for utterance in from_table(rows, Utterance)]
        documents = from_table(rows, TextDocument)
        return [(Utterance(document.doc_id, document.sentences, None), document.split) for document in documents]

    def speak(self, utterance: Utterance, split: str = "") -> Sound:
        """The utterance's audio and spans; its noise depends on its id alone."""
        speaker = self._tts.backend + (f":{utterance.voice}" if utterance.voice else "")
        seed = row_seed(self._tts.seed, utterance.noise_id or utterance.utterance_id)
        try:
            if utterance.phonemes is not None:
                assert isinstance(self._voice, PhonemeVoice), "recipe/check.py refuses word tests for other voices"
                speech = self._voice.speak_phonemes(utterance.phonemes, seed, utterance.voice)
            else:
                if reason := long_word(" ".join(utterance.sentences or ())):
                    raise BadInput(reason)
                speech = self._voice.speak(utterance.sentences or (), seed, utterance.voice)
            audio = as_heard(speech.audio[:, None], speech.rate_hz, RATE_HZ, "what the voice said")
        except (
            Exception
        ) as error:  # of any voice over any text: it costs this row, and the share of such rows is bounded
            said = utterance.phonemes or " ".join(utterance.sentences or ())
            return Sound(utterance.utterance_id, speaker, reason_of_row(error, f"{said[:TOLD]!r}: the voice"))
        return Sound(
            utterance.utterance_id,
            speaker,
            split=split,
            pcm=to_pcm(audio),
            sentences=tuple(speech.sentences),
            words=tuple(speech.words),
            phones=tuple(speech.phones),
        )


class Listen:
    """Kernel: a shard of recordings to their audio. One that cannot be read carries its reason."""

    def __init__(self) -> None:
        one_thread()
        self._parquet, self._reader = ParquetRows(), RowReader()

    def __call__(self, shard: Shard) -> ShardOfSound:
        if shard.is_done:
            return ShardOfSound(shard, ())
        recordings = from_table(self._reader.read(shard.requests), Recording)
        return ShardOfSound(shard, tuple(self._load(recording) for recording in recordings))

    def _load(self, recording: Recording) -> Sound:
        if recording.reason:
            return Sound(recording.utterance_id, "", recording.reason)
        try:
            audio, text, words = self._read(recording)
        except Exception as error:  # of any library over any file; see Speak
            return Sound(recording.utterance_id, "", reason_of_row(error, recording.path))
        sentences = (Span(text, 0.0, len(audio) / RATE_HZ),) if text else ()
        aligned = tuple(Span(*word) for word in words)
        return Sound(recording.utterance_id, "", "", recording.split, to_pcm(audio), sentences, aligned)

    def _read(self, recording: Recording) -> tuple[np.ndarray, str, Sequence[tuple[str, float, float]]]:
        """Audio, text and word times, as far as there are any."""
        if recording.parquet_row is None:
            audio = _file(recording.path, recording.cuts)
            if recording.after:
                audio = np.concatenate([_file(recording.after, ()), audio])
            return audio, recording.text, recording.words
        name = f"{recording.path}: row {recording.parquet_row}"
        columns = tuple(c for c in (recording.column, recording.text_column, recording.words_column) if c)
        row = self._parquet.read(recording.path, recording.parquet_row, columns)
        audio = _sound_of(row[recording.column], recording, name)
        text = row.get(recording.text_column) or ""
        if not isinstance(text, str):
            raise BadInput(f"{name}: what column {recording.text_column} holds is no text")
        return audio, text, _words_of(row.get(recording.words_column), name)


def _file(path: str, cuts: Sequence[tuple[float, float]]) -> np.ndarray:
    with fsspec.open(path, "rb") as file:
        return load_audio(file, RATE_HZ, cuts, path)


def reason_of_row(error: Exception, at_fault: str) -> str:
    """Why a row has no sound: what a reader of ours says, or what a library raised over the row and which that was.

    A GPU without memory is no fault of a row: the error goes on.
    """
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        raise error
    reason = reason_of(error)
    return reason if isinstance(error, BadInput) else f"{at_fault} failed over it ({reason})"


def _sound_of(value: Any, recording: Recording, name: str) -> np.ndarray:
    """The sound of a cell of Parquet: the bytes of an audio file, by themselves or as {bytes, path}, or its samples."""
    content = value.get("bytes") if isinstance(value, Mapping) else value
    if isinstance(content, bytes) and content:
        return load_audio(content, RATE_HZ, recording.cuts, name)
    beside = Path(recording.path).parent / str(value.get("path") or "") if isinstance(value, Mapping) else None
    if beside is not None and beside.is_file():  # what it names, where the table holds no bytes
        return load_audio(beside, RATE_HZ, recording.cuts)
    samples, rate_hz = (value.get("array"), value.get("sampling_rate")) if isinstance(value, Mapping) else (None, None)
    if samples is None or rate_hz is None:
        raise BadInput(f"{name} holds no audio bytes in column {recording.column}")
    array = np.asarray(samples)
    if array.dtype == object or array.ndim not in (1, 2) or array.dtype.kind not in "fiu":
        raise BadInput(f"{name}: what column {recording.column} holds are no samples of a sound")
    scale = 1.0 if array.dtype.kind == "f" else float(FULL_SCALE)  # whole numbers are of 16 bits
    channels_LC = array[:, None] if array.ndim == 1 else array if len(array) > array.shape[1] else array.T
    return as_heard((channels_LC / scale).astype(np.float32), int(rate_hz), RATE_HZ, name)


def one_thread() -> None:
    """An actor has one core, whatever torch would take."""
    import torch

    torch.set_num_threads(1)


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
