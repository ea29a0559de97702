"""Reading, mixing, resampling and cutting audio."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from slamray.errors import BadInput
from slamray.speech.audio import RATE_HZ, cut_windows, from_pcm, load_audio, resample, to_flac, to_mp3, to_pcm, to_wav

TONE = (0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE_HZ) / RATE_HZ)).astype(np.float32)


def encoded(samples: np.ndarray, rate_hz: int = RATE_HZ, kind: str = "WAV", subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format=kind, subtype=subtype)
    return file.getvalue()


def test_a_float_wav_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "tone.wav"
    path.write_bytes(encoded(TONE, subtype="FLOAT"))
    np.testing.assert_array_equal(load_audio(path), TONE)


@pytest.mark.parametrize(("kind", "tolerance"), [("FLAC", 1e-4), ("OGG", 0.05), ("MP3", 0.05)])
def test_compressed_files_are_read(kind: str, tolerance: float) -> None:
    audio = load_audio(encoded(TONE, kind=kind))
    middle = slice(4000, 12000)
    assert np.abs(np.abs(np.fft.rfft(audio[middle])).argmax() - 440 * 8000 / RATE_HZ) <= 1
    assert audio[middle].std() == pytest.approx(TONE[middle].std(), rel=tolerance)


def test_stereo_is_averaged() -> None:
    stereo = np.stack([TONE, -0.5 * TONE], 1)
    np.testing.assert_allclose(load_audio(encoded(stereo, subtype="FLOAT")), TONE / 4, atol=1e-7)


def test_8_khz_is_resampled_to_16_khz() -> None:
    slow = (0.5 * np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)).astype(np.float32)
    audio = load_audio(encoded(slow, rate_hz=8000, subtype="FLOAT"))
    assert audio.dtype == np.float32
    assert len(audio) == RATE_HZ
    np.testing.assert_allclose(audio[1000:-1000], TONE[1000:-1000], atol=2e-3)


def test_resampling_gives_the_ceiling_of_the_ratio() -> None:
    assert len(resample(TONE[:10_001], 24_000, 16_000)) == 6668


def test_a_truncated_flac_is_bad_input() -> None:
    whole = encoded(np.random.default_rng(0).standard_normal(50_000) / 10, kind="FLAC")
    with pytest.raises(BadInput, match=r"audio|truncated"):
        load_audio(whole[: len(whole) // 2])


def test_a_truncated_wav_is_bad_input() -> None:
    whole = encoded(TONE)
    with pytest.raises(BadInput, match="truncated"):
        load_audio(whole[: len(whole) // 2])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (encoded(np.zeros(1000, np.float32)), "silent"),
        (encoded(np.zeros(0, np.float32)), "no samples"),
        (encoded(np.array([0.5, np.nan], np.float32), subtype="FLOAT"), "not finite"),
        (b"this is no audio at all", "cannot be read"),
        (b"", "cannot be read"),
    ],
    ids=["silent", "empty", "not finite", "text", "nothing"],  # a float WAV holds the time it was written
)
def test_unusable_audio_is_bad_input_of_one_line(content: bytes, message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        load_audio(content)
    assert "\n" not in str(caught.value)


def test_the_message_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"nowhere\.wav"):
        load_audio(tmp_path / "nowhere.wav")


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (5, [(0, 5)]),
        (10, [(0, 10)]),
        (11, [(0, 10), (6, 11)]),
        (16, [(0, 10), (6, 16)]),
        (17, [(0, 10), (6, 16), (12, 17)]),
    ],
)
def test_windows_overlap_and_cover(samples: int, expected: list[tuple[int, int]]) -> None:
    assert cut_windows(samples, max_samples=10, overlap_samples=4) == expected


def test_16_bit_samples_have_the_scale_of_audio_files() -> None:
    pcm = np.array([-32768, -1, 0, 1, 32767], np.int16)
    floats, _ = soundfile.read(io.BytesIO(encoded(pcm, subtype="PCM_16")), dtype="float32")  # libsndfile's scale
    np.testing.assert_array_equal(from_pcm(pcm.tobytes()), floats)
    assert to_pcm(floats) == pcm.tobytes()
    assert to_pcm(np.array([-2.0, 2.0], np.float32)) == np.array([-32768, 32767], np.int16).tobytes()


def test_16_bit_samples_come_back_from_flac_and_wav_as_they_were() -> None:
    pcm = to_pcm(TONE)
    for content in (to_flac(from_pcm(pcm)), to_wav(from_pcm(pcm))):
        assert to_pcm(load_audio(content)) == pcm
    assert load_audio(to_mp3(TONE)).std() == pytest.approx(TONE.std(), rel=0.05)
