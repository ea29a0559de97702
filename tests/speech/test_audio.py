"""Reading, mixing, resampling and cutting audio."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from slamray.errors import BadInput
from slamray.speech import audio as audio_module
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


def with_length(wav: bytes, length: int) -> bytes:
    """A RIFF file whose data chunk says to be so long."""
    place = wav.index(b"data") + 4
    return wav[:place] + length.to_bytes(4, "little") + wav[place + 4 :]


@pytest.mark.parametrize("length", [0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0], ids=hex)
def test_a_wav_that_was_written_as_a_stream_is_read_to_its_end(tmp_path: Path, length: int) -> None:
    content = with_length(encoded(TONE), length)
    path = tmp_path / "pipe.wav"
    path.write_bytes(content)
    for source in (content, path, io.BytesIO(content)):
        np.testing.assert_allclose(load_audio(source), TONE, atol=1e-4)


def test_a_wav_that_says_to_be_longer_than_it_is_stays_refused() -> None:
    for length in (40_000, 0x10000000, 0x90000000):
        with pytest.raises(BadInput, match="truncated after 16000 samples"):
            load_audio(with_length(encoded(TONE), length))


@pytest.mark.parametrize("kind", ["AU", "AIFF", "W64", "RF64", "NIST"])
def test_a_cut_file_is_refused_whatever_its_header_is_like(kind: str) -> None:
    whole = encoded(TONE, kind=kind)
    assert len(load_audio(whole)) == RATE_HZ
    with pytest.raises(BadInput, match=r"truncated after 1\d+ samples"):
        load_audio(whole[:-9000])


def of_unknown_length(flac: bytes) -> bytes:
    """A FLAC file as streams write it: 0 for the 36 bits of its number of samples (STREAMINFO, bytes 21 to 25)."""
    return flac[:21] + bytes([flac[21] & 0xF0, 0, 0, 0, 0]) + flac[26:]


def test_a_flac_that_does_not_say_its_length_is_read_to_its_end_and_cut_where_asked() -> None:
    flac = of_unknown_length(encoded(TONE, kind="FLAC"))
    np.testing.assert_allclose(load_audio(flac), TONE, atol=1e-4)
    cuts = load_audio(flac, cuts=[(0.25, 0.5), (0.75, 1.0)])
    np.testing.assert_allclose(cuts, np.concatenate([TONE[4000:8000], TONE[12000:]]), atol=1e-4)
    with pytest.raises(BadInput, match=r"2 \.\. 3 s is asked for, but it is 1 s long"):
        load_audio(flac, cuts=[(2.0, 3.0)])
    with pytest.raises(BadInput, match="cannot be read as audio"):
        load_audio(flac[:-3000])


def test_odd_rates_are_resampled_as_torchaudio_does_in_bounded_memory() -> None:
    noise = np.random.default_rng(0).standard_normal(4000).astype(np.float32)
    for rate_hz in (44_100, 22_050, 24_000, 8_000):
        width = int(np.ceil(6 * rate_hz / (0.99 * min(rate_hz, RATE_HZ))))
        slowly = audio_module._resample_slowly(noise, rate_hz, RATE_HZ, width)
        # torchaudio's filters are computed in float32, where a sinc's argument of 20 is off by 1e-6
        np.testing.assert_allclose(slowly, resample(noise, rate_hz, RATE_HZ), atol=2e-4)
    for rate_hz in (44_101, 999_983, 1_009):
        tone = (0.5 * np.sin(2 * np.pi * 100 * np.arange(rate_hz) / rate_hz)).astype(np.float32)
        expected = 0.5 * np.sin(2 * np.pi * 100 * np.arange(RATE_HZ) / RATE_HZ)
        found = load_audio(encoded(tone, rate_hz=rate_hz, subtype="FLOAT"))
        np.testing.assert_allclose(found[1000:-1000], expected[1000:-1000], atol=2e-3)


@pytest.mark.parametrize("rate_hz", [3, 999, 2_000_000])
def test_a_rate_that_no_sound_has_is_bad_input(rate_hz: int) -> None:
    with pytest.raises(BadInput, match=rf"{rate_hz:,} samples a second, and a sound has 1,000 to 1,000,000"):
        load_audio(encoded(TONE, rate_hz=rate_hz))


def test_what_would_not_be_heard_is_silent() -> None:
    with pytest.raises(BadInput, match="silent when its channels are mixed, as they cancel each other"):
        load_audio(encoded(np.stack([TONE, -TONE], 1), subtype="FLOAT"))
    high = (0.5 * np.sin(2 * np.pi * 20_000 * np.arange(48_000) / 48_000) * np.hanning(48_000)).astype(np.float32)
    with pytest.raises(BadInput, match="silent at 16,000 Hz"):
        load_audio(encoded(high, rate_hz=48_000, subtype="FLOAT"))
    with pytest.raises(BadInput, match=r"samples of up to 16384 of full scale"):
        load_audio(encoded(TONE * 32768, subtype="FLOAT"))


def test_a_pointer_of_git_lfs_is_no_sound_and_said_to_be_one() -> None:
    with pytest.raises(BadInput, match=r"^a\.flac: a pointer of Git LFS, not the file itself"):
        load_audio(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", name="a.flac")


def test_a_reason_holds_no_address() -> None:
    with pytest.raises(BadInput) as caught:
        load_audio(io.BytesIO(b"no audio"), name="a.flac row 3")
    assert str(caught.value) == "a.flac row 3: cannot be read as audio (Format not recognised.); remove or replace it"


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
