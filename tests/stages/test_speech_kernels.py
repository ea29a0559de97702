"""Kernels of the speech stages on real files: bad audio is set aside, good audio never lost."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from support.machine import InProcess

from slamray.config.compute import Compute
from slamray.config.listing import each_file
from slamray.config.profiles import PROFILES
from slamray.config.speech import EncoderSettings, ListeningSettings, SpeakingSettings, TtsSettings
from slamray.data.ids import row_seed
from slamray.data.item_pairs import Utterance
from slamray.data.recordings import Recording
from slamray.errors import BadInput
from slamray.speech.audio import RATE_HZ
from slamray.speech.spans import Span
from slamray.speech.voices.base import Speech
from slamray.stage import tables
from slamray.stage.folder import Folder
from slamray.stage.parts import Stretches, parts_of, write_parts
from slamray.stage.work import Done, Pool
from slamray.stages import recorded, speak_and_listen, speech_kernels
from slamray.stages.encode_kernel import Encode
from slamray.stages.shards import Shard, merge
from slamray.stages.speak_and_listen import ShardOfSound
from slamray.stages.speech_kernels import Listen, Speak


@pytest.fixture
def encode(tiny_encoder: Path) -> Encode:
    centroids = f"{tiny_encoder}/centroids.safetensors"
    encoder = EncoderSettings(model=str(tiny_encoder), centroids=centroids, layer=2, pad_samples=40)
    return Encode(encoder, batch_seconds=20, device="cpu")


def tone(seconds: float, rate_hz: int = RATE_HZ, channels: int = 1) -> np.ndarray:
    wave = 0.3 * np.sin(2 * np.pi * 220 * np.arange(int(seconds * rate_hz)) / rate_hz) + 0.01 * np.random.default_rng(
        0
    ).standard_normal(int(seconds * rate_hz))
    return np.stack([wave] * channels, axis=1).astype(np.float32)


def write_recordings(folder: Path) -> None:
    """Five good recordings and five bad ones."""
    folder.mkdir()
    soundfile.write(folder / "good.flac", tone(1.0), RATE_HZ)
    soundfile.write(folder / "stereo.wav", tone(1.0, channels=2), RATE_HZ)
    soundfile.write(folder / "telephone.wav", tone(1.0, 8_000), 8_000)
    soundfile.write(folder / "music.ogg", tone(1.0, 44_100), 44_100)
    soundfile.write(folder / "long.flac", tone(70.0), RATE_HZ)
    soundfile.write(folder / "silent.wav", np.zeros(RATE_HZ), RATE_HZ)
    soundfile.write(folder / "empty.wav", np.zeros(0), RATE_HZ)
    soundfile.write(folder / "blink.wav", tone(0.01), RATE_HZ)
    (folder / "text.wav").write_text("not audio at all")
    (folder / "cut.flac").write_bytes((folder / "good.flac").read_bytes()[:2000])


def recordings_in(path: Path) -> list[Recording]:
    files = each_file((str(path),), "recorded.paths", recorded.PLAIN_SUFFIXES)
    return [recording for file in files for recording in recorded._recordings_of(file)]


def shard(requests: Sequence[Any], out: Path) -> Shard:
    """A stage's only shard, its requests in their file."""
    write_parts(Folder(out), speak_and_listen.REQUESTS, requests, type(requests[0]))
    asked = Stretches(parts_of(Folder(out), speak_and_listen.REQUESTS), len(requests))[0]
    return Shard(0, asked, str(out), samples=1)


def encoded(kernel: Encode, sound: ShardOfSound) -> Folder:
    """The folder of a stage of one shard when it is done."""
    kernel(sound)
    merge(sound.shard.folder, 0, [0])
    return sound.shard.folder


