"""The stages around the unit vocoder: trained on stored recordings, and its speech measured beside the voice's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from slamray.config.assets import AssetsSettings, UnitVocoderSettings
from slamray.config.compute import Compute
from slamray.config.speech import EncoderSettings
from slamray.speech.audio import resample
from slamray.speech.decoders.source_filter import load_vocoder
from slamray.speech.voices.hibari import Hibari
from slamray.stage import tables
from slamray.stages import corpus, intelligibility, recordings, vocoder

STORY = ["Once upon a time there was a little girl.", "She wanted to play with her friends in the garden."]
CONFIG = AssetsSettings(
    decoder="hifigan",
    unit_vocoder=UnitVocoderSettings(
        embedding_dim=16, channels=32, resblock_dilations=(1,), discriminator_divisor=32, documents=1, budget="steps:4",
        batch=2, crop_frames=8, adversarial_share=0.5,
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `recordings` and `corpus` as their stages leave them: one story, in both splits."""
    folder = tmp_path_factory.mktemp("spoken")
    speech = Hibari().speak(STORY, seed=0)
    pcm = (np.clip(resample(speech.audio, speech.rate_hz, 16_000), -1, 1) * 32767).astype(np.int16)
    row = {"doc_id": "story", "audio": pcm.tobytes(), "phones": "[]"}
    for split in ("train", "evaluation"):
        path = folder / "recordings" / split / "shard-000000.parquet"
        tables.write_table(path, pa.Table.from_pylist([row], recordings.SCHEMA))
    document = {"doc_id": "story", "sentences": STORY, "source": "test", "split": "evaluation"}
    tables.write_table(folder / "corpus" / corpus.DOCUMENTS, pa.Table.from_pylist([document], corpus.SCHEMA))
    return folder


def test_the_stage_trains_a_hifigan_that_loads_by_its_folder_and_its_words_are_counted(
    spoken: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    reports: list[dict[str, float]] = []
    audio = spoken / "recordings"
    encoder = EncoderSettings(
        model=str(tiny_encoder), layer=2, centroids=str(tiny_encoder / "centroids.safetensors"), pad_samples=40
    )
    compute = Compute(dtype="float32", report_every_steps=2)
    facts = vocoder._run(CONFIG, compute, audio, encoder, tmp_path, lambda metrics: reports.append(metrics))
    assert facts["audio_mel_error_db"] > 0 and [row["step"] for row in reports] == [2, 4]
    trained = load_vocoder(tmp_path / "model")
    assert trained.rate_hz == 16_000 and len(trained(np.array([1, 2]), np.array([2, 1]))) == 3 * 640
    measured = intelligibility.measure(audio, spoken / "corpus", encoder, tmp_path / "model", documents=5)
    assert (measured["stories"], measured["words"]) == (1, 9 + 10)
    rates = measured["word_error_rate"]
    assert rates["voice"] < 0.35  # 0.11 over whole stories
    assert rates["true_durations"] > 0.5 and rates["predicted_durations"] > 0.5  # four steps teach no speech
