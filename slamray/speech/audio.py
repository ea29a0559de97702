"""Audio: the rate that encoders hear, files to arrays, arrays to 16-bit samples and to files, resampling, windows.

torch is imported where something is resampled: whoever only reads files or writes samples does without it.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from slamray.errors import BadInput
from slamray.given import check_pointer, reason_of

RATE_HZ = 16_000  # what every HuBERT hears
FULL_SCALE = 32768  # of a 16-bit sample, which is 1.0

CUT_SECONDS = 0.5  # a cut may end this long after its file, as rounded and aligned ends do; chosen, not tuned
SILENCE = 1e-4  # peak of full scale 1 (-80 dB) under which a recording counts as silent; chosen, not tuned
LOUDEST = 32.0  # of full scale 1: greater samples are numbers of another scale, and all would be clipped. Chosen
RATES_HZ = (1_000, 1_000_000)  # of sounds: below telephones, above what converters sample at; chosen, not tuned
BLOCK_FRAMES = 1 << 16  # read at a time
# Up to so many numbers the filters of a resampling are made at once, 32 MB of them: 44,100 to 16,000 Hz has 70,000 and
# 44,101 Hz 700 million. Chosen, not tuned
FILTER_NUMBERS = 1 << 23
ROLL_OFF, ZEROS = 0.99, 6  # torchaudio's defaults: where its filter ends, and its zero crossings on either side

# By format, the line in libsndfile's log of a file that ends before its header says.
_CHUNK = re.compile(r"^(?:data|riff) : (?P<said>\d+) \(should be", re.MULTILINE)
_TRUNCATED = {
    "WAV": _CHUNK,
    "WAVEX": _CHUNK,
    "W64": _CHUNK,
    "AU": re.compile(r"Data Size *: (?P<said>\d+) \(should be"),
    "AIFF": re.compile(r"Chunk size (?P<said>\d+) > file length"),
    "RF64": re.compile(r"Calculated frame count \d+ does not match value from 'ds64' chunk of (?P<said>\d+)"),
}
# What programs write for a length that they do not know: 0, or the most that 31 or 32 bits
# hold, rounded by some (sox: 0x7FFFF000; arecord: 0x80000000; ffmpeg: 0xFFFFFFFF).
_STREAMED = ((0, 0), (0x7FFF0000, 0x80010000), (0xFFFF0000, 0xFFFFFFFF))
_UNKNOWN_FRAMES = 1 << 60  # libsndfile gives 2**63 - 1 where a header says none
_NIST_FRAMES = re.compile(rb"sample_count -i (\d+)")


class _Sound(soundfile.SoundFile):
    """A sound that is read from its first frame to its last, so that its header need not say how many there are."""

    def seekable(self) -> bool:
        return False

    @property
    def has_length(self) -> bool:
        return self.frames < _UNKNOWN_FRAMES

    def read_on(self, frames: int) -> np.ndarray:
        """Float32 (frames, channels), fewer at the end; memory grows with what there is, not with what is asked for."""
        parts = []
        while frames > 0 and len(part := self.read(min(frames, BLOCK_FRAMES), dtype="float32", always_2d=True)):
            parts.append(part)
            frames -= len(part)
        return np.concatenate(parts) if parts else np.zeros((0, self.channels), np.float32)


def load_audio(
    source: str | Path | bytes | BinaryIO,
    rate_hz: int = RATE_HZ,
    cuts: Sequence[tuple[float, float]] = (),
    name: str = "",
) -> np.ndarray:
    """Float32 mono samples at `rate_hz`: channels averaged, resampled. libsndfile reads it: wav flac mp3 ogg sph.

    cuts: (start, end) in seconds of the stretches that are read and joined; without any the whole file is read. name:
    what messages call bytes or an open file.
    BadInput when the source is not audio, is cut short, has no samples or a rate that no sound has, is silent as it
    will be heard or holds values that are not finite, or when a cut lies outside it.
    """
    name = name or ("audio" if isinstance(source, bytes) else str(source))
    if isinstance(source, str | Path) and not Path(source).is_file():
        raise BadInput(f"{name}: no such file")
    with _opened(source, name) as file:
        found_hz = file.samplerate
        promised = file.frames if file.has_length and file.format != "MP3" else 0  # an MP3's header only estimates it
        if cuts:
            samples_LC, held = _read_cuts(file, cuts, name), file.frames
        else:
            samples_LC = file.read_on(_UNKNOWN_FRAMES)
            held = len(samples_LC)
        if _is_cut_short(file) or held < max(promised, _nist_frames(source, file)):
            raise BadInput(f"{name}: truncated after {len(samples_LC)} samples; remove or replace it")
    if len(samples_LC) == 0 and (streamed := _without_length(source)):
        return load_audio(streamed, rate_hz, cuts, name)
    return as_heard(samples_LC, found_hz, rate_hz, name)


def as_heard(samples_LC: np.ndarray, found_hz: int, rate_hz: int, name: str) -> np.ndarray:
    """Float32 mono samples at `rate_hz` of float samples, a column a channel. BadInput as of `load_audio`."""
    if len(samples_LC) == 0:
        raise BadInput(f"{name}: no samples; remove it")
    if not np.isfinite(samples_LC).all():
        raise BadInput(f"{name}: samples that are not finite; remove or replace it")
    if np.abs(samples_LC).max() > LOUDEST:
        peak = np.abs(samples_LC).max()
        raise BadInput(f"{name}: samples of up to {peak:g} of full scale; scale them to -1 .. 1, or remove it")
    if not RATES_HZ[0] <= found_hz <= RATES_HZ[1]:
        least, most = RATES_HZ
        raise BadInput(
            f"{name}: {found_hz:,} samples a second, and a sound has {least:,} to {most:,}; its header is wrong, "
            "repair or remove it"
        )
    mixed = samples_LC.mean(1)
    audio = resample(mixed, found_hz, rate_hz)
    if np.abs(samples_LC).max() < SILENCE:
        raise BadInput(f"{name}: silent, no sample above {SILENCE:g} of full scale; remove it")
    if np.abs(mixed).max() < SILENCE:
        raise BadInput(f"{name}: silent when its channels are mixed, as they cancel each other; give one channel of it")
    if np.abs(audio).max() < SILENCE:
        raise BadInput(f"{name}: silent at {rate_hz:,} Hz, all it holds lies above what is heard there; remove it")
    return audio


@contextmanager
def _opened(source: str | Path | bytes | BinaryIO, name: str) -> Iterator[_Sound]:
    try:
        with _Sound(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
            yield file
    except (soundfile.LibsndfileError, OSError, ValueError, TypeError) as error:
        if isinstance(error, BadInput):
            raise
        check_pointer(_head(source), name)
        raise BadInput(f"{name}: cannot be read as audio ({reason_of(error)}); remove or replace it") from error


def _is_cut_short(file: _Sound) -> bool:
    pattern = _TRUNCATED.get(file.format)
    said = [int(found["said"]) for found in pattern.finditer(file.extra_info)] if pattern else []
    return any(not any(least <= length <= most for least, most in _STREAMED) for length in said)


def _without_length(source: str | Path | bytes | BinaryIO) -> bytes:
    """A RIFF file that says to hold nothing and does hold samples, with the length that streams have; else empty."""
    content = source if isinstance(source, bytes) else b""
    if isinstance(source, str | Path):
        content = Path(source).read_bytes()
    elif not isinstance(source, bytes):
        source.seek(0)
        content = source.read()
    place = content.find(b"data\0\0\0\0", 12, 4096) + 4
    following = content[place + 4 :]
    if content[:4] != b"RIFF" or place < 12 or len(following) < 8 or following[:4].isalpha():
        return b""
    return content[:place] + b"\xff\xff\xff\xff" + following


def _nist_frames(source: str | Path | bytes | BinaryIO, file: _Sound) -> int:
    """What the header of a NIST file promises, which libsndfile does not compare; 0 for any other."""
    if file.format != "NIST":
        return 0
    found = _NIST_FRAMES.search(_head(source))
    return int(found[1]) if found else 0


def _head(source: str | Path | bytes | BinaryIO) -> bytes:
    """The first bytes of a file; as many as the header of a NIST file has."""
    if isinstance(source, bytes):
        return source[:1024]
    if isinstance(source, str | Path):
        with open(source, "rb") as opened:
            return opened.read(1024)
    source.seek(0)
    return source.read(1024)


def _read_cuts(file: _Sound, cuts: Sequence[tuple[float, float]], name: str) -> np.ndarray:
    frames, parts = file.frames, []
    whole = None
    if not file.has_length:  # then nothing can be sought in it either
        whole = file.read_on(_UNKNOWN_FRAMES)
        frames = len(whole)
    for start, end in cuts:
        first, last = int(start * file.samplerate), int(end * file.samplerate)
        if first < 0 or first >= frames or last > frames + CUT_SECONDS * file.samplerate:
            raise BadInput(
                f"{name}: {start:g} .. {end:g} s is asked for, but it is {frames / file.samplerate:g} s long; "
                "the cuts are of another file"
            )
        if whole is None:
            file.seek(first)
        parts.append(file.read_on(last - first) if whole is None else whole[first:last])
    return np.concatenate(parts)


def resample(audio: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """Float32 samples at another rate, ceil(n x to_hz / from_hz) of them, by torchaudio's windowed sinc.

    Memory is bounded at any two rates: where torchaudio's filters would be too many, they are made as they are needed.
    """
    if from_hz == to_hz:
        return audio
    common = math.gcd(from_hz, to_hz)
    width = math.ceil(ZEROS * from_hz / (min(from_hz, to_hz) * ROLL_OFF))
    if to_hz // common * (2 * width + from_hz // common) > FILTER_NUMBERS:
        return _resample_slowly(audio, from_hz, to_hz, width)
    import torch
    import torchaudio

    return torchaudio.functional.resample(torch.from_numpy(audio), from_hz, to_hz).numpy()


def _resample_slowly(audio: np.ndarray, from_hz: int, to_hz: int, width: int) -> np.ndarray:
    """torchaudio's sum, output by output: the sinc up to its ZEROS-th zero, under a cosine squared."""
    count = -(-len(audio) * to_hz // from_hz)
    edge_hz = min(from_hz, to_hz) * ROLL_OFF
    padded = np.concatenate([np.zeros(width), audio, np.zeros(width + 1)])
    found = np.empty(count, np.float32)
    step = max(1, BLOCK_FRAMES // (2 * width + 1))
    for first in range(0, count, step):
        out_O = np.arange(first, min(first + step, count), dtype=np.int64)
        near_O, rest_O = np.divmod(out_O * from_hz, to_hz)  # the input before an output, and the way to it
        offset_W = np.arange(-width, width + 1)
        at_OW = np.clip((offset_W - rest_O[:, None] / to_hz) * (edge_hz / from_hz), -ZEROS, ZEROS)
        window_OW = np.cos(at_OW * (math.pi / ZEROS / 2)) ** 2
        inputs_OW = padded[near_O[:, None] + (offset_W + width)]
        found[out_O] = (np.sinc(at_OW) * window_OW * inputs_OW).sum(1) * (edge_hz / from_hz)
    return found


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