def test_bad_recordings_are_set_aside_with_a_reason_and_good_ones_encoded(tmp_path: Path, encode: Encode) -> None:
    write_recordings(tmp_path / "audio")
    recordings = recordings_in(tmp_path / "audio")
    table = tables.read_units(encoded(encode, Listen()(shard(recordings, tmp_path / "out"))))
    bad = {row["id"]: row["reason"] for row in tables.read_quarantine(Folder(tmp_path / "out"))}
    named = {Path(recording.path).name: recording.utterance_id for recording in recordings}
    good = {"good.flac", "stereo.wav", "telephone.wav", "music.ogg", "long.flac"}
    assert set(table["utterance_id"].to_pylist()) == {named[name] for name in good}
    reasons = {
        "silent.wav": "silent",
        "empty.wav": "no samples",
        "blink.wav": "shorter than one frame",
        "text.wav": "cannot be read as audio",
        "cut.flac": "",
    }
    for name, reason in reasons.items():
        assert reason in bad[named[name]] and (tmp_path / "audio" / name).exists()
    assert len(bad) == 5
    seconds = dict(zip(table["utterance_id"].to_pylist(), table["seconds"].to_pylist(), strict=True))
    assert seconds[named["telephone.wav"]] == pytest.approx(1.0, abs=0.01)
    frames = {row["utterance_id"]: sum(row["durations"]) for row in table.to_pylist()}
    assert frames[named["long.flac"]] == pytest.approx(70 * 25, abs=2)


def test_too_many_bad_recordings_stop_the_stage_by_name(tmp_path: Path, encode: Encode) -> None:
    write_recordings(tmp_path / "audio")
    recordings = recordings_in(tmp_path / "audio")
    out = encoded(encode, Listen()(shard(recordings, tmp_path / "out")))
    with pytest.raises(BadInput, match=r"recorded.max_bad_share: 5 of 10 rows are bad"):
        requests = parts_of(out, speak_and_listen.REQUESTS)
        speak_and_listen.facts_of(out, requests, 0.01, "recorded.max_bad_share")


def test_recordings_in_parquet_are_read_row_by_row(tmp_path: Path, encode: Encode) -> None:
    soundfile.write(tmp_path / "a.flac", tone(0.5), RATE_HZ)
    audio = [{"bytes": (tmp_path / "a.flac").read_bytes(), "path": "a.flac"}, {"bytes": None, "path": "b.flac"}]
    pq.write_table(pa.table({"audio": audio}), tmp_path / "x.parquet")
    out = encoded(encode, Listen()(shard(recordings_in(tmp_path / "x.parquet"), tmp_path / "out")))
    assert tables.read_units(out).num_rows == 1
    assert "row 1 holds no audio" in tables.read_quarantine(Folder(tmp_path / "out"))[0]["reason"]


def test_the_same_shard_gives_the_same_bytes(tmp_path: Path, encode: Encode) -> None:
    utterances = [
        Utterance("a", ("Tom had a dog.", "It ran."), None),
        Utterance("b", (), None),
        Utterance("c", None, "h\u0259l\u02c8O"),
    ]
    speak = Speak(TtsSettings())
    first, again = (encoded(encode, speak(shard(utterances, tmp_path / name))) for name in ("out", "again"))
    assert files(first.fetch()) == files(again.fetch())
    table = tables.read_units(first)
    assert table["utterance_id"].to_pylist() == ["a", "c"]
    assert [row["id"] for row in tables.read_quarantine(Folder(tmp_path / "out"))] == ["b"]
    spans = table["words"][0].as_py()
    assert [span["text"] for span in spans] == ["Tom", "had", "a", "dog.", "It", "ran."]
    assert all(s["end_frame"] <= sum(table["durations"][0].as_py()) for s in spans)


