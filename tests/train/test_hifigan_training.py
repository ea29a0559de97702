"""Training of the unit HiFi-GAN: the mel scale, the discriminators, the losses, and resumption."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from support.processes import run_ranks

from slamray.config.assets import HifiganSettings
from slamray.config.compute import Compute
from slamray.errors import BadInput
from slamray.speech.decoders.hifigan import load
from slamray.train.decoder_data import Recording
from slamray.train.hifigan_losses import Discriminators, LogMel, discriminator_loss, feature_loss, generator_loss
from slamray.train.hifigan_training import hifigan_rate, measure_audio, train_hifigan

HOP = 640
LOSSES = ("mel", "duration", "discriminator", "generator", "feature")
CONFIG = HifiganSettings(
    embedding_dim=16,
    channels=32,
    resblock_dilations=(1, 3),
    discriminator_divisor=32,
    budget="steps:8",
    batch=2,
    crop_frames=8,
    adversarial_share=0.5,
)
COMPUTE = Compute(dtype="float32", report_every_steps=1, checkpoint_every_seconds=1e6)
SAVING = COMPUTE.model_copy(update={"checkpoint_every_seconds": 1e-9})


def recording(seed: int, frames: int = 60) -> Recording:
    """A tone for each unit, five frames of each in turn."""
    draw = np.random.default_rng(seed)
    units = np.repeat(draw.integers(0, 4, frames // 5), 5)
    phase = 2 * np.pi * np.cumsum(np.repeat(np.array([0, 200, 400, 800])[units], HOP)) / 16_000
    return units.astype(np.uint16), (6000 * np.sin(phase)).astype(np.int16)


def train(
    out: Path, compute: Compute = COMPUTE, stop_after: int | None = None, **changes: object
) -> tuple[list[dict[str, float]], dict[str, torch.Tensor], dict]:
    """Reports, the generator's weights, facts."""
    reports: list[dict[str, float]] = []

    def report(metrics: dict[str, float]) -> None:
        reports.append(metrics)
        if metrics["step"] == stop_after:
            raise KeyboardInterrupt

    config = CONFIG.model_copy(update=changes)
    recordings = [recording(seed) for seed in range(3)]
    vocoder, facts = train_hifigan(recordings, 4, HOP, config, compute, out, report)
    vocoder.save(out / "model")
    return reports, dict(vocoder.generator.state_dict()), facts


def test_a_tone_is_loudest_in_the_band_of_its_pitch() -> None:
    # Slaney's scale: linear to 1 kHz (15 mels), then a factor of 6.4 in 27 mels. 80 bands over 0..8 kHz.
    def mels(hz: float) -> float:
        return hz * 3 / 200 if hz < 1000 else 15 + 27 * np.log(hz / 1000) / np.log(6.4)

    for hz in (300.0, 900.0, 4000.0):
        audio = torch.sin(2 * np.pi * hz * torch.arange(16_000) / 16_000)[None]
        loudest = int(LogMel(16_000)(audio)[0].mean(1).argmax())
        assert loudest == pytest.approx(mels(hz) / mels(8000) * 81 - 1, abs=1)


def test_a_gain_of_ten_decibels_is_a_distance_of_ten_decibels() -> None:
    noise = np.random.default_rng(0).integers(-3000, 3000, 20 * HOP).astype(np.int16)
    loud = noise.astype(np.float32) / 32768 * 10**0.5
    found = measure_audio(lambda units, durations: loud, [(np.zeros(20, np.uint16), noise)], HOP)
    assert found["audio_mel_error_db"] == pytest.approx(10.0, abs=0.01)


