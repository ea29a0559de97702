"""Kernel that turns a shard's audio into units on disk. Apart from those that make audio: it needs no voice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from slamray.config.speech import EncoderSettings
from slamray.speech.audio import RATE_HZ, from_pcm, to_flac
from slamray.speech.encoders.kmeans import deduplicate
from slamray.speech.encoders.table import open_encoder
from slamray.speech.spans import Span
from slamray.stage.tables import SAMPLES
from slamray.stage.work import Pool
from slamray.stages.shards import SCHEMA, Shard, ShardDone, write_shard
from slamray.stages.speak_and_listen import ShardOfSound, Sound
from slamray.stages.speech_kernels import one_thread, reason_of_row


class Encode:
    """Kernel: a shard's audio to units on disk."""

    def __init__(self, encoder: EncoderSettings, batch_seconds: float, device: str) -> None:
        one_thread()
        self._encoder, self._batch_seconds = open_encoder(encoder, device), batch_seconds

    def __call__(self, row: ShardOfSound) -> ShardDone:
        if row.shard.is_done:  # an actor that died had made it, and another does all that it was sent again
            return ShardDone(row.shard.number, 0.0)
        sounds = [self._checked(sound) for sound in row.sounds]
        sounds, units = self._encoded(sounds)
        good = [sound for sound in sounds if not sound.reason]
        audios = [from_pcm(sound.pcm) for sound in good]
        rows = [self._to_row(*parts) for parts in zip(good, audios, units, strict=True)]
        self._write(row.shard, sounds, rows)
        return ShardDone(row.shard.number, float(sum(len(audio) for audio in audios)) / RATE_HZ)

    def _encoded(self, sounds: list[Sound]) -> tuple[list[Sound], list[np.ndarray]]:
        """The units of all sounds that have no reason against them, and the sounds.

        Where the encoder fails over a batch, each sound is encoded by itself, so that it costs those alone that it
        fails over.
        """
        good = [sound for sound in sounds if not sound.reason]
        try:
            return sounds, self._encoder([from_pcm(sound.pcm) for sound in good], self._batch_seconds)
        except Exception as error:  # of any encoder over any sound
            reason = reason_of_row(error, "the encoder")
            if len(good) == 1:
                return [one if one.reason else replace(one, reason=reason) for one in sounds], []
        tried, units = [], []
        for sound in sounds:
            (kept,), own = ([sound], []) if sound.reason else self._encoded([sound])
            tried.append(kept)
            units += own
        return tried, units

    def _checked(self, sound: Sound) -> Sound:
        samples = len(sound.pcm) // 2
        if sound.reason or samples >= self._encoder.min_samples:
            return sound
        return replace(sound, reason=f"{samples / RATE_HZ:.3f} s of audio, shorter than one frame")

    def _to_row(self, sound: Sound, audio: np.ndarray, unit_T: np.ndarray) -> dict[str, Any]:
        units, durations = deduplicate(unit_T)
        return {
            "utterance_id": sound.utterance_id,
            "split": sound.split,
            "units": units,
            "durations": durations,
            "sentences": self._in_frames(sound.sentences, len(unit_T)),
            "words": self._in_frames(sound.words, len(unit_T)),
            "speaker": sound.speaker,
            "seconds": len(audio) / RATE_HZ,
        }

    def _in_frames(self, spans: tuple[Span, ...], frames: int) -> list[dict[str, Any]]:
        """Seconds to frames: a frame belongs to the span that holds its centre."""

        def edge(seconds: float) -> int:
            return min(frames, max(0, round(seconds * self._encoder.rate_hz)))

        return [{"text": s.text, "start_frame": edge(s.start_seconds), "end_frame": edge(s.end_seconds)} for s in spans]

    def _write(self, shard: Shard, sounds: list[Sound], rows: list[dict[str, Any]]) -> None:
        bad = [{"id": sound.utterance_id, "reason": sound.reason} for sound in sounds if sound.reason]
        good = [sound for sound in sounds if not sound.reason]
        for sound in good[: shard.samples]:
            shard.folder.write(f"{SAMPLES}/{sound.utterance_id}.flac", to_flac(from_pcm(sound.pcm)))
        write_shard(shard, pa.Table.from_pylist(rows, SCHEMA), bad)


class MakeAndEncode:
    """Kernel: a shard from its requests to units on disk, both steps in one process.

    first: makes the audio; encoder: `Encode`. Their pools say how each is loaded, not how many actors there are.
    """

    def __init__(self, first: Pool, encoder: Pool) -> None:
        self._make, self._encode = first.load()[0], encoder.load()[0]

    def __call__(self, shard: Shard) -> ShardDone:
        done: ShardDone = self._encode(self._make(shard))
        return done
