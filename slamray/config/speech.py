"""Settings of voices, encoders and the stages that turn text or recordings into units."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from slamray.config.base import ASSETS, Chosen, Settings, execution
from slamray.config.outside import Revision, file_field, model_field

DEFAULT_VOICE = "default"  # the back end's default voice, where a recipe names none


class KokoroSettings(Settings):
    """Kokoro-82M, the voices of SpokenSwag (docs/paper.md 1.6)."""

    model: Annotated[str, model_field("speech.tts.kokoro.model")] = Field(
        "hexgrad/Kokoro-82M", description="local folder or hub id: config.json, *.pth, voices/*.pt"
    )
    revision: Revision = Field(
        "f3ff3571791e39611d31c381e3a41a3af07b4987", description="commit of the hub id; null: as the first run finds it"
    )
    voice: str = Field("af_heart", description="who speaks where no voice is asked for (section 4.4 has four)")


class FastSpeech2Settings(Settings):
    """FastSpeech 2 with HiFi-GAN, the voice of sTinyStories (docs/paper.md 1.6)."""

    model: Annotated[str, model_field("speech.tts.fastspeech2.model")] = Field(
        "espnet/fastspeech2_conformer_with_hifigan",
        description="local folder or hub id of a FastSpeech2ConformerWithHifiGan with its vocab.json (LJ Speech)",
    )
    revision: Revision = Field(None, description="commit of the hub id; null: as the first run finds it")


class TtsSettings(Settings):
    """Which voice speaks."""

    backend: Literal["hibari", "kokoro", "fastspeech2"] = Field(
        "hibari", description="hibari: one voice, 24 kHz, offline, Apache-2.0; the others need their weights"
    )
    seed: int = Field(0, ge=0, description="seeds the noise in each utterance, together with its id")
    kokoro: Annotated[KokoroSettings, Chosen("backend")] = KokoroSettings()
    fastspeech2: Annotated[FastSpeech2Settings, Chosen("backend")] = FastSpeech2Settings()


class EncoderSettings(Settings):
    """A HuBERT and its k-means, which turn sound into units (docs/paper.md 1.2)."""

    model: Annotated[str, model_field("speech.encoder.model")] = Field(
        ASSETS + "hubert-nano", description="local folder or hub id of a transformers HubertModel"
    )
    revision: Revision = Field(None, description="commit of the hub id; null: as the first run finds it")
    layer: int = Field(5, ge=1, description="hidden_states[layer] is quantised")
    centroids: Annotated[str, file_field("speech.encoder.centroids")] = Field(
        ASSETS + "hubert-nano/centroids.safetensors", description="k-means matrix `centroids_KD`"
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="bfloat16 changes 0.5 % of hubert-nano's units"
    )
    pad_samples: int = Field(
        580, ge=0, description="zeros before and after a recording; 580 for hubert-nano, 40 for mhubert-base-25hz"
    )


class ListeningSettings(Settings):
    """Recordings to units."""

    encoder: EncoderSettings = EncoderSettings()
    shard_documents: int = Field(
        8, ge=1, description="documents in a shard, the unit of work that a kill can lose; chosen, not tuned"
    )
    sample_documents: int = execution(
        3, ge=0, description="documents whose audio is kept to be listened to; it changes no unit"
    )
    max_bad_share: float = execution(
        0.01, ge=0, le=1, description="more quarantined rows than this fail the stage; chosen, not tuned"
    )


class SpeakingSettings(ListeningSettings):
    """Text to units."""

    tts: TtsSettings = TtsSettings()


class SpeechSettings(SpeakingSettings):
    """How text and recordings become units, and how much of the corpus is spoken to train on."""

    train_documents: int | None = Field(
        0,
        ge=0,
        description="speak this many training documents, in the order of their ids; 0: all; null: none, train on "
        "recordings alone",
    )
    validation_documents: int = Field(0, ge=0, description="the same for validation; 0: all")