def test_discriminators_of_the_papers_width_have_the_papers_number_of_parameters() -> None:
    judges = Discriminators(1)

    # Kong et al.'s code (models.py), counted by hand: weights, a magnitude for each output, a bias for each output.
    def layers(rows: list[tuple[int, int, int, int]]) -> int:
        return sum(after * (before // groups) * kernel + 2 * after for before, after, kernel, groups in rows)

    period = layers([(1, 32, 5, 1), (32, 128, 5, 1), (128, 512, 5, 1), (512, 1024, 5, 1), (1024, 1024, 5, 1),
                     (1024, 1, 3, 1)])  # fmt: skip
    scale = layers([(1, 128, 15, 1), (128, 128, 41, 4), (128, 256, 41, 16), (256, 512, 41, 16), (512, 1024, 41, 16),
                    (1024, 1024, 41, 16), (1024, 1024, 5, 1), (1024, 1, 3, 1)])  # fmt: skip
    assert sum(p.numel() for p in judges.parameters()) == 5 * period + 3 * scale


def test_losses_are_the_papers_sums() -> None:
    real = [(torch.tensor([[1.0, 0.5]]), [torch.tensor([1.0, 3.0])]), (torch.tensor([[2.0]]), [torch.tensor([0.0])])]
    made = [(torch.tensor([[0.0, 0.5]]), [torch.tensor([2.0, 3.0])]), (torch.tensor([[1.0]]), [torch.tensor([4.0])])]
    assert float(discriminator_loss(real, made)) == pytest.approx((0.125 + 0.125) + (1 + 1))
    assert float(generator_loss(made)) == pytest.approx((1 + 0.25) / 2 + 0)
    assert float(feature_loss(real, made)) == pytest.approx(0.5 + 4)


def test_every_discriminator_judges_audio_of_any_length() -> None:
    judged = Discriminators(32)(torch.randn(2, 4001))
    assert len(judged) == 8 and all(len(scores) == 2 for scores, _ in judged)


def test_discriminators_take_part_in_the_last_share_of_the_budget(tmp_path: Path) -> None:
    reports, _, _ = train(tmp_path)
    assert [row["step"] for row in reports] == list(range(1, 9))
    assert ["discriminator" in row for row in reports] == [False] * 4 + [True] * 4


def test_the_distance_to_the_voice_falls_and_the_saved_model_is_what_was_trained(tmp_path: Path) -> None:
    held_out = [recording(9)]
    _, first, _ = train(tmp_path / "a", budget="steps:1", adversarial_share=0.0)
    reports, _, _ = train(tmp_path / "b", budget="steps:60", adversarial_share=0.0, peak_rate=3e-3)
    for loss in ("mel", "duration"):
        early, late = (np.mean([row[loss] for row in part]) for part in (reports[:5], reports[-5:]))
        assert late < 0.8 * early
    before = measure_audio(load(tmp_path / "a" / "model", "cpu"), held_out, HOP)["audio_mel_error_db"]
    vocoder = load(tmp_path / "b" / "model", "cpu")
    assert measure_audio(vocoder, held_out, HOP)["audio_mel_error_db"] < 0.8 * before
    assert vocoder.rate_hz == 16_000 and len(first) == len(vocoder.generator.state_dict())


@pytest.mark.parametrize("stop_after", [2, 6])
def test_a_run_that_was_stopped_ends_where_an_unbroken_one_does(tmp_path: Path, stop_after: int) -> None:
    """Before discriminators take part, and after."""
    whole, weights, facts = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "broken", SAVING, stop_after)
    reports, resumed, facts_again = train(tmp_path / "broken", SAVING)
    assert [row["step"] for row in reports] == list(range(stop_after + 1, 9))
    assert [row["loss"] for row in reports] == [row["loss"] for row in whole[stop_after:]]
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)
    assert facts["samples"] == facts_again["samples"]


def test_a_restart_reads_no_recording_again(tmp_path: Path) -> None:
    def no_more() -> Iterator[Recording]:
        pytest.fail("read again")
        yield recording(0)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, SAVING, stop_after=2)
    train_hifigan(no_more(), 4, HOP, CONFIG, COMPUTE, tmp_path, lambda metrics: None)


def _one_of_many(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    for stop_after in (5, None):
        with contextlib.suppress(KeyboardInterrupt):
            _, _, facts = train(folder / "many", SAVING, stop_after)
            (folder / f"{rank}.json").write_text(json.dumps(facts))


@pytest.mark.slow
def test_two_workers_train_what_one_trains_discriminators_and_dropout_included(tmp_path: Path) -> None:
    """Each has one crop of two; the second is interrupted on the way."""
    whole, _, facts = train(tmp_path / "alone")
    run_ranks(_one_of_many, 2, tmp_path)
    assert json.loads((tmp_path / "0.json").read_text())["samples"] == facts["samples"]
    history = json.loads((tmp_path / "many" / "history.json").read_text())
    for one, other in zip(whole, history, strict=True):
        of_one, of_many = ({name: row[name] for name in LOSSES if name in row} for row in (one, other))
        # Rounding alone: 2e-7 in the first step, which training magnifies to 2e-4 at most.
        assert of_many == pytest.approx(of_one, rel=1e-6 if one["step"] == 1 else 1e-3)


def test_the_rate_warms_up_and_ends_at_a_tenth() -> None:
    config = CONFIG.model_copy(update={"peak_rate": 1e-3, "warmup_share": 0.1})
    assert hifigan_rate(0.05, config) == pytest.approx(5e-4)
    assert hifigan_rate(0.1, config) == pytest.approx(1e-3)
    assert hifigan_rate(1.0, config) == pytest.approx(1e-4)


def test_the_shipped_size_is_small(tmp_path: Path) -> None:
    from slamray.speech.decoders.hifigan import CodeGenerator, UnitVocoder
    from slamray.train.hifigan_training import shape_of

    generator = CodeGenerator(shape_of(HifiganSettings(), 500))
    assert sum(p.numel() for p in generator.parameters()) <= 3_200_000
    UnitVocoder(generator).save(tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_size < 6_500_000


def test_bad_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="multiply to 640, but a unit is 320 samples"):
        train_hifigan([recording(0)], 4, 320, CONFIG, COMPUTE, tmp_path / "4-320", lambda metrics: None)
    with pytest.raises(BadInput, match="unit 3 in the recordings, but n_units=2"):
        train_hifigan([recording(0)], 2, HOP, CONFIG, COMPUTE, tmp_path / "2-HOP", lambda metrics: None)
    with pytest.raises(BadInput, match="no recordings"):
        train_hifigan([], 4, HOP, CONFIG, COMPUTE, tmp_path / "4-HOP", lambda metrics: None)
