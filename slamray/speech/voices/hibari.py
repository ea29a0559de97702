"""hibari, the offline voice."""

from __future__ import annotations

import numpy as np
import onnx
from hibari import dsp
from hibari.tts import Hibari as HibariModel
from hibari.voices import VOICES, voice_path

from slamray.config.speech import TtsSettings
from slamray.errors import BadInput
from slamray.speech.voices.base import EARLY_FRAMES, PhonemeVoice
from slamray.speech.voices.english import EnglishReader

FRAME_SECONDS = 0.025  # unit of hibari's durations: two frames of its 80 Hz spectrum (dsp.HOP / dsp.SR = 12.5 ms)
DURATIONS = "/Cast_32_output_0"  # int64, one per phoneme id: a tensor inside the graph of hibari-tts 0.2.1, no output


class Hibari(PhonemeVoice):
    """hibari-tts (Apache-2.0): one voice distilled from Kokoro, 24 kHz, numpy and onnxruntime.

    voice: a name of hibari.voices; "heart" is in the package, the others are downloaded on first use.
    """

    rate_hz: int = dsp.SR
    frame_seconds = FRAME_SECONDS
    early_frames = EARLY_FRAMES

    def __init__(self, voice: str = "heart", threads: int = 1) -> None:
        if voice not in VOICES:
            raise BadInput(f"no hibari voice is called {voice!r}; choose one of {', '.join(VOICES)}")
        graph = onnx.load(voice_path(voice))
        if not any(DURATIONS in node.output for node in graph.graph.node):
            raise BadInput(f"hibari voice {voice!r} has no tensor {DURATIONS}; install hibari-tts==0.2.1")
        graph.graph.output.append(onnx.helper.make_tensor_value_info(DURATIONS, onnx.TensorProto.INT64, None))
        self._model = HibariModel(voice=voice, model=graph.SerializeToString(), threads=threads)
        self._reader = EnglishReader(self._model)
        self.alphabet = self._model.vocab.keys()

    def reader(self, voice: str = "") -> EnglishReader:
        """The model's own, whatever the voice; render refuses a wrong one."""
        return self._reader

    def render(self, phonemes: str, rng: np.random.Generator, voice: str) -> tuple[np.ndarray, np.ndarray]:
        """See PhonemeVoice; hibari makes its noise with rng."""
        if voice not in ("", self._model.voice):
            raise BadInput(f"hibari speaks with {self._model.voice} here, not with {voice!r}")
        unknown = [sign for sign in phonemes if sign not in self._model.vocab]
        assert not unknown, f"the model has no id for {unknown}"
        inputs = {"ids": np.asarray([self._model.ids(phonemes)], np.int64), "speed": np.ones(1, np.float32)}
        *parts, durations = self._model.sess.run(None, inputs)
        return dsp.synth(*(part[0] for part in parts), rng), durations.ravel()


def load(tts: TtsSettings) -> Hibari:
    """The voice in the package."""
    return Hibari()
