"""What the report says of continuations: the words of the prompt, and what the recogniser hears after it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from support.machine import InProcess

from slamray.evaluate import wer
from slamray.evaluate.wer import word_errors
from slamray.speech.audio import resample, to_flac
from slamray.speech.voices.hibari import Hibari
from slamray.stage.folder import Folder
from slamray.stage.parts import PartWriter
from slamray.stage.tables import UNITS
from slamray.stages.heard import listen_to
from slamray.stages.shards import SCHEMA

PROMPT, ENDING = "The little girl went to the park.", "She played with her friends in the garden."
RATE_HZ = 25.0  # frames of an encoder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Folder, Folder, float]:
    """The units of one utterance with its words, a scored checkpoint that kept its sound, and the prompt's seconds."""
    root = Folder(tmp_path_factory.mktemp("heard"))
    voice = Hibari()
    prompt, ending = (voice.speak([text], seed=0) for text in (PROMPT, ENDING))
    rate_hz = voice.rate_hz
    audio = np.concatenate([prompt.audio, ending.audio])
    seconds = len(prompt.audio) / rate_hz
    words = [(word.text, word.start_seconds, word.end_seconds) for word in prompt.words]
    words += [(word.text, seconds + word.start_seconds, seconds + word.end_seconds) for word in ending.words]
    spans = [
        {"text": text, "start_frame": round(begin * RATE_HZ), "end_frame": round(end * RATE_HZ)}
        for text, begin, end in words
    ]
    row = {
        "utterance_id": "0123456789abcdef", "split": "validation", "units": [1], "durations": [100], "sentences": [],
        "words": spans, "speaker": "", "seconds": len(audio) / rate_hz,
    }  # fmt: skip
    with PartWriter(root / "units", UNITS, SCHEMA) as writer:
        writer.add(pa.Table.from_pylist([row], SCHEMA))
    sound = to_flac(resample(audio, rate_hz, 16_000), 16_000)
    (root / "scores").write("audio/0123456789abcdef.flac", sound)
    return root / "units", root / "scores", seconds


def test_the_prompts_words_are_those_that_begin_in_it_and_the_rest_is_heard(
    folders: tuple[Folder, Folder, float],
) -> None:
    spoken, scored, seconds = folders
    (found,) = listen_to({"aligned": scored}, spoken, seconds, RATE_HZ, InProcess())
    assert (found.checkpoint, found.file) == ("aligned", "audio/0123456789abcdef.flac")
    assert word_errors([(PROMPT, found.said)]).errors == 0
    assert found.heard is not None and word_errors([(ENDING, found.heard)]).rate < 0.4  # 0.11 over whole stories


def test_nobody_listens_to_an_untrained_checkpoint(folders: tuple[Folder, Folder, float]) -> None:
    spoken, scored, seconds = folders
    found = listen_to({"untrained": scored, "pretrained": scored}, spoken, seconds, RATE_HZ, InProcess())
    assert [(one.checkpoint, one.heard is None) for one in found] == [("untrained", True), ("pretrained", False)]
    assert all(one.said for one in found)


def test_without_the_recogniser_nothing_is_said_to_be_heard(
    folders: tuple[Folder, Folder, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    spoken, scored, seconds = folders
    monkeypatch.setattr(wer, "find_spec", lambda name: None)
    (found,) = listen_to({"aligned": scored}, spoken, seconds, RATE_HZ, InProcess())
    assert found.heard is None and found.said


def test_a_recording_without_text_has_a_prompt_that_says_nothing(
    folders: tuple[Folder, Folder, float], tmp_path: Path
) -> None:
    _, scored, seconds = folders
    with PartWriter(Folder(tmp_path), UNITS, SCHEMA):
        pass
    (found,) = listen_to({"aligned": scored}, Folder(tmp_path), seconds, RATE_HZ, InProcess())
    assert found.said == "" and found.heard
