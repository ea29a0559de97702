"""Masked-prediction training: targets, masks, batches, the loss, and resumption."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import HubertConfig, HubertModel

from slamray.config.assets import HubertTrainingSettings
from slamray.train.masked_prediction import (
    HOP,
    RATE_HZ,
    Crops,
    MaskedPrediction,
    mask_spans,
    mfcc_39,
    mfcc_100hz,
    nano_config,
    pad_samples,
    rate_at,
    targets_from_features,
    targets_from_mfcc,
    train_hubert,
)

TRAINING = HubertTrainingSettings(
    steps=6,
    batch_crops=4,
    crop_frames=20,
    mask_frames=4,
    unmasked_weight=0.0,
    report_every=1,
    checkpoint_every=2,
    bfloat16=False,
)


def tiny() -> HubertConfig:
    config = nano_config()
    config.update({"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32})
    config.update({"conv_dim": (16, 16, 16, 16)})
    return config


def tones(count: int, frames: int = 50) -> list[np.ndarray]:
    """Recordings of random 400 ms tones, int16."""
    rng = np.random.default_rng(0)
    turns_per_hz = 2 * np.pi * np.arange(10 * HOP) / RATE_HZ
    tone = {hz: (8000 * np.sin(hz * turns_per_hz)).astype(np.int16) for hz in (200, 500, 1100, 2400)}
    return [np.concatenate([tone[hz] for hz in rng.choice(list(tone), frames // 10)]) for _ in range(count)]


@pytest.mark.parametrize("samples", [640, 1279, 16_000])
def test_there_is_one_mfcc_row_for_each_whole_frame(samples: int) -> None:
    rows = mfcc_39(torch.randn(samples))
    assert rows.shape == (samples // HOP, 39)
    assert rows.dtype == torch.float32


def test_a_click_in_the_middle_of_a_frame_is_loudest_in_that_frames_row() -> None:
    audio = torch.randn(20 * HOP) * 1e-4
    audio[7 * HOP + HOP // 2] = 1.0
    assert int(mfcc_39(audio)[:, 0].argmax()) == 7


def test_differences_are_regressions_over_two_rows_on_either_side() -> None:
    rows = mfcc_100hz(torch.randn(RATE_HZ)).numpy()
    for first, second in ((0, 13), (13, 26)):  # HTK's formula: sum of n (c[t + n] - c[t - n]) over 2 (1 + 4)
        c = rows[:, first : first + 13]
        expected = (c[31] - c[29] + 2 * (c[32] - c[28])) / 10
        np.testing.assert_allclose(rows[30, second : second + 13], expected, rtol=1e-3, atol=1e-4)


def test_masks_are_spans_that_cover_the_share_asked_for() -> None:
    for seed in range(20):
        mask = mask_spans(125, share=0.5, length=5, rng=np.random.default_rng(seed))
        edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(int)))
        assert (edges[1::2] - edges[::2]).min() >= 5
        assert 0.5 <= mask.mean() < 0.5 + 5 / 125


def test_a_mask_depends_on_its_seed_alone() -> None:
    first, again, other = (mask_spans(125, 0.5, 5, np.random.default_rng(s)) for s in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_nano_is_small_and_gives_25_frames_a_second() -> None:
    config = nano_config()
    model = HubertModel(config)
    assert sum(p.numel() for p in model.parameters()) <= 5_000_000
    pad = pad_samples(config)
    for samples in (640, 1279, 16_000):
        assert int(model._get_feat_extract_output_lengths(samples + 2 * pad)) == samples // HOP


def test_the_middle_of_a_frame_is_the_middle_of_what_its_convolutions_see() -> None:
    config = tiny()
    pad = pad_samples(config)
    model = HubertModel(config).eval()
    audio = torch.zeros(1, 10 * HOP + 2 * pad, requires_grad=True)
    model.feature_extractor(audio + torch.randn_like(audio))[0, :, 4].sum().backward()
    seen = audio.grad[0].nonzero().ravel() - pad
    assert int(seen.min() + seen.max() + 1) == 2 * (4 * HOP + HOP // 2)


def test_mfcc_targets_have_three_clusters_for_each_frame() -> None:
    audios = tones(4)
    targets = targets_from_mfcc(audios, k=8, seed=0)
    assert [t.shape for t in targets] == [(len(a) // HOP, 3) for a in audios]
    assert set(np.unique(np.concatenate(targets))) == set(range(8))


def test_feature_targets_have_a_codebook_for_each_k() -> None:
    features = [np.random.default_rng(i).standard_normal((n, 6)).astype(np.float16) for i, n in enumerate((40, 60))]
    targets = targets_from_features(features, ks=[3, 7], seed=0)
    assert [t.shape for t in targets] == [(40, 2), (60, 2)]
    assert np.concatenate(targets).max(0).tolist() == [2, 6]


def test_the_batch_of_a_step_depends_on_seed_and_step_alone_and_ranks_share_it() -> None:
    audios = tones(3)
    crops = Crops(audios, targets_from_mfcc(audios, 8, 0), tiny(), TRAINING)
    whole = crops.batch(5, 0, 1)
    for part, again in zip(whole, crops.batch(5, 0, 1), strict=True):
        assert torch.equal(part, again)
    assert not torch.equal(whole[0], crops.batch(6, 0, 1)[0])
    for rank in (0, 1):
        for part, share in zip(whole, crops.batch(5, rank, 2), strict=True):
            assert torch.equal(part[rank::2], share)


def test_crops_carry_the_targets_of_their_audio() -> None:
    frames = np.arange(60)
    audio = np.repeat(frames, HOP).astype(np.int16)
    crops = Crops([audio], [frames[:, None]], tiny(), TRAINING)
    audio_BL, _, targets_BTH = crops.batch(0, 0, 1)
    pad = pad_samples(tiny())
    heard = audio_BL[:, pad : len(audio_BL[0]) - pad : HOP] * 32768
    assert torch.equal(heard.long(), targets_BTH[..., 0])


def test_the_loss_is_the_cross_entropy_of_masked_frames() -> None:
    torch.manual_seed(0)
    model = MaskedPrediction(tiny(), [5, 7]).eval()
    audio, mask = torch.randn(2, 20 * HOP + 2 * pad_samples(tiny())), torch.rand(2, 20) < 0.5
    targets = torch.randint(0, 5, (2, 20, 2))
    with torch.inference_mode():
        loss, masked = model(audio, mask, targets, unmasked_weight=0.25)
        hidden = model.hubert(audio, mask_time_indices=mask).last_hidden_state
        logs = [head(hidden).log_softmax(-1).double() for head in model.heads]
    by_frame = -sum(log.gather(2, targets[..., h, None])[..., 0].numpy() for h, log in enumerate(logs)) / 2
    assert float(masked) == pytest.approx(by_frame[mask.numpy()].mean(), rel=1e-5)
    assert float(loss) == pytest.approx(by_frame[mask.numpy()].mean() + by_frame[~mask.numpy()].mean() / 4, rel=1e-5)


def test_the_rate_rises_to_its_peak_and_falls_to_zero() -> None:
    training = TRAINING.model_copy(update={"peak_rate": 2.0, "warmup_share": 0.25})
    assert [rate_at(p, training) for p in (0, 0.125, 0.25, 0.625, 1)] == [0, 1, 2, 1, 0]


def stop_at(step: int) -> Callable[[dict], None]:
    def report(facts: dict) -> None:
        if facts["step"] == step:
            raise KeyboardInterrupt

    return report


def test_a_run_that_was_interrupted_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    audios = tones(3)
    targets = targets_from_mfcc(audios, 8, 0)
    straight = train_hubert(audios, targets, tiny(), TRAINING, tmp_path / "a", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        train_hubert(audios, targets, tiny(), TRAINING, tmp_path / "b", stop_at(5))
    steps: list[dict] = []
    resumed = train_hubert(audios, targets, tiny(), TRAINING, tmp_path / "b", lambda facts: steps.append(facts))
    assert [facts["step"] for facts in steps] == [5, 6]
    for one, other in zip(straight.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_training_learns_masked_tones_and_saves_a_checkpoint_of_transformers(tmp_path: Path) -> None:
    audios = tones(20)
    targets = targets_from_mfcc(audios, 8, 0)
    training = TRAINING.model_copy(update={"steps": 40, "peak_rate": 1e-2, "mask_frames": 2, "batch_crops": 8})
    reports: list[dict] = []
    trained = train_hubert(audios, targets, tiny(), training, tmp_path, lambda facts: reports.append(facts))
    assert np.mean([r["masked_loss"] for r in reports[-5:]]) < 0.8 * reports[0]["masked_loss"]
    loaded, facts = HubertModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not facts["missing_keys"] and not facts["unexpected_keys"]
    for one, other in zip(trained.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_budget_of_seconds_ends_the_run(tmp_path: Path) -> None:
    audios = tones(3)
    reports: list[dict] = []
    training = TRAINING.model_copy(update={"steps": 10**6, "seconds": 0.5})
    train_hubert(audios, targets_from_mfcc(audios, 8, 0), tiny(), training, tmp_path, lambda f: reports.append(f))
    assert reports[-1]["seconds"] >= 0.5
    assert reports[-1]["step"] < 10**4
