"""Stand-ins for recordings: the same bytes each time, no test sentence in them, and diverse where they should be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from slamray.config.base import asset_path
from slamray.config.corpora import CorpusSettings
from slamray.config.speech import TtsSettings
from slamray.data.text import read_documents, to_document
from slamray.speech.audio import RATE_HZ
from slamray.speech.stand_in import perturb, training_sentences, write_stand_ins
from slamray.speech.voices.table import load_voice


def test_recordings_are_made_once_and_always_the_same(tmp_path: Path) -> None:
    voice = load_voice(TtsSettings())
    assert write_stand_ins(tmp_path / "a", voice, 1) == 2
    assert write_stand_ins(tmp_path / "b", voice, 1) == 2
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.flac"))
    assert [str(path) for path in files] == ["diverse/diverse-00000.flac", "plain/plain-00000.flac"]
    for path in files:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()
        audio, rate_hz = soundfile.read(tmp_path / "a" / path)
        assert rate_hz == RATE_HZ and 5 < len(audio) / rate_hz < 40 and np.abs(audio).max() <= 1
    stamps = {path: (tmp_path / "a" / path).stat().st_mtime_ns for path in files}
    write_stand_ins(tmp_path / "a", voice, 1)
    assert {path: (tmp_path / "a" / path).stat().st_mtime_ns for path in files} == stamps


def test_only_training_text_is_spoken() -> None:
    config = CorpusSettings()
    kept = set(training_sentences(config))
    held = []
    for raw in read_documents(asset_path(config.paths[0]), config.text_column):
        found = to_document(raw, config.min_words, config.max_words, config.validation_share, config.evaluation_share)
        if not isinstance(found, str) and found.split == "evaluation":
            held.append(found.sentences)
    assert len(held) > 300
    own = [sentences for sentences in held if not set(sentences) <= kept]
    assert len(own) == len(held)  # every held-out story has sentences that occur in no training story


def test_a_perturbed_tone_has_another_pitch_and_noise() -> None:
    rng = np.random.default_rng(0)
    tone = np.sin(2 * np.pi * 400 * np.arange(24_000) / 24_000).astype(np.float32)
    lengths = set()
    for _ in range(8):
        audio = perturb(tone, 24_000, rng)
        spectrum = np.abs(np.fft.rfft(audio))
        pitch_hz = spectrum.argmax() * RATE_HZ / len(audio)
        speed = RATE_HZ / len(audio)  # a second of sound lasts so much shorter
        assert abs(pitch_hz - 400 * speed) < 3 and 0.79 < speed < 1.26
        clean = np.sort(spectrum)[-5:].sum() / spectrum.sum()
        assert clean < 0.9  # a pure tone has all in a few bins
        lengths.add(len(audio))
    assert len(lengths) > 3
