"""Kokoro from tiny files in the published layout: the samples of the library it replaces, its spans, its errors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import hibari.tts
import numpy as np
import pytest
import torch

from slamray.config.base import identity
from slamray.config.speech import KokoroSettings, TtsSettings
from slamray.errors import BadInput
from slamray.speech.voices.base import EDGE
from slamray.speech.voices.kokoro import Kokoro, load
from slamray.speech.voices.kokoro_net import KokoroNet, load_net
from slamray.speech.voices.table import check_voices, load_voice

# hexgrad/Kokoro-82M's config.json, its widths made small.
CONFIG: dict[str, Any] = {
    "istftnet": {
        "upsample_kernel_sizes": [20, 12], "upsample_rates": [10, 6], "gen_istft_hop_size": 5, "gen_istft_n_fft": 20,
        "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5]], "resblock_kernel_sizes": [3, 5],
        "upsample_initial_channel": 16,
    },
    "dim_in": 64, "dropout": 0.2, "hidden_dim": 16, "max_conv_dim": 512, "max_dur": 12, "multispeaker": True,
    "n_layer": 1, "n_mels": 80, "n_token": 178, "style_dim": 128, "text_encoder_kernel_size": 5,
    "plbert": {
        "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 512,
        "num_hidden_layers": 2, "dropout": 0.1,
    },
    "vocab": json.loads((Path(hibari.tts.ASSETS) / "vocab.json").read_text()),
}  # fmt: skip
VOICES = ("af_heart", "am_fenrir", "bf_emma", "bm_george")


def settings(model: str | Path, voice: str = "af_heart") -> TtsSettings:
    return TtsSettings(backend="kokoro", kokoro=KokoroSettings(model=str(model), voice=voice))


def drawn(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """A tensor that depends on its name alone."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big"))
    return torch.from_numpy(np.asarray(rng.standard_normal(shape).astype("float32") * 0.1))


def published_weights() -> dict[str, dict[str, torch.Tensor]]:
    """Random weights under the published names: weight norm in two tensors, `module.` ahead, no instance norms."""
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in KokoroNet(CONFIG, inner=24, beside=8).state_dict().items():
        part, _, own = name.partition(".")
        if own.endswith((".norm.weight", ".norm.bias")) and part in ("predictor", "decoder"):
            continue
        kept = {own: drawn(name, tuple(tensor.shape))}
        plain = ("alpha", "noise_convs", "F0_proj", "N_proj")
        if tensor.dim() == 3 and not any(word in own for word in plain):
            length = drawn(f"{name}_g", (len(tensor), 1, 1)).abs() + 0.5
            kept = {f"{own}_g": length, f"{own}_v": drawn(f"{name}_v", tuple(tensor.shape))}
        elif "alpha" in own:
            kept[own] += 1
        elif own == "F0_proj.bias":
            kept[own] = torch.full_like(tensor, 150.0)
        elif own.startswith("duration_proj") and "weight" in own:
            kept[own] *= 300
        parts.setdefault(part, {}).update({f"module.{key}": value for key, value in kept.items()})
    return parts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kokoro")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    torch.save(published_weights(), folder / "kokoro-v1_0.pth")
    (folder / "voices").mkdir()
    for voice in VOICES:
        torch.save(drawn(voice, (510, 1, 256)), folder / "voices" / f"{voice}.pt")
    return folder


@pytest.fixture(scope="module")
def kokoro(folder: Path) -> Kokoro:
    return load(settings(folder))


