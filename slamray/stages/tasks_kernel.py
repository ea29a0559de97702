"""Kernel that hears held-out sentences by an independent recogniser: the voice itself, and its units decoded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq

from slamray.config.speech import TtsSettings
from slamray.data.item_pairs import spoken
from slamray.evaluate.wer import Recogniser
from slamray.speech.audio import RATE_HZ, from_pcm, resample
from slamray.speech.decoders.table import load_decoder
from slamray.speech.fetch import place_of
from slamray.stage.folder import Folder
from slamray.stage.records import from_table
from slamray.stages.speech_kernels import Speak, one_thread
from slamray.stages.tasks import HeardSentence, SentenceBatch


@dataclass(frozen=True)
class BatchDone:
    """A batch whose result lies in its file."""

    number: int


class HearVoice:
    """Kernel: a batch of sentences to what is heard in them. The voice says them again, the same by their ids."""

    def __init__(self, tts: TtsSettings, vocoder: str) -> None:
        one_thread()
        self._voice, self._recognise = Speak(tts), Recogniser()
        self._decoder = load_decoder(place_of(vocoder, "evaluate.vocoder"))

    def __call__(self, batch: SentenceBatch) -> BatchDone:
        out = Folder(batch.out)
        with pq.ParquetFile(out.fetch("asked.parquet")) as file:
            sentences = from_table(file.read_row_group(batch.number), HeardSentence)
        rows = [
            {
                "key": one.key,
                "text": one.text,
                "units": list(one.units),
                "voice": self._recognise(from_pcm(self._voice.speak(spoken(one.text)).pcm)),
                "real_units": self._heard(np.array(one.units, np.uint16)),
            }
            for one in sentences
        ]
        out.write_json(batch.file, rows)
        return BatchDone(batch.number)

    def _heard(self, units: np.ndarray) -> str:
        return self._recognise(resample(self._decoder(units), self._decoder.rate_hz, RATE_HZ)) if len(units) else ""
