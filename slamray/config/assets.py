"""Settings of the training of an encoder, a decoder and a small text LM (jobs/assets.py)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from slamray.config.base import Chosen, Settings
from slamray.config.text_lm import TextLmSettings
from slamray.config.training import StepsOrTime
from slamray.errors import BadInput


def check_crops(crops: int, workers: int, key: str) -> None:
    """BadInput when a worker would have no crop of a batch."""
    if crops < workers:
        raise BadInput(f"{key}={crops} is less than compute.workers={workers}; every worker needs a crop of each batch")


class SourceFilterSettings(Settings):
    """The source-filter decoder (slamray/speech/decoders/source_filter.py): under 1 MB, trained in 3 minutes."""

    hidden: int = Field(128, ge=16, description="channels of the convolutions")
    unit_blocks: int = Field(3, ge=1, description="residual blocks at the unit rate")
    frame_blocks: int = Field(2, ge=1, description="residual blocks at the mel rate")
    documents: int = Field(72, ge=1, description="training recordings, about an hour of stories; chosen, not tuned")
    budget: StepsOrTime = Field("steps:1500", description="steps:N or time:20m of optimiser time; chosen, not tuned")
    batch: int = Field(16, ge=1, description="crops in a step")
    crop_seconds: float = Field(3.0, gt=0, description="length of a crop; chosen, not tuned")
    learning_rate: float = Field(1e-3, gt=0, description="AdamW, one cycle")
    seed: int = Field(0, ge=0, description="seeds every draw")


class HifiganSettings(Settings):
    """A HiFi-GAN over units (slamray/speech/decoders/hifigan.py) and its training, tens of minutes on 2 cores."""

    embedding_dim: int = Field(128, ge=8, description="width of a unit's embedding; textless-lib: 128")
    channels: int = Field(
        512, ge=32, description="channels after the first convolution, halved by each upsampling; HiFi-GAN V1: 512"
    )
    upsample_rates: tuple[int, ...] = Field(
        (1, 5, 8, 4, 4),
        min_length=1,
        description="their product is the samples of a unit; the block at rate 1 hears 0.5 s on either side",
    )
    upsample_kernel_sizes: tuple[int, ...] = Field((3, 11, 16, 8, 8), min_length=1, description="about twice the rates")
    resblock_kernel_sizes: tuple[int, ...] = Field((3,), min_length=1, description="HiFi-GAN V1: 3, 7, 11")
    resblock_dilations: tuple[int, ...] = Field((1, 3, 5), min_length=1, description="HiFi-GAN V1")
    discriminator_divisor: Literal[1, 2, 4, 8, 16, 32] = Field(
        16, description="the widths of HiFi-GAN's discriminators are divided by this"
    )
    documents: int = Field(300, ge=1, description="training recordings, about 4 h of stories; chosen, not tuned")
    budget: StepsOrTime = Field("time:20m", description="steps:N or time:20m of optimiser time; chosen, not tuned")
    adversarial_share: float = Field(
        0.3, ge=0, le=1, description="share of the budget, at its end, with discriminators; chosen, not tuned"
    )
    batch: int = Field(4, ge=1, description="crops in a step")
    crop_frames: int = Field(40, ge=1, description="length of a crop in units: 1.6 s; chosen, not tuned")
    peak_rate: float = Field(
        1e-3, gt=0, description="learning rate of AdamW; HiFi-GAN's 2e-4 is for 500 times the steps"
    )
    warmup_share: float = Field(0.02, gt=0, lt=1, description="share of the budget; chosen, not tuned")
    clip_norm: float = Field(
        20.0, gt=0, description="gradients are clipped to it, outliers alone reach it; chosen, not tuned"
    )
    seed: int = Field(0, ge=0, description="crops, initialisation, dropout")


class HubertTrainingSettings(Settings):
    """One iteration of masked prediction; values without a source are measured in the card of assets/hubert-nano."""

    budget: StepsOrTime = Field("time:20m", description="steps:N or time:20m of optimiser time; chosen, not tuned")
    seed: int = Field(0, ge=0, description="crops, masks, initialisation")
    batch_crops: int = Field(12, ge=1, description="crops in a step, over all workers")
    crop_frames: int = Field(125, ge=10, description="length of a crop: 5 s")
    mask_share: float = Field(
        0.4,
        gt=0,
        lt=1,
        description="share of a crop's frames; HuBERT masks about 57 % (8 % of starts x 10 frames, 50 Hz)",
    )
    mask_frames: int = Field(5, ge=1, description="frames of a masked span: 200 ms, as in HuBERT")
    unmasked_weight: float = Field(1.0, ge=0, description="weight of the loss over frames that are not masked")
    peak_rate: float = Field(1e-3, gt=0, description="learning rate, reached and left linearly")
    warmup_share: float = Field(0.08, gt=0, lt=1, description="share of the budget; HuBERT section IV-B")
    weight_decay: float = Field(0.01, ge=0, description="HuBERT section IV-B")
    clip_norm: float = Field(1.0, gt=0, description="chosen, not tuned")


class EncoderTrainingSettings(Settings):
    """Training of a HuBERT and its units, for a voice or a language that has none (Hsu et al. 2021)."""

    train_documents: int = Field(596, ge=1, description="documents spoken to train on, about 8 h of stories")
    evaluation_documents: int = Field(80, ge=1, description="documents to measure phones on")
    seed: int = Field(0, ge=0, description="seeds every k-means")
    mfcc_clusters: int = Field(
        256, ge=2, description="clusters of 39-dimensional MFCCs, the targets of iteration 1; chosen, not tuned"
    )
    first: HubertTrainingSettings = HubertTrainingSettings()
    feature_layer: int = Field(5, ge=1, description="layer of iteration 1 whose clusters are iteration 2's targets")
    feature_clusters: tuple[int, ...] = Field(
        (100, 500),
        min_length=1,
        description="clusters of each codebook of iteration 2's targets (HuBERT section III-C)",
    )
    second: HubertTrainingSettings = HubertTrainingSettings(seed=1)
    layer: int = Field(5, ge=1, description="layer of iteration 2 that becomes units")
    n_units: int = Field(500, ge=2, description="clusters that become units (docs/paper.md 1.2)")
    kmeans_frames: int = Field(200_000, ge=500, description="frames that the k-means is fitted on; chosen, not tuned")


class AssetsSettings(Settings):
    """The models of the offline default; jobs/assets.py trains them."""

    encoder: EncoderTrainingSettings = EncoderTrainingSettings()
    text_lm: TextLmSettings = TextLmSettings()
    source_filter: Annotated[SourceFilterSettings, Chosen("decoder")] = SourceFilterSettings()
    hifigan: Annotated[HifiganSettings, Chosen("decoder")] = HifiganSettings()
    decoder: Literal["source_filter", "hifigan"] = Field(
        "source_filter",
        description="which decoder is trained, by the settings of its name",
    )
    make: Literal["all", "decoder", "text_lm"] = Field(
        "all",
        description="all: an encoder, its decoder and a text LM; decoder: one for the encoder of speech.encoder; "
        "text_lm: a text LM",
    )
    intelligibility_documents: int = Field(
        12, ge=1, description="evaluation stories whose word error rate is measured; chosen, not tuned"
    )


def check_batches(config: AssetsSettings, workers: int) -> None:
    """BadInput when a worker would have no crop of the batches of what is trained."""
    if config.make == "text_lm":
        return
    if config.make == "all":
        check_crops(config.encoder.first.batch_crops, workers, "assets.encoder.first.batch_crops")
        check_crops(config.encoder.second.batch_crops, workers, "assets.encoder.second.batch_crops")
    if config.decoder == "hifigan":
        check_crops(config.hifigan.batch, workers, "assets.hifigan.batch")
    else:
        check_crops(config.source_filter.batch, workers, "assets.source_filter.batch")
