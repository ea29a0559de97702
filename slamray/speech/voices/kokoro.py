"""Kokoro-82M (Apache-2.0): the four voices of SpokenSwag (docs/paper.md 1.6) and others, American and British, 24 kHz.

The published files are loaded without the `kokoro` package, which needs misaki[en] and so spaCy, a model that it
downloads at run time, and espeak-ng (GPL-3). hibari's port of the same misaki reads the text. This network and the
package's give the same samples (tests/speech/voices/test_kokoro.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from slamray.config.base import asset_path
from slamray.config.speech import DEFAULT_VOICE, TtsSettings
from slamray.errors import BadInput
from slamray.given import files_below, read_mapping, reason_of
from slamray.speech.hub_models import model_folder
from slamray.speech.voices.base import EARLY_FRAMES, PhonemeVoice
from slamray.speech.voices.english import EnglishReader, load_reader

if TYPE_CHECKING:  # torch takes seconds to import, and a check of settings needs none of it
    import torch

    from slamray.speech.voices.kokoro_net import KokoroNet

KEY = "speech.tts.kokoro.model"
FILES = ("config.json", "*.pth", "voices/*.pt")
EDGE_ID = 0  # before and after the phonemes


class Kokoro(PhonemeVoice):
    """A network, its alphabet, and a folder of voices; each voice is read when it first speaks."""

    early_frames = EARLY_FRAMES

    def __init__(self, net: KokoroNet, vocab: dict[str, int], voices: Path, voice: str) -> None:
        self._net, self._vocab, self._folder, self._default = net, vocab, voices, voice
        self.rate_hz = net.rate_hz
        self.frame_seconds = net.samples_per_frame / net.rate_hz
        self.alphabet = vocab.keys()
        self._voices: dict[str, torch.Tensor] = {}
        self._readers: dict[bool, EnglishReader] = {}
        self._voice(voice)

    def reader(self, voice: str = "") -> EnglishReader:
        """American or British, by the first letter of the voice's name, as Kokoro's own pipeline chooses."""
        british = (voice or self._default).startswith("b")
        if british not in self._readers:
            self._readers[british] = load_reader(british)
        return self._readers[british]

    def render(self, phonemes: str, rng: np.random.Generator, voice: str) -> tuple[np.ndarray, np.ndarray]:
        """See PhonemeVoice; rng seeds the source's noise. BadInput when the string is longer than the model reads."""
        styles = self._voice(voice or self._default)
        longest = min(self._net.bert.config.max_position_embeddings - 2, len(styles))
        if len(phonemes) > longest:
            raise BadInput(f"{len(phonemes)} phonemes in one clause; Kokoro reads {longest}: cut the sentence")
        unknown = [sign for sign in phonemes if sign not in self._vocab]
        if unknown:
            raise BadInput(f"Kokoro has no id for the phonemes {unknown}; its config.json is of another alphabet")
        ids = [EDGE_ID, *(self._vocab[sign] for sign in phonemes), EDGE_ID]
        # A voice is a table of styles by the length of what is said, as Kokoro's pipeline reads it.
        return self._net.speak(ids, styles[len(phonemes) - 1], seed=int(rng.integers(2**63)))

    def _voice(self, name: str) -> torch.Tensor:
        """Styles float32 (longest, 1, 2 S) of a voice. BadInput when there is none of this name."""
        if name not in self._voices:
            path = self._folder / f"{name}.pt"
            if Path(name).name != name or not path.is_file():
                known = " ".join(sorted(p.stem for p in self._folder.glob("*.pt")))
                raise BadInput(f"speech.tts.kokoro: no voice is called {name}; there are {known}")
            self._voices[name] = self._net.load_styles(path)
        return self._voices[name]


def load(tts: TtsSettings) -> Kokoro:
    """From a local folder, or a hub id at a revision. BadInput when files are missing or are something else."""
    from slamray.speech.voices.kokoro_net import load_net, load_tensors

    model = tts.kokoro.model
    folder = model_folder(model, tts.kokoro.revision, FILES, KEY)
    weights = [path for path in files_below(folder, (".pth",)) if path.parent == folder]
    if not (folder / "config.json").is_file() or len(weights) != 1:
        raise BadInput(f"{KEY}={model}: it must hold config.json and one .pth; there are {len(weights)}")
    config = read_mapping(folder / "config.json")
    try:
        net = load_net(config, load_tensors(weights[0]))
        vocab = {str(sign): int(number) for sign, number in config["vocab"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{KEY}={model}: is not Kokoro as published ({reason_of(error)})") from error
    return Kokoro(net, vocab, folder / "voices", tts.kokoro.voice)


def check(tts: TtsSettings, voices: Sequence[str]) -> None:
    """BadInput when the folder has no such voices, or a name is none of Kokoro's; of a hub id names alone are known."""
    folder = Path(asset_path(tts.kokoro.model))
    keys = [("speech.tts.kokoro.voice", tts.kokoro.voice)]
    for key, voice in keys + [("preferences.voices", voice) for voice in voices if voice != DEFAULT_VOICE]:
        if not re.fullmatch("[ab][fm]_[a-z]+", voice):
            raise BadInput(f"{key}: {voice} is no English voice of Kokoro; they are called like af_heart, bm_george")
        if folder.is_dir() and not (folder / "voices" / f"{voice}.pt").is_file():
            raise BadInput(f"{key}: {tts.kokoro.model} has no voices/{voice}.pt")