class Watched(InProcess):
    """Notes the pools that it is asked for."""

    def rows(
        self,
        name: str,
        rows: Sequence[Any],
        pools: Sequence[Pool],
        total: int,
        unit: str,
        done: Done = lambda row: None,
    ) -> None:
        self.pools = list(pools)
        super().rows(name, rows, pools, total, unit, done)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_without_a_gpu_every_core_takes_shards_through_both_steps_and_the_files_are_the_same(
    tmp_path: Path, tiny_encoder: Path, encode: Encode
) -> None:
    utterances = [Utterance(name, (f"Tom had a {name}.",), None) for name in ("dog", "cat", "hat")]
    encoder = EncoderSettings(
        model=str(tiny_encoder), centroids=f"{tiny_encoder}/centroids.safetensors", layer=2, pad_samples=40
    )
    machine = Watched(PROFILES["laptop"].model_copy(update={"encoder_batch_seconds": 20}))
    settings = SpeakingSettings(encoder=encoder, shard_documents=3, sample_documents=1)
    speak_and_listen.speak(utterances, Folder(tmp_path / "one"), machine, settings, "test")
    assert sum(pool.actors * pool.cpus for pool in machine.pools) == 2  # the cores of a laptop: README.md, profiles
    assert [pool.actors for pool in machine.pools] == [2]
    encoded(encode, Speak(TtsSettings())(shard(utterances, tmp_path / "two")))
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert len(files(tmp_path / "one")) == 3  # requests, units and a sample


def test_beside_a_gpu_other_actors_make_the_sound() -> None:
    first = Pool("slamray.stages.speech_kernels:Listen", {}, actors=10)
    making, encoding = speak_and_listen._pools(first, ListeningSettings(), Compute(encoder_actors=2, encoder_gpus=0.5))
    assert making == first
    assert (encoding.actors, encoding.gpus, encoding.args["device"]) == (2, 0.5, "cuda")


def test_the_seed_of_a_row_depends_on_its_id_alone() -> None:
    assert row_seed(0, "a") == row_seed(0, "a") != row_seed(0, "b")
    assert row_seed(1, "a") != row_seed(0, "a")


class Stubborn:
    """A voice that fails over some words, as libraries fail, and says nothing over others."""

    rate_hz = RATE_HZ

    def speak(self, sentences: Sequence[str], seed: int, voice: str = "") -> Speech:
        text = " ".join(sentences)
        if "index" in text:
            raise IndexError("list index out of range")
        if "object" in text:
            raise RuntimeError(f"cannot speak {object()!r}")
        audio = np.zeros(RATE_HZ, np.float32) if "hush" in text else tone(0.5)[:, 0]
        return Speech(audio, RATE_HZ, [Span(text, 0.0, 0.5)])


def test_whatever_a_voice_raises_over_a_row_is_that_rows_quarantine(
    tmp_path: Path, encode: Encode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speech_kernels, "load_voice", lambda tts: Stubborn())
    said = {
        "a": "Tom had a dog.",
        "b": "index",
        "c": "object",
        "d": "hush",
        "e": "-".join(["ab"] * 160),
        "f": "It ran.",
    }
    asked = shard([Utterance(key, (text,), None) for key, text in said.items()], tmp_path / "out")
    out = encoded(encode, Speak(TtsSettings())(asked))
    assert tables.read_units(out)["utterance_id"].to_pylist() == ["a", "f"]
    reasons = {row["id"]: row["reason"] for row in tables.read_quarantine(out)}
    assert reasons == {
        "b": "'index': the voice failed over it (IndexError: list index out of range)",
        "c": "'object': the voice failed over it (cannot speak the file)",
        "d": "what the voice said: silent, no sample above 0.0001 of full scale; remove it",
        "e": "a word of 479 characters, more than 100: ab-ab-ab-ab-ab-ab-ab...",
    }


def test_a_number_that_the_voice_cannot_read_costs_its_own_document_alone(tmp_path: Path) -> None:
    said = {"a": f"They walked home with {'1234567890' * 4} in the rain.", "b": "It ran."}
    utterances = [Utterance(key, (text,), None) for key, text in said.items()]
    bad, good = Speak(TtsSettings())(shard(utterances, tmp_path / "out")).sounds
    assert bad.reason.startswith("'They walked home with 1234567890") and "the voice failed over it" in bad.reason
    assert not good.reason and good.pcm