@pytest.fixture
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_samples_and_durations_are_those_of_the_kokoro_package(double: None) -> None:
    """Seen with kokoro 0.9.4's KModel on these weights (its decoder's 1024, 512 and 64 channels made 24, 16 and 8).

    In float64: the phase of empty bins makes both programs' float32 depend on the order of their sums.
    """
    weights = {part: {k: v.double() for k, v in own.items()} for part, own in published_weights().items()}
    ids = torch.tensor([[0, 50, 83, 54, 31, 16, 66, 85, 54, 46, 4, 0]])
    voice = drawn("voice", (1, 256)).double()
    audio, durations = load_net(CONFIG, weights)(ids, voice, torch.Generator().manual_seed(5))
    assert durations.tolist() == [5, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6]
    expected = [-0.1339, 0.0883, 0.2223, 0.0397, -0.0037, -0.0663, -0.0589, -0.0747, 0.0844, 0.0291, -0.0308, -0.0348]
    assert len(audio) == 71 * 600
    found = audio[500 :: len(audio) // 12].numpy()
    np.testing.assert_allclose(found[1:], expected[1:], atol=2e-4)
    # The first lies in the edge before any sound, where most bins are empty: -0.1339 on an AMD EPYC, -0.1346 on an
    # Intel Xeon with AMX.
    assert abs(found[0] - expected[0]) < 2e-3


def test_the_published_shape_has_82_million_parameters() -> None:
    published = CONFIG | {"hidden_dim": 512, "n_layer": 3, "max_dur": 50}
    published["istftnet"] = CONFIG["istftnet"] | {
        "resblock_dilation_sizes": [[1, 3, 5]] * 3, "resblock_kernel_sizes": [3, 7, 11],
        "upsample_initial_channel": 512,
    }  # fmt: skip
    published["plbert"] = CONFIG["plbert"] | {
        "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 2048, "num_hidden_layers": 12,
    }  # fmt: skip
    with torch.device("meta"):
        net = KokoroNet(published, inner=1024, beside=64)
    assert round(sum(p.numel() for p in net.parameters()) / 1e6) == 82


def test_the_same_arguments_give_the_same_bytes_and_another_seed_other_noise(kokoro: Kokoro) -> None:
    first, again, other = (kokoro.speak(["Tom had a dog."], seed).audio for seed in (3, 3, 4))
    assert first.dtype == np.float32 and kokoro.rate_hz == 24_000
    assert first.tobytes() == again.tobytes() != other.tobytes()


def test_the_four_voices_differ_and_the_british_ones_are_read_in_british(kokoro: Kokoro) -> None:
    said = {voice: kokoro.speak(["Go near the bath."], 0, voice) for voice in VOICES}
    assert len({speech.audio.tobytes() for speech in said.values()}) == 4
    phones = {voice: "".join(phone.text for phone in speech.phones) for voice, speech in said.items()}
    assert phones["af_heart"] == phones["am_fenrir"] != phones["bf_emma"] == phones["bm_george"]
    assert "Q" in phones["bf_emma"] and "O" in phones["af_heart"]  # the vowel of "go"


def test_words_phones_and_sentences_lie_where_their_frames_are(kokoro: Kokoro) -> None:
    speech = kokoro.speak(["Tom had a dog.", "It ran away."], seed=0)
    assert [word.text for word in speech.words] == ["Tom", "had", "a", "dog.", "It", "ran", "away."]
    for spans in (speech.phones, speech.sentences):
        assert spans[0].start_seconds == 0
        assert all(a.end_seconds == b.start_seconds for a, b in pairwise(spans))
        assert spans[-1].end_seconds == pytest.approx(len(speech.audio) / 24_000)
    assert "".join(p.text for p in kokoro.speak_phonemes("bl\u02c8\u026ak", 0).phones) == EDGE + "bl\u026ak" + EDGE


def test_what_cannot_be_spoken_is_bad_input(kokoro: Kokoro) -> None:
    with pytest.raises(BadInput, match=r"no voice is called af_bella; there are af_heart am_fenrir bf_emma bm_george"):
        kokoro.speak(["Hello."], 0, "af_bella")
    with pytest.raises(BadInput, match=r"no voice is called ../voices/af_heart"):
        kokoro.speak(["Hello."], 0, "../voices/af_heart")
    with pytest.raises(BadInput, match=r"600 phonemes in one clause; Kokoro reads 510"):
        kokoro.speak_phonemes("a" * 600, 0)


def test_a_folder_that_is_something_else_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"speech.tts.kokoro.model=.*must hold config.json and one .pth; there are 0"):
        load(settings(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"n_layer": 2}))
    (tmp_path / "x.pth").write_bytes((folder / "kokoro-v1_0.pth").read_bytes())
    with pytest.raises(BadInput, match=r"is not Kokoro as published .* tensors, the first predictor"):
        load(settings(tmp_path))
    with pytest.raises(BadInput, match=r"speech.tts.kokoro.model=.*: its commit is not known yet"):
        load(TtsSettings(backend="kokoro", kokoro=KokoroSettings(model="some/Kokoro", revision=None)))


def test_a_pickle_that_is_no_tensors_is_refused_and_not_run(folder: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "run",))

    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    torch.save({"bert": Evil()}, tmp_path / "x.pth")
    with pytest.raises(BadInput, match=r"cannot be read as tensors"):
        load(settings(tmp_path))
    assert not (tmp_path / "run").exists()


def test_the_config_chooses_it_and_its_content_is_its_identity(folder: Path, tmp_path: Path) -> None:
    config = settings(folder, "bf_emma")
    assert load_voice(config).speak(["Yes."], 0).audio.tobytes() == (
        load_voice(config).speak(["Yes."], 0, "bf_emma").audio.tobytes()
    )
    found = identity(config)
    assert "sha256" in found["kokoro"]["model"] and str(folder) not in json.dumps(found)
    unused = TtsSettings(kokoro=KokoroSettings(model=str(folder)))
    assert identity(unused) == {"backend": "hibari", "seed": 0} == identity(TtsSettings())


def test_voices_are_checked_before_any_work(folder: Path) -> None:
    config = settings(folder)
    check_voices(config, VOICES)
    check_voices(config, ("default",))
    check_voices(TtsSettings(backend="kokoro"), VOICES)  # a hub id: their names are all that is known
    with pytest.raises(BadInput, match=r"preferences.voices: .* has no voices/af_bella.pt"):
        check_voices(config, ("af_heart", "af_bella"))
    with pytest.raises(BadInput, match=r"jf_alpha is no English voice"):
        check_voices(config, ("jf_alpha",))
    with pytest.raises(BadInput, match=r"fastspeech2 has one voice"):
        check_voices(TtsSettings(backend="fastspeech2"), ("af_heart",))
