"""Masked-prediction training: targets, masks, batches, the loss, and resumption."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from support.processes import run_ranks
from transformers import HubertConfig, HubertModel

from slamray.config.assets import AssetsSettings, EncoderTrainingSettings, HubertTrainingSettings, check_batches
from slamray.config.compute import Compute
from slamray.errors import BadInput
from slamray.stage.work import NOTICE
from slamray.train.cluster_targets import (
    HOP,
    RATE_HZ,
    mfcc_39,
    mfcc_100hz,
    targets_from_features,
    targets_from_mfcc,
    targets_once,
)
from slamray.train.masked_prediction import (
    CropBatch,
    Crops,
    MaskedPrediction,
    mask_spans,
    nano_config,
    pad_samples,
    rate_at,
    train_hubert,
)

TRAINING = HubertTrainingSettings(budget="steps:6", batch_crops=4, crop_frames=20, mask_frames=4, unmasked_weight=0.0)
COMPUTE = Compute(dtype="float32", report_every_steps=1, checkpoint_every_seconds=1e6)


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


def tensors(batch: CropBatch) -> list[torch.Tensor]:
    return [batch.audio_BL, batch.mask_BT, batch.targets_BTH]


def test_the_batch_of_a_step_depends_on_seed_and_step_alone_and_ranks_share_it() -> None:
    audios = tones(3)
    crops = Crops(audios, targets_from_mfcc(audios, 8, 0), tiny(), TRAINING)
    whole = crops.batch(5, 0, 1)
    for part, again in zip(tensors(whole), tensors(crops.batch(5, 0, 1)), strict=True):
        assert torch.equal(part, again)
    assert not torch.equal(whole.audio_BL, crops.batch(6, 0, 1).audio_BL)
    for rank in (0, 1):
        share = crops.batch(5, rank, 2)
        for part, mine in zip(tensors(whole), tensors(share), strict=True):
            assert torch.equal(part[rank::2], mine)
        counts = int(whole.mask_BT.sum()), int((~whole.mask_BT).sum())  # of the whole batch on every rank
        assert (share.masked_frames, share.unmasked_frames) == counts


def test_crops_carry_the_targets_of_their_audio() -> None:
    frames = np.arange(60)
    audio = np.repeat(frames, HOP).astype(np.int16)
    crops = Crops([audio], [frames[:, None]], tiny(), TRAINING)
    batch = crops.batch(0, 0, 1)
    pad = pad_samples(tiny())
    heard = batch.audio_BL[:, pad : len(batch.audio_BL[0]) - pad : HOP] * 32768
    assert torch.equal(heard.long(), batch.targets_BTH[..., 0])


def test_the_loss_is_the_cross_entropy_of_masked_frames() -> None:
    torch.manual_seed(0)
    model = MaskedPrediction(tiny(), [5, 7]).eval()
    audio, mask = torch.randn(2, 20 * HOP + 2 * pad_samples(tiny())), torch.rand(2, 20) < 0.5
    targets = torch.randint(0, 5, (2, 20, 2))
    with torch.inference_mode():
        batch = CropBatch(audio, mask, targets, int(mask.sum()), int((~mask).sum()))
        loss, masked = model(batch, unmasked_weight=0.25)
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


def run(out: Path, report: Callable[[dict], None] = lambda *_: None, compute: Compute = COMPUTE) -> dict:
    audios = tones(3)
    targets = targets_once(out, lambda: targets_from_mfcc(audios, 8, 0))
    return train_hubert(audios, targets, tiny(), TRAINING, compute, out, report)


def test_a_run_that_was_interrupted_ends_bit_for_bit_as_if_it_had_not_been(tmp_path: Path) -> None:
    saving = COMPUTE.model_copy(update={"checkpoint_every_seconds": 1e-9})
    straight = run(tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b", stop_at(4), saving)
    steps: list[dict] = []
    resumed = run(tmp_path / "b", steps.append, saving)
    assert [facts["step"] for facts in steps] == [5, 6]
    assert resumed["samples"] == straight["samples"] and resumed["train_seconds"] > steps[0]["train_seconds"]
    weights = [(tmp_path / name / "model/model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]
    losses = [[row["loss"] for row in json.loads((tmp_path / name / "history.json").read_text())] for name in "ab"]
    assert losses[0] == losses[1] and len(losses[0]) == 6


def test_a_notice_has_a_checkpoint_written_at_once_and_goes(tmp_path: Path) -> None:
    """As at SIGTERM: no checkpoint is due by the clock, and nobody need wait for it longer than a step."""

    def report(metrics: dict) -> None:
        if metrics["step"] == 2:
            (tmp_path / NOTICE).touch()
        stop_at(4)(metrics)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, report)
    assert not (tmp_path / NOTICE).exists()
    assert [path.name for path in (tmp_path / "checkpoints").glob("step-*")] == ["step-000000003"]
    steps: list[dict] = []
    run(tmp_path, steps.append)
    assert steps[0]["step"] == 4


def test_training_learns_masked_tones_and_saves_a_checkpoint_of_transformers(tmp_path: Path) -> None:
    audios = tones(20)
    targets = targets_from_mfcc(audios, 8, 0)
    training = TRAINING.model_copy(update={"budget": "steps:40", "peak_rate": 1e-2, "mask_frames": 2, "batch_crops": 8})
    reports: list[dict] = []
    train_hubert(audios, targets, tiny(), training, COMPUTE, tmp_path, reports.append)
    assert np.mean([r["masked_loss"] for r in reports[-5:]]) < 0.8 * reports[0]["masked_loss"]
    _, facts = HubertModel.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not facts["missing_keys"] and not facts["unexpected_keys"]


def test_a_budget_of_time_ends_the_run(tmp_path: Path) -> None:
    audios = tones(3)
    reports: list[dict] = []
    training = TRAINING.model_copy(update={"budget": "time:0.5s"})
    train_hubert(audios, targets_from_mfcc(audios, 8, 0), tiny(), training, COMPUTE, tmp_path, reports.append)
    assert reports[-1]["train_seconds"] >= 0.5 and reports[-1]["progress"] == 1.0
    assert reports[-1]["step"] < 10**4


def test_targets_are_made_once_however_often_training_starts(tmp_path: Path) -> None:
    made = [np.arange(6).reshape(3, 2), np.arange(2).reshape(1, 2)]
    first = targets_once(tmp_path, lambda: made)
    again = targets_once(tmp_path, lambda: pytest.fail("made anew"))
    for targets in (first, again):
        assert all(np.array_equal(one, other) for one, other in zip(targets, made, strict=True))


def test_more_workers_than_crops_are_refused_with_the_numbers() -> None:
    recipe = AssetsSettings(encoder=EncoderTrainingSettings(second=TRAINING))
    with pytest.raises(BadInput, match=r"encoder\.second\.batch_crops=4 is less than compute\.workers=5"):
        check_batches(recipe, 5)
    check_batches(recipe, 4)


def _one_of_many(rank: int, folder: Path, world: int, kill_after: int | None) -> None:
    torch.set_num_threads(1)
    saving = COMPUTE.model_copy(update={"checkpoint_every_seconds": 1e-9})
    with contextlib.suppress(KeyboardInterrupt):
        facts = run(folder / f"{world}", stop_at(kill_after) if kill_after else lambda *_: None, saving)
        (folder / f"{world}-{rank}.json").write_text(json.dumps(facts))


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_any_number_of_workers_trains_what_one_trains_through_kills(tmp_path: Path, world: int) -> None:
    """Three have four crops: one works on two, and losses are still those of the whole batch."""
    alone = run(tmp_path / "alone")
    run_ranks(_one_of_many, world, tmp_path, world, 3)
    run_ranks(_one_of_many, world, tmp_path, world, None)
    together = json.loads((tmp_path / f"{world}-0.json").read_text())
    assert together["samples"] == alone["samples"] and together["workers"] == world
    histories = [json.loads((tmp_path / name / "history.json").read_text()) for name in ("alone", str(world))]
    for one, other in zip(*histories, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=2e-5)
        assert other["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=1e-4)
