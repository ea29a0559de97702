"""The stages around a unit decoder: trained on stored recordings, and its speech measured beside the voice's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from slamray.config.assets import HifiganSettings
from slamray.config.compute import Compute
from slamray.config.speech import EncoderSettings
from slamray.data.text import TextDocument
from slamray.speech.audio import RATE_HZ, resample, to_pcm
from slamray.speech.decoders.table import load_decoder
from slamray.speech.voices.hibari import Hibari
from slamray.stage.folder import Folder
from slamray.stage.parts import write_parts
from slamray.stage.records import to_table
from slamray.stages import decoder, intelligibility, spoken_audio
from slamray.stages.spoken_audio import SpokenDocument

STORY = ["Once upon a time there was a little girl.", "She wanted to play with her friends in the garden."]
HIFIGAN = HifiganSettings(
    embedding_dim=16,
    channels=32,
    resblock_dilations=(1,),
    discriminator_divisor=32,
    documents=1,
    budget="steps:4",
    batch=2,
    crop_frames=8,
    adversarial_share=0.5,
)


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Folders `recordings` and `corpus` as their stages leave them: one story, in both splits."""
    folder = Folder(tmp_path_factory.mktemp("spoken"))
    speech = Hibari().speak(STORY, seed=0)
    pcm = to_pcm(resample(speech.audio, speech.rate_hz, RATE_HZ))
    table = to_table([SpokenDocument("story", pcm, ())], SpokenDocument)
    for split in spoken_audio.SPLITS:
        (folder / "recordings" / split).write_table(spoken_audio.recordings_file(0), table)
    document = TextDocument("story", STORY, "test", "evaluation")
    write_parts(folder / "corpus", "evaluation", [document], TextDocument)
    return folder


def test_the_stage_trains_a_hifigan_that_loads_by_its_folder_and_its_words_are_counted(
    spoken: Folder, tiny_encoder: Path, tmp_path: Path
) -> None:
    reports: list[dict[str, float]] = []
    audio = spoken / "recordings"
    encoder = EncoderSettings(
        model=str(tiny_encoder), layer=2, centroids=str(tiny_encoder / "centroids.safetensors"), pad_samples=40
    )
    hearing, out = decoder.encoder_of({}, encoder, 2), Folder(tmp_path)
    facts = decoder._train(HIFIGAN, hearing, Compute(report_every_steps=2), audio, out, reports.append)
    assert facts["audio_mel_error_db"] > 0 and [row["step"] for row in reports] == [2, 4]
    trained = load_decoder(tmp_path / "model")
    assert trained.rate_hz == 16_000 and len(trained(np.array([1, 2]), np.array([2, 1]))) == 3 * 640
    measured = intelligibility.measure_intelligibility(audio, spoken / "corpus", hearing, out / "model", documents=5)
    assert (measured.stories, measured.words) == (1, 9 + 10)
    rates = measured.word_error_rate
    assert rates["voice"] < 0.35  # 0.11 over whole stories
    assert rates["true_durations"] > 0.5 and rates["predicted_durations"] > 0.5  # four steps teach no speech
