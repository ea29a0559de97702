"""FastSpeech 2 from a tiny folder in the published layout: ARPAbet, spans by durations, errors."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    FastSpeech2ConformerConfig,
    FastSpeech2ConformerHifiGanConfig,
    FastSpeech2ConformerWithHifiGan,
    FastSpeech2ConformerWithHifiGanConfig,
)

from slamray.config.speech import FastSpeech2Settings, TtsSettings
from slamray.errors import BadInput
from slamray.speech.voices.english import load_reader
from slamray.speech.voices.fastspeech2 import FastSpeech2, load, to_arpabet
from slamray.speech.voices.table import load_voice

CONSONANTS = (
    "B", "CH", "D", "DH", "F", "G", "HH", "JH", "K", "L", "M", "N", "NG", "P", "R", "S", "SH", "T", "TH", "V", "W", "Y",
    "Z", "ZH",
)  # fmt: skip
VOWELS = ["AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW"]
# espnet's LJ Speech vocabulary: the 39 phonemes of the CMU dictionary with stress, six marks, three specials: 78.
VOCABULARY = ["<blank>", "<unk>", *CONSONANTS, *(v + d for v in VOWELS for d in "012"), *",.?!'", "..", "<sos/eos>"]


def settings(folder: Path) -> TtsSettings:
    return TtsSettings(backend="fastspeech2", fastspeech2=FastSpeech2Settings(model=str(folder)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fastspeech2")
    small = {"encoder_layers": 1, "decoder_layers": 1, "encoder_linear_units": 16, "decoder_linear_units": 16}
    channels = {f"{name}_predictor_channels": 16 for name in ("duration", "energy", "pitch")}
    torch.manual_seed(0)
    config = FastSpeech2ConformerWithHifiGanConfig(
        model_config=FastSpeech2ConformerConfig(
            hidden_size=16, vocab_size=78, num_mel_bins=8, speech_decoder_postnet_units=8, **small, **channels
        ).to_dict(),
        vocoder_config=FastSpeech2ConformerHifiGanConfig(model_in_dim=8, upsample_initial_channel=32).to_dict(),
    )
    model = FastSpeech2ConformerWithHifiGan(config)
    # An untrained predictor says exp(0) - 1 = 0 frames for everything: make it say about three.
    torch.nn.init.constant_(model.model.duration_predictor.linear.bias, float(np.log(4.0)))
    torch.nn.init.normal_(model.model.duration_predictor.linear.weight, std=0.1)
    model.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(VOCABULARY)}))
    return folder


@pytest.fixture(scope="module")
def voice(folder: Path) -> FastSpeech2:
    return load(settings(folder))


@pytest.mark.parametrize(
    ("text", "arpabet"),  # as the CMU dictionary writes the words
    [
        ("water", "W AO1 T ER0"), ("bird", "B ER1 D"), ("church", "CH ER1 CH"), ("joyful", "JH OY1 F AH0 L"),
        ("measure", "M EH1 ZH ER0"), ("thinking", "TH IH1 NG K IH0 NG"), ("judge", "JH AH1 JH"),
        ("surround", "S ER0 AW1 N D"), ("Played, Tom!", "P L EY1 D , T AA1 M !"),
    ],
)  # fmt: skip
def test_text_becomes_the_phonemes_of_the_cmu_dictionary(text: str, arpabet: str) -> None:
    (phonemes,) = load_reader(british=False).phonemise(text)
    tokens, signs = to_arpabet(phonemes)
    assert " ".join(tokens) == arpabet
    assert signs == sorted(set(signs)) and len(signs) == len(tokens)


def test_every_phoneme_that_the_dictionaries_write_has_a_token(voice: FastSpeech2) -> None:
    assert {sign for phonemes in voice.lexicon() for sign in phonemes} - {" ", "-"} <= set(voice.alphabet)


def test_durations_add_up_to_the_audio_and_words_lie_where_their_phones_are(voice: FastSpeech2) -> None:
    speech = voice.speak(["Tom had a dog.", "It ran away."], seed=0)
    assert speech.rate_hz == 22_050 and len(speech.audio) % 256 == 0 and speech.audio.dtype == np.float32
    assert [word.text for word in speech.words] == ["Tom", "had", "a", "dog.", "It", "ran", "away."]
    for spans in (speech.phones, speech.sentences):
        assert spans[0].start_seconds == 0
        assert all(a.end_seconds == b.start_seconds for a, b in pairwise(spans))
        assert spans[-1].end_seconds == pytest.approx(len(speech.audio) / 22_050)
    assert all(word.end_seconds > word.start_seconds for word in speech.words)


def test_a_word_is_as_long_as_the_model_says_its_phonemes_are(voice: FastSpeech2) -> None:
    (phonemes,) = voice.phonemise("Tom had.")
    ids = torch.tensor([[VOCABULARY.index(t) for t in ["T", "AA1", "M", "HH", "AE2", "D", ".", "<sos/eos>"]]])
    assert to_arpabet(phonemes)[0] == ["T", "AA1", "M", "HH", "AE2", "D", "."]
    with torch.no_grad():
        output = voice._model(input_ids=ids)
    frames = output.duration_outputs[0].numpy()
    speech = voice.speak(["Tom had."], seed=0)
    np.testing.assert_array_equal(speech.audio, output.waveform[0].numpy())
    edges = [edge for word in speech.words for edge in (word.start_seconds, word.end_seconds)]
    expected = np.array([0, frames[:3].sum(), frames[:3].sum(), frames[:6].sum()]) * 256 / 22_050
    np.testing.assert_allclose(edges, expected)


def test_no_noise_so_the_seed_changes_nothing(voice: FastSpeech2) -> None:
    assert voice.speak(["Yes."], 0).audio.tobytes() == voice.speak(["Yes."], 1).audio.tobytes()


def test_what_cannot_be_spoken_or_loaded_is_bad_input(voice: FastSpeech2, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"one voice, and none is called 'af_heart'"):
        voice.speak(["Yes."], 0, "af_heart")
    with pytest.raises(BadInput, match=r"nothing to speak"):
        voice.speak([""], 0)
    with pytest.raises(BadInput, match=r"needs config.json and vocab.json"):
        load(settings(tmp_path))
    (tmp_path / "vocab.json").write_text("{}")
    (tmp_path / "config.json").write_text('{"model_type": "vits"}')
    with pytest.raises(BadInput, match=r"says vits, not fastspeech2_conformer_with_hifigan"):
        load(settings(tmp_path))
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(BadInput, match=r"weights cannot be read"):
        load(settings(tmp_path))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(BadInput, match=r"vocab.json has no .*AA0"):
        load(settings(tmp_path))


def test_the_config_chooses_it(folder: Path) -> None:
    assert isinstance(load_voice(settings(folder)), FastSpeech2)
