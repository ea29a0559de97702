"""FastSpeech 2 (Conformer) with HiFi-GAN from transformers: one voice, LJ Speech, 22 050 Hz; made for sTinyStories.

The paper spoke sTinyStories with fairseq's FastSpeech 2 on the same speaker (docs/paper.md 1.6); this is the one that
transformers loads. Its tokeniser needs g2p_en, and so NLTK and its downloads; here the phonemes are misaki's, written
in ARPAbet. The model draws no noise, so the seed changes nothing.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from transformers import FastSpeech2ConformerWithHifiGan

from slamray.config.speech import TtsSettings
from slamray.errors import BadInput
from slamray.given import opening, read_mapping
from slamray.speech.hub_models import model_folder
from slamray.speech.voices.base import EDGE, STRESS, PhonemeVoice
from slamray.speech.voices.english import EnglishReader, load_reader

KEY = "speech.tts.fastspeech2.model"
FILES = ("config.json", "vocab.json", "model.safetensors", "pytorch_model.bin")
END = "<sos/eos>"
RATE_HZ = 22_050  # of LJ Speech; the model's config.json does not say it

# misaki's American phonemes (its EN_PHONES.md) in ARPAbet. Vowels take a stress digit; a flap is a T, and a
# reduced vowel what the CMU dictionary writes for it.
CONSONANTS = {
    "b": "B",
    "d": "D",
    "f": "F",
    "h": "HH",
    "j": "Y",
    "k": "K",
    "l": "L",
    "m": "M",
    "n": "N",
    "p": "P",
    "s": "S",
    "t": "T",
    "v": "V",
    "w": "W",
    "z": "Z",
    "\u0261": "G",
    "\u014b": "NG",
    "\u0279": "R",
    "\u0283": "SH",
    "\u0292": "ZH",
    "\u00f0": "DH",
    "\u03b8": "TH",
    "\u02a4": "JH",
    "\u02a7": "CH",
    "\u027e": "T",
    "T": "T",
    "\u0294": "T",
}
VOWELS = {
    "\u0259": "AH",
    "\u1d4a": "AH",
    "\u1d7b": "IH",
    "i": "IY",
    "u": "UW",
    "\u0251": "AA",
    "\u0254": "AO",
    "\u025b": "EH",
    "\u026a": "IH",
    "\u028a": "UH",
    "\u028c": "AH",
    "\u00e6": "AE",
    "A": "EY",
    "I": "AY",
    "W": "AW",
    "Y": "OY",
    "O": "OW",
    "\u025c": "ER",
    "a": "AA",
    "\u0252": "AA",
    "Q": "OW",
    "\u0250": "AH",
}
RHOTIC = {"\u0259": "ER", "\u025c": "ER"}  # with the R that follows them
PAUSES = {",": ",", ".": ".", "?": "?", "!": "!", ";": ",", ":": ",", "\u2014": ",", "\u2026": "."}


class FastSpeech2(PhonemeVoice):
    """The model and the ids of its tokens."""

    rate_hz = RATE_HZ
    early_frames = 0  # durations were learnt from forced alignments

    def __init__(self, model: FastSpeech2ConformerWithHifiGan, vocab: dict[str, int]) -> None:
        self._model, self._vocab = model.eval(), vocab
        self.frame_seconds = math.prod(model.vocoder.config.upsample_rates) / RATE_HZ
        self.alphabet = frozenset(CONSONANTS | VOWELS | PAUSES) | frozenset(STRESS + ' "()\u201c\u201d\u02d0')
        self._reader = load_reader(british=False)
        needed = {*CONSONANTS.values(), *(f"{v}{digit}" for v in (*VOWELS.values(), "ER") for digit in "012"), END}
        missing = sorted({*needed, *PAUSES.values()} - set(vocab))
        if missing:
            raise BadInput(f"{KEY}: its vocab.json has no {' '.join(missing)}; it is of another phoneme alphabet")

    def reader(self, voice: str = "") -> EnglishReader:
        """American English, whatever the voice; render refuses a wrong one."""
        return self._reader

    def render(self, phonemes: str, rng: np.random.Generator, voice: str) -> tuple[np.ndarray, np.ndarray]:
        """See PhonemeVoice; a sign that is no token of the model has no frames."""
        if voice:
            raise BadInput(f"fastspeech2 has one voice, and none is called {voice!r}")
        tokens, signs = to_arpabet(phonemes)
        ids = torch.tensor([[self._vocab[token] for token in (*tokens, END)]])
        with torch.no_grad():
            output = self._model(input_ids=ids)
        speed = self._model.config.model_config.speaking_speed
        frames = torch.round(output.duration_outputs[0].float() * speed).long().numpy()
        durations = np.zeros(len(EDGE + phonemes + EDGE), np.int64)
        durations[[*(sign + 1 for sign in signs), -1]] = frames
        return output.waveform[0].float().numpy(), durations


def load(tts: TtsSettings) -> FastSpeech2:
    """From a local folder, or a hub id at a revision. BadInput when files are missing or are something else."""
    model = tts.fastspeech2.model
    folder = model_folder(model, tts.fastspeech2.revision, FILES, KEY)
    for name in ("vocab.json", "config.json"):
        if not (folder / name).is_file():
            raise BadInput(f"{KEY}={model}: needs config.json and vocab.json; there is no {name}")
    vocab, kind = read_mapping(folder / "vocab.json"), read_mapping(folder / "config.json").get("model_type")
    if kind != "fastspeech2_conformer_with_hifigan":
        raise BadInput(f"{KEY}={model}: its config.json says {kind}, not fastspeech2_conformer_with_hifigan")
    with opening(f"{KEY}={model}", "fetch it again", folder, "its weights cannot be read"):
        return FastSpeech2(FastSpeech2ConformerWithHifiGan.from_pretrained(folder), vocab)


def to_arpabet(phonemes: str) -> tuple[list[str], list[int]]:
    """Tokens of g2p_en's alphabet (`HH`, `AH0`, `,`) and, for each, the index of the sign that it stands for."""
    tokens: list[str] = []
    signs: list[int] = []
    stress = "0"
    for place, sign in enumerate(phonemes):
        before = phonemes[place - 1] if place else ""
        if sign in STRESS:
            stress = "1" if sign == STRESS[0] else "2"
        elif sign == "\u0279" and before in RHOTIC:
            tokens[-1] = RHOTIC[before] + tokens[-1][-1]
        elif sign in VOWELS:
            tokens.append(VOWELS[sign] + stress)
            signs.append(place)
            stress = "0"
        elif token := CONSONANTS.get(sign) or PAUSES.get(sign):
            tokens.append(token)
            signs.append(place)
    return tokens, signs
