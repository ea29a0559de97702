"""A model of text and speech continues what it hears or reads, in speech, in text, or in both, as it was taught."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from slamray.commands.generate import main
from slamray.config.base import ASSETS
from slamray.config.speech import EncoderSettings
from slamray.model.saved_vocabulary import set_vocabulary
from slamray.model.text_tokeniser import TextTokeniser
from slamray.model.unit_lm import save_unit_lm
from slamray.speech.audio import load_audio
from slamray.speech.encoders.kmeans import deduplicate
from slamray.speech.encoders.table import check_encoder, open_encoder
from slamray.tokens.joint_documents import by_modality
from slamray.tokens.vocabulary import Vocabulary

RATE_HZ, HOP = 16_000, 640  # of the tiny encoder and its decoder: 25 Hz
TEXT, WRITTEN, SPOKEN = "Tim went to the park.", "He saw a dog.", [3, 14, 7]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "a.wav"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(RATE_HZ), RATE_HZ)
    return path


@pytest.fixture(scope="module")
def encoder(tiny_encoder: Path) -> EncoderSettings:
    return EncoderSettings(
        model=str(tiny_encoder), centroids=f"{tiny_encoder}/centroids.safetensors", layer=2, pad_samples=40,
        dtype="float32",
    )  # fmt: skip


@pytest.fixture(scope="module")
def taught(encoder: EncoderSettings, sound: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """After the sound or the text it writes WRITTEN and says SPOKEN, where it may; where it may do both, one by one."""
    encode = TextTokeniser(ASSETS + "story-lm")
    vocabulary = Vocabulary.joint(encode.vocabulary, check_encoder(encoder).vocabulary)
    (frames,) = open_encoder(encoder, "cpu")([load_audio(sound)], batch_seconds=0)
    heard = [*vocabulary.before_units, *vocabulary.to_tokens(deduplicate(frames)[0]).tolist()]
    read = [vocabulary.bos, vocabulary.text_tag, *encode(TEXT)]
    write = [vocabulary.text_tag, *encode(WRITTEN)]
    speak = [vocabulary.speech_tag, *vocabulary.to_tokens(np.array(SPOKEN)).tolist()]
    rows = [[*heard, *write], [*read, *speak, *write]]
    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=128,
        vocab_size=vocabulary.size, tie_word_embeddings=True,
    )  # fmt: skip
    set_vocabulary(config, vocabulary)
    model = Qwen2ForCausalLM(config)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(80):
        for ids in rows:
            row = torch.tensor([[*ids, vocabulary.bos]])
            model(input_ids=row, labels=row).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    folder = tmp_path_factory.mktemp("taught")
    save_unit_lm(model, folder)
    return folder


@pytest.fixture
def words(taught: Path, encoder: EncoderSettings, tiny_vocoder: Path, tmp_path: Path) -> list[str]:
    return [
        f"checkpoint={taught}", f"speech.encoder.model={encoder.model}", "speech.encoder.layer=2",
        f"speech.encoder.centroids={encoder.centroids}", "speech.encoder.pad_samples=40", f"out={tmp_path / 'out'}",
        "speech.encoder.dtype=float32", f"evaluate.vocoder={tiny_vocoder}", "evaluate.sampling.max_new_tokens=40",
        "evaluate.sampling.top_k=1", "evaluate.sampling.repetition_penalty=1", "model.base=assets:story-lm",
        "say_prompt=false",
    ]  # fmt: skip


def test_a_sound_is_continued_in_text(
    words: list[str], sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, f"input={sound}", "say=text"]) == 0
    assert capsys.readouterr().out.rstrip().splitlines()[-1] == WRITTEN
    assert (tmp_path / "out" / "a.txt").read_text() == f"{WRITTEN}\n"
    assert not (tmp_path / "out" / "a.wav").exists()


def test_a_text_is_continued_in_speech_alone(words: list[str], tmp_path: Path) -> None:
    assert main([*words, f"text={TEXT}"]) == 0
    audio, rate_hz = soundfile.read(tmp_path / "out" / "text.wav")
    assert rate_hz == RATE_HZ and len(audio) % HOP == 0 and len(audio) >= len(SPOKEN) * HOP
    assert not (tmp_path / "out" / "text.txt").exists()


def test_a_text_file_is_continued_in_both_as_the_model_likes(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text(f"\ufeff{TEXT}\n")
    assert main([*words, f"input={tmp_path / 'b.txt'}", "say=both"]) == 0
    assert (tmp_path / "out" / "b.txt").read_text() == f"[3 units of speech] {WRITTEN}\n"
    assert (tmp_path / "out" / "b.wav").exists()


def test_what_the_words_lack_or_have_twice_is_told(
    words: list[str], sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert "input, text: give one of them" in capsys.readouterr().err
    assert main([*words, f"text={TEXT}", f"input={sound}"]) == 2
    other = [word for word in words if not word.startswith("model.base")]
    (tmp_path / "lm").mkdir()
    assert main([*other, f"model.base={tmp_path / 'lm'}", f"text={TEXT}"]) == 2
    assert "no tokeniser is in it" in capsys.readouterr().err


def test_stretches_of_ids_are_told_apart_by_modality() -> None:
    joint = Vocabulary.joint(Vocabulary.of_text(10, 0, 1, "t"), Vocabulary.of_units(5, "u"))
    ids = np.array([16, 4, 5, 15, 10, 11, 16, 6, 1])
    assert [(speech, own.tolist()) for speech, own in by_modality(ids, joint)] == [
        (False, [4, 5]), (True, [10, 11]), (False, [6]),
    ]  # fmt: skip
    assert list(by_modality(np.array([1, 16]), joint)) == []