def test_a_sound_that_the_encoder_fails_over_costs_itself_alone(tmp_path: Path, encode: Encode) -> None:
    class Picky:
        min_samples, rate_hz = encode._encoder.min_samples, encode._encoder.rate_hz

        def __call__(self, audios: Sequence[np.ndarray], batch_seconds: float) -> list[np.ndarray]:
            if any(len(audio) > RATE_HZ for audio in audios):
                raise RuntimeError("too long a sound")
            return encode._encoder(audios, batch_seconds)

    picky = copy.copy(encode)
    picky._encoder = Picky()  # type: ignore[assignment]
    for name, seconds in (("a", 0.5), ("b", 1.5), ("c", 0.7)):
        soundfile.write(tmp_path / f"{name}.wav", tone(seconds), RATE_HZ)
    recordings = [Recording(name, str(tmp_path / f"{name}.wav")) for name in "abc"]
    out = encoded(picky, Listen()(shard(recordings, tmp_path / "out")))
    assert tables.read_units(out)["utterance_id"].to_pylist() == ["a", "c"]
    assert tables.read_quarantine(out) == [{"id": "b", "reason": "the encoder failed over it (too long a sound)"}]


def test_sounds_in_every_form_that_tables_hold_them_are_the_same_sound(tmp_path: Path) -> None:
    wave = tone(0.5)[:, 0]
    whole = np.round(wave * 32768).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", whole, RATE_HZ)
    content = (tmp_path / "a.wav").read_bytes()
    forms: dict[str, Any] = {
        "bytes": content, "struct": {"bytes": content, "path": None}, "path": {"bytes": None, "path": "a.wav"},
        "floats": {"array": (whole / 32768).tolist(), "sampling_rate": RATE_HZ},
        "numbers": {"array": whole.tolist(), "sampling_rate": RATE_HZ},
        "channels": {"array": [(whole / 32768).tolist()] * 2, "sampling_rate": RATE_HZ},
    }  # fmt: skip
    spoken = []
    for name, form in forms.items():
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())]) if name in ("struct", "path") else None
        pq.write_table(pa.table({"audio": pa.array([form], kind)}), tmp_path / f"{name}.parquet")
        (sound,) = Listen()(shard(recordings_in(tmp_path / f"{name}.parquet"), tmp_path / name)).sounds
        assert sound.reason == "", name
        spoken.append(sound.pcm)
    assert set(spoken) == {whole.tobytes()}
    odd = [{"array": [0.1, None], "sampling_rate": RATE_HZ}, {"array": [20_000.0], "sampling_rate": RATE_HZ}, None]
    pq.write_table(pa.table({"audio": odd}), tmp_path / "odd.parquet")
    sounds = Listen()(shard(recordings_in(tmp_path / "odd.parquet"), tmp_path / "odd")).sounds
    reasons = [sound.reason for sound in sounds]
    assert "row 0: what column audio holds are no samples" in reasons[0] and "samples of up to 20000" in reasons[1]
    assert "row 2 holds no audio bytes" in reasons[2] and not any("0x" in reason for reason in reasons)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a dog", ""),
        (None, ""),
        (7, "is no text"),
        (b"\x80", "is no text"),
        (["a", "dog"], "is no text"),
    ],
)
def test_a_text_in_parquet_that_is_none_costs_its_own_row(text: Any, reason: str, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(0.5)[:, 0], RATE_HZ)
    table = pa.table({"audio": [(tmp_path / "a.wav").read_bytes()], "text": [text]})
    pq.write_table(table, tmp_path / "a.parquet")
    recording = Recording("a", str(tmp_path / "a.parquet"), 0, text_column="text")
    (sound,) = Listen()(shard([recording], tmp_path / "out")).sounds
    assert reason in sound.reason and bool(reason) == bool(sound.reason)
    assert [span.text for span in sound.sentences] == (["a dog"] if text == "a dog" else [])
