"""Kokoro-82M (Apache-2.0): the four voices of SpokenSwag (docs/paper.md 1.6) and others, American and British, 24 kHz.

The published files are loaded without the `kokoro` package, which needs misaki[en] and so spaCy, a model that it
downloads at run time, and espeak-ng (GPL-3). hibari's port of the same misaki reads the text. This network and the
package's give the same samples (tests/speech/test_voice_kokoro.py).
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hibari.tts import Hibari as HibariModel

from slamray.errors import BadInput
from slamray.speech.hub import model_folder
from slamray.speech.voices.base import PhonemeVoice
from slamray.speech.voices.hibari import EARLY_FRAMES, english_reader
from slamray.speech.voices.kokoro_decoder import RATE_HZ
from slamray.speech.voices.kokoro_net import KokoroNet, load_net

KEY = "speech.tts.kokoro.model"
FILES = ("config.json", "*.pth", "voices/*.pt")
EDGE_ID = 0  # before and after the phonemes


class Kokoro(PhonemeVoice):
    """A network, its alphabet, and a folder of voices; each voice is read when it first speaks."""

    rate_hz = RATE_HZ
    early_frames = EARLY_FRAMES  # measured on hibari, which was distilled from Kokoro and has its durations

    def __init__(self, net: KokoroNet, vocab: dict[str, int], voices: Path, voice: str) -> None:
        self._net, self._vocab, self._folder, self._default = net, vocab, voices, voice
        self.frame_seconds = net.samples_per_frame / RATE_HZ
        self.alphabet = vocab.keys()
        self._voices: dict[str, torch.Tensor] = {}
        self._readers: dict[bool, HibariModel] = {}
        self._voice(voice)

    @classmethod
    def load(cls, model: str, revision: str | None, voice: str) -> Kokoro:
        """From a local folder, or a hub id at a revision. BadInput when files are missing or are something else."""
        folder = model_folder(model, revision, FILES, KEY)
        weights = sorted(folder.glob("*.pth"))
        if not (folder / "config.json").is_file() or len(weights) != 1:
            raise BadInput(f"{KEY}={model}: it must hold config.json and one .pth; there are {len(weights)}")
        try:
            config = json.loads((folder / "config.json").read_text())
            net = load_net(config, _load_tensors(weights[0]))
            vocab = {str(sign): int(number) for sign, number in config["vocab"].items()}
        except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise BadInput(f"{KEY}={model}: is not Kokoro as published ({type(error).__name__} {reason})") from error
        return cls(net, vocab, folder / "voices", voice)

    def reader(self, voice: str = "") -> HibariModel:
        """American or British, by the first letter of the voice's name, as Kokoro's own pipeline chooses."""
        british = (voice or self._default).startswith("b")
        if british not in self._readers:
            self._readers[british] = english_reader(british)
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
        ids = torch.tensor([[EDGE_ID, *(self._vocab[sign] for sign in phonemes), EDGE_ID]])
        noise = torch.Generator().manual_seed(int(rng.integers(2**63)))
        # A voice is a table of styles by the length of what is said, as Kokoro's pipeline reads it.
        audio, durations = self._net(ids, styles[len(phonemes) - 1], noise)
        return audio.numpy(), durations.numpy()

    def _voice(self, name: str) -> torch.Tensor:
        """Styles float32 (longest, 1, 2 S) of a voice. BadInput when there is none of this name."""
        if name not in self._voices:
            path = self._folder / f"{name}.pt"
            if Path(name).name != name or not path.is_file():
                known = " ".join(sorted(p.stem for p in self._folder.glob("*.pt")))
                raise BadInput(f"speech.tts.kokoro: no voice is called {name}; there are {known}")
            styles = _load_tensors(path)
            width = 2 * self._net.style
            if not isinstance(styles, torch.Tensor) or styles.shape[1:] != (1, width):
                raise BadInput(f"{path}: not the styles of a voice, (length, 1, {width})")
            self._voices[name] = styles.float()
        return self._voices[name]


def _load_tensors(path: Path) -> Any:
    """The content of a file of torch.save, if it is tensors and dicts; nothing in the file is executed."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise BadInput(f"{path}: cannot be read as tensors ({str(error).splitlines()[0]})") from error
