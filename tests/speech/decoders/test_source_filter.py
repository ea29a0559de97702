"""The vocoder: takes speech apart and together, learns units, gives the right length, says the same thing twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from slamray.config.assets import SourceFilterSettings
from slamray.config.compute import Compute
from slamray.errors import BadInput
from slamray.speech.decoders.source_filter import Vocoder
from slamray.speech.decoders.source_filter_dsp import FRAME_HOP, RATE_HZ, analyse, mel_filters, synthesise
from slamray.speech.decoders.table import load_decoder
from slamray.train.source_filter_training import Recording, measure_vocoder, train_source_filter

HOP = 640  # 25 Hz
COMPUTE = Compute(dtype="float32", report_every_steps=1, checkpoint_every_seconds=1e6)
TONES_HZ = (0, 110, 165, 220, 330)  # unit 0 is noise; the others are harmonic sounds of one pitch each


def recording(seed: int, frames: int = 150) -> Recording:
    """Four frames of each unit in turn, drawn at random, as the sound that stands for it."""
    draw = np.random.default_rng(seed)
    units = np.repeat(draw.integers(0, len(TONES_HZ), frames // 4 + 1), 4)[:frames]
    f0 = np.repeat([TONES_HZ[unit] for unit in units], HOP)
    phase = 2 * np.pi * np.cumsum(f0) / RATE_HZ
    tone = sum(np.sin(k * phase) / k for k in range(1, 6))
    audio = np.where(f0 > 0, 0.1 * tone, 0.02 * draw.standard_normal(len(f0)))
    return units.astype(np.uint16), audio.astype(np.float32)


@pytest.fixture(scope="module")
def vocoder(tmp_path_factory: pytest.TempPathFactory) -> Vocoder:
    return train(tmp_path_factory.mktemp("vocoder"))


def train(out: Path, steps: int = 60) -> Vocoder:
    config = SourceFilterSettings(
        hidden=32, unit_blocks=1, frame_blocks=1, budget=f"steps:{steps}", batch=4, crop_seconds=1.0, learning_rate=5e-3
    )
    recordings = [recording(seed) for seed in range(4)]
    vocoder, _ = train_source_filter(recordings, len(TONES_HZ), HOP, config, COMPUTE, out, lambda metrics: None)
    return vocoder


def test_pitch_of_a_harmonic_tone_is_found_and_noise_is_unvoiced() -> None:
    time = np.arange(RATE_HZ) / RATE_HZ
    tone = sum(np.sin(2 * np.pi * 200 * k * time) / k for k in range(1, 10)) * 0.1
    _, f0, voiced = analyse(tone.astype(np.float32), mel_filters())
    assert voiced[5:-5].all()
    assert float(f0[5:-5].median()) == pytest.approx(200, rel=0.02)
    noise = 0.1 * np.random.default_rng(0).standard_normal(RATE_HZ)
    assert float(analyse(noise.astype(np.float32), mel_filters())[2].float().mean()) < 0.05


@pytest.mark.parametrize("voicing", [0.0, 1.0])
def test_what_is_synthesised_has_the_envelope_and_pitch_asked_for(voicing: float) -> None:
    frames = 200
    mel = torch.linspace(-4.0, -10.0, 80).expand(frames, 80)  # falls by 26 dB from 0 to 8 kHz
    audio = synthesise(mel, torch.full((frames,), 150.0), torch.full((frames,), voicing), mel_filters(), seed=0)
    assert audio.shape == (frames * FRAME_HOP,) and audio.dtype == np.float32
    found, f0, voiced = analyse(audio, mel_filters())
    inner = slice(10, -10)
    # Bands under 250 Hz hold one harmonic or none; averaged log power of noise is 2.5 dB (0.58) under its mean at most.
    assert float((found[inner, 12:].mean(0) - mel[0, 12:]).abs().max()) < 0.8
    assert float(voiced[inner].float().mean()) == pytest.approx(voicing, abs=0.1)
    if voicing:
        assert float(f0[inner].median()) == pytest.approx(150, rel=0.02)


def test_held_out_error_falls_well_below_that_of_the_mean(vocoder: Vocoder) -> None:
    found = measure_vocoder(vocoder, [recording(99)])
    assert found["mel_error_db"] < 0.5 * found["mean_predictor_error_db"]
    assert found["voicing_accuracy"] > 0.8
    assert found["duration_ratio"] == pytest.approx(1.0, abs=0.2)


def test_length_is_that_of_the_durations(vocoder: Vocoder) -> None:
    audio = vocoder(np.array([1, 2, 0]), np.array([3, 1, 6]))
    assert audio.shape == (10 * HOP,) and audio.dtype == np.float32 and np.isfinite(audio).all()
    units = np.array([1, 2, 3, 4], np.uint16)
    assert len(vocoder(units)) == vocoder.durations(units).sum() * HOP
    assert len(vocoder(np.zeros(0, np.uint16))) == 0


def test_the_same_units_give_the_same_samples(vocoder: Vocoder) -> None:
    units = np.array([1, 0, 2], np.uint16)
    np.testing.assert_array_equal(vocoder(units), vocoder(units))


def test_training_is_deterministic(tmp_path: Path) -> None:
    first, second = (train(tmp_path / name, steps=3).net.state_dict() for name in "ab")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_saved_vocoder_is_as_good(vocoder: Vocoder, tmp_path: Path) -> None:
    vocoder.save(tmp_path / "v")
    loaded, held_out = load_decoder(tmp_path / "v"), [recording(99)]
    error = measure_vocoder(vocoder, held_out)["mel_error_db"]
    assert measure_vocoder(loaded, held_out)["mel_error_db"] == pytest.approx(error, abs=0.05)  # float16 weights


def test_the_shipped_size_is_small(tmp_path: Path) -> None:
    config = SourceFilterSettings(budget="steps:1", batch=1, crop_seconds=0.5)
    vocoder, _ = train_source_filter([recording(0)], 500, HOP, config, COMPUTE, tmp_path, lambda metrics: None)
    vocoder.save(tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_size < 1_500_000


def test_bad_input_is_named(vocoder: Vocoder, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="unit 7 is unknown"):
        vocoder(np.array([7]))
    with pytest.raises(BadInput, match="it is no vocoder"):
        load_decoder(tmp_path)
    with pytest.raises(BadInput, match="hop of 500"):
        train_source_filter([recording(0)], 5, 500, SourceFilterSettings(), COMPUTE, tmp_path, lambda metrics: None)
