"""How fast the machines of a run are and what they cost: what `--plan` counts with, never part of a fingerprint."""

from __future__ import annotations

from pydantic import Field

from slamray.config.base import Settings

RATES = "rates.json"  # below the root: what jobs/calibrate.py has measured


def _rate(description: str) -> float | None:
    found: float | None = Field(None, gt=0, description=description)
    return found


class Rates(Settings):
    """Measured by jobs/calibrate.py, which leaves them in rates.json below the root; a word goes before the file."""

    speak: float | None = _rate("seconds of speech that one core makes in a second")
    encode: float | None = _rate("seconds of audio that one core, or encoder actor on a GPU, encodes in a second")
    document_seconds: float | None = _rate("seconds of speech of a document")
    sentence_seconds: float | None = _rate("seconds of speech of a sentence")
    spoken_units: float | None = _rate("units a second that one actor's text-to-token model makes of text")
    flops: float | None = _rate("6 N FLOPs a second of one worker of pre-training, N its parameters")
    pairs: float | None = _rate("preference pairs a second of one worker of DPO")
    scored: float | None = _rate("test pairs a second of one actor that scores")
    disk_mb: float | None = _rate("MB a second that the disk of root takes")
    shards: float | None = _rate("shards a second that the driver hands out, whatever they cost")
    driver_mb: float | None = _rate("memory of the driver in MB, where nothing is counted that grows with the corpus")
    speech_mb: float | None = _rate("most memory of an actor that speaks and encodes, MB")
    training_mb: float | None = _rate("most memory of a training worker's process, MB; on a GPU without the device's")
    scoring_mb: float | None = _rate("most memory of an actor that scores, MB; on a GPU without the device's")


class Prices(Settings):
    """In whatever currency; what has no price is not counted."""

    core_hour: float | None = Field(None, ge=0, description="of one CPU core for an hour")
    gpu_hour: float | None = Field(None, ge=0, description="of one GPU for an hour")
    gb_month: float | None = Field(None, ge=0, description="of a GB that is kept for a month")
    thousand_requests: float | None = Field(None, ge=0, description="of a thousand requests to an object store")
