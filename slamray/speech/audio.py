"""Audio: the rate that encoders hear, files to arrays, arrays to 16-bit samples and to files, resampling, windows.

torch is imported where something is resampled: whoever only reads files or writes samples does without it.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from slamray.errors import BadInput

RATE_HZ = 16_000  # what every HuBERT hears
FULL_SCALE = 32768  # of a 16-bit sample, which is 1.0

CUT_SECONDS = 0.5  # a cut may end this long after its file, as rounded and aligned ends do; chosen, not tuned
SILENCE = 1e-4  # peak of full scale 1 (-80 dB) under which a recording counts as silent; chosen, not tuned

# The line in libsndfile's log of a RIFF file whose data chunk ends early. 4294967295 is no such length: programs that
# write a stream put it there, as they do not know the length.
_TRUNCATED = re.compile(r"^data : (?!4294967295)\d+ \(should be", re.MULTILINE)


def load_audio(
    source: str | Path | bytes | BinaryIO,
    rate_hz: int = RATE_HZ,
    cuts: Sequence[tuple[float, float]] = (),
    name: str = "",
) -> np.ndarray:
    """Float32 mono samples at `rate_hz`: channels averaged, resampled. libsndfile reads it: wav flac mp3 ogg sph.

    cuts: (start, end) in seconds of the stretches that are read and joined; without any the whole file is read. name:
    what messages call bytes or an open file.
    BadInput when the source is not audio, is cut short, has no samples, is silent or holds values that are not finite,
    or when a cut lies outside it.
    """
    name = name or ("audio" if isinstance(source, bytes) else str(source))
    try:
        with soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
            cut_short, promised, found_hz = _TRUNCATED.search(file.extra_info), file.frames, file.samplerate
            exact = file.format != "MP3"  # whose header only estimates the number of frames
            if cuts:
                samples_LC = _read_cuts(file, cuts, name)
                promised = 0
            else:
                samples_LC = file.read(dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise BadInput(f"{name}: cannot be read as audio ({reason}); remove or replace it") from error
    if cut_short or (exact and len(samples_LC) < promised):
        raise BadInput(f"{name}: truncated after {len(samples_LC)} samples; remove or replace it")
    if len(samples_LC) == 0:
        raise BadInput(f"{name}: no samples; remove it")
    if not np.isfinite(samples_LC).all():
        raise BadInput(f"{name}: samples that are not finite; remove or replace it")
    if np.abs(samples_LC).max() < SILENCE:
        raise BadInput(f"{name}: silent, no sample above {SILENCE:g} of full scale; remove it")
    return resample(samples_LC.mean(1), found_hz, rate_hz)


def _read_cuts(file: soundfile.SoundFile, cuts: Sequence[tuple[float, float]], name: str) -> np.ndarray:
    parts = []
    for start, end in cuts:
        first, last = int(start * file.samplerate), int(end * file.samplerate)
        if first >= file.frames or last > file.frames + CUT_SECONDS * file.samplerate:
            raise BadInput(
                f"{name}: {start:g} .. {end:g} s is asked for, but it is {file.frames / file.samplerate:g} s long; "
                "the cuts are of another file"
            )
        file.seek(first)
        parts.append(file.read(last - first, dtype="float32", always_2d=True))
    return np.concatenate(parts)


def resample(audio: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """Float32 samples at another rate, ceil(n x to_hz / from_hz) of them, by torchaudio's windowed sinc."""
    if from_hz == to_hz:
        return audio
    import torch
    import torchaudio

    return torchaudio.functional.resample(torch.from_numpy(audio), from_hz, to_hz).numpy()


def cut_windows(n_samples: int, max_samples: int, overlap_samples: int) -> list[tuple[int, int]]:
    """(start, end) of windows of at most `max_samples` that cover the audio; neighbours share `overlap_samples`.

    Every window but the last has the full length; starts are multiples of max_samples - overlap_samples.
    """
    assert 0 <= overlap_samples < max_samples
    step = max_samples - overlap_samples
    count = max(1, -(-(n_samples - overlap_samples) // step))
    return [(i * step, min(i * step + max_samples, n_samples)) for i in range(count)]


def to_pcm(audio: np.ndarray) -> bytes:
    """Float samples in -1 .. 1 as 16-bit samples; what is outside is clipped."""
    return (np.clip(audio, -1, 1 - 1 / FULL_SCALE) * FULL_SCALE).astype(np.int16).tobytes()


def from_pcm(pcm: bytes | np.ndarray) -> np.ndarray:
    """16-bit samples (bytes or int16) as float32 in -1 .. 1; the inverse of `to_pcm`."""
    samples = np.frombuffer(pcm, np.int16) if isinstance(pcm, bytes) else pcm
    return samples.astype(np.float32) / FULL_SCALE


def to_flac(audio: np.ndarray, rate_hz: int = RATE_HZ) -> bytes:
    """Float samples as a FLAC file of 16 bits, rounded and clipped."""
    return _to_file(audio, rate_hz, "FLAC")


def to_wav(audio: np.ndarray, rate_hz: int = RATE_HZ) -> bytes:
    """Float samples as a WAV file of 16 bits, rounded and clipped."""
    return _to_file(audio, rate_hz, "WAV")


def to_mp3(audio: np.ndarray, rate_hz: int = RATE_HZ) -> bytes:
    """Float samples in -1 .. 1 as an MP3 file, about 4 kB a second at 16 kHz."""
    return _to_file(audio, rate_hz, "MP3")


def _to_file(audio: np.ndarray, rate_hz: int, kind: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, audio, rate_hz, format=kind)
    return buffer.getvalue()
