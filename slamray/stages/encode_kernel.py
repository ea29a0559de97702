"""Kernel that turns a shard's audio into units on disk. Apart from those that make audio: they need no transformers."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import soundfile
import torch

from slamray.config.base import asset_path
from slamray.config.speech import EncoderSettings
from slamray.speech.encoders.hubert import RATE_HZ, HubertEncoder
from slamray.speech.encoders.kmeans import Quantiser, deduplicate, load_centroids
from slamray.stage import store, tables
from slamray.stage.tables import SAMPLES, SHARDS

_SPAN = pa.struct([("text", pa.string()), ("start_frame", pa.uint32()), ("end_frame", pa.uint32())])
SCHEMA = pa.schema(
    [
        ("utterance_id", pa.string()),
        ("units", pa.list_(pa.uint16())),  # deduplicated
        ("durations", pa.list_(pa.uint16())),  # frames of each unit
        ("sentences", pa.list_(_SPAN)),
        ("words", pa.list_(_SPAN)),
        ("speaker", pa.string()),
        ("seconds", pa.float32()),
    ]
)


def open_encoder(config: EncoderSettings, device: str) -> tuple[HubertEncoder, Quantiser]:
    """What turns audio into features, and features into units."""
    dtype = torch.bfloat16 if config.dtype == "bfloat16" else torch.float32
    encoder = HubertEncoder(
        asset_path(config.model), config.layer, device, dtype, pad_samples=config.pad_samples, revision=config.revision
    )
    return encoder, Quantiser(load_centroids(Path(asset_path(config.centroids))), device)


class Encode:
    """Kernel: a shard's audio to units on disk; returns counts only."""

    def __init__(self, encoder: dict[str, Any], batch_seconds: float, device: str) -> None:
        torch.set_num_threads(1)
        self._encoder, self._quantiser = open_encoder(EncoderSettings(**encoder), device)
        self._batch_seconds = batch_seconds

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        about = json.loads(row["about"])
        audios = [np.frombuffer(pcm, np.int16).astype(np.float32) / 32768 for pcm in row["audio"]]
        shortest = self._encoder.min_samples
        for audio, facts in zip(audios, about, strict=True):
            if not facts["reason"] and len(audio) < shortest:
                facts["reason"] = f"{len(audio) / RATE_HZ:.3f} s of audio, shorter than one frame"
        good = [i for i, facts in enumerate(about) if not facts["reason"]]
        feats = self._features(audios, good)
        rows = [self._to_row(about[i], audios[i], feats[i]) for i in good]
        bad = [{"id": facts["utterance_id"], "reason": facts["reason"]} for facts in about if facts["reason"]]
        out, name = Path(row["out"]), f"shard-{row['shard']:06d}"
        tables.write_quarantine(out, bad, name)
        for i in good[: max(0, row["samples"] - row["shard"] * len(about))]:
            _write_flac(out / SAMPLES / f"{about[i]['utterance_id']}.flac", audios[i])
        # Last: the shard is done when this file is there.
        tables.write_table(out / SHARDS / f"{name}.parquet", pa.Table.from_pylist(rows, SCHEMA))
        return {"shard": row["shard"], "seconds": float(sum(r["seconds"] for r in rows))}

    def _features(self, audios: list[np.ndarray], good: list[int]) -> dict[int, np.ndarray]:
        """Features of the good recordings, in batches of like lengths bounded by their padded seconds."""
        feats: dict[int, np.ndarray] = {}
        batch: list[int] = []
        for i in sorted(good, key=lambda i: len(audios[i])):  # so the last one is the longest
            if batch and (len(batch) + 1) * len(audios[i]) > self._batch_seconds * RATE_HZ:
                feats |= zip(batch, self._encoder([audios[j] for j in batch]), strict=True)
                batch = []
            batch.append(i)
        return feats | dict(zip(batch, self._encoder([audios[j] for j in batch]), strict=True)) if batch else feats

    def _to_row(self, about: dict[str, Any], audio: np.ndarray, feats_TD: np.ndarray) -> dict[str, Any]:
        units, durations = deduplicate(self._quantiser.assign(feats_TD))
        return {
            "utterance_id": about["utterance_id"], "units": units, "durations": durations, "speaker": about["speaker"],
            "sentences": self._in_frames(about["sentences"], len(feats_TD)),
            "words": self._in_frames(about["words"], len(feats_TD)), "seconds": len(audio) / RATE_HZ,
        }  # fmt: skip

    def _in_frames(self, spans: list[dict[str, Any]], frames: int) -> list[dict[str, Any]]:
        """Seconds to frames: a frame belongs to the span that holds its centre."""
        rate_hz = self._encoder.rate_hz

        def edge(seconds: float) -> int:
            return min(frames, max(0, round(seconds * rate_hz)))

        return [
            {"text": s["text"], "start_frame": edge(s["start_seconds"]), "end_frame": edge(s["end_seconds"])}
            for s in spans
        ]


def _write_flac(path: Path, audio: np.ndarray) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, audio, RATE_HZ, format="FLAC")
    store.write_atomic(path, buffer.getvalue())
