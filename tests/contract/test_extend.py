"""docs/extend.md holds: its examples, applied to a copy of the package, speak, hear and read (voice to corpus)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.followed import ROOT, changed, follow

PAGE = ROOT / "docs" / "extend.md"
RUN_HERE = ROOT / "tests" / "support" / "run_here.py"


def run(copy: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Python on a changed copy of the package, in an interpreter that knows no other."""
    paths = os.pathsep.join([str(copy), str(ROOT / "tests")])
    environment = os.environ | {"PYTHONPATH": paths}
    return subprocess.run(
        [sys.executable, *command], cwd=copy, env=environment, capture_output=True, text=True, check=False
    )


def value(copy: Path, code: str) -> Any:
    """What the code prints, as JSON."""
    done = run(copy, "-c", code)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.slow
def test_a_voice_without_phonemes_speaks_through_the_whole_recipe(tiny_words: list[str], tmp_path: Path) -> None:
    copy = follow(PAGE, "A voice", tmp_path)
    words = [*tiny_words, "speech.tts.backend=hum"]
    without = ["evaluate.items.words=0", "evaluate.items.words_in_sentence=0"]
    done = run(copy, str(RUN_HERE), str(tmp_path), *words, *without)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    facts = found["facts"]
    assert facts["units"]["utterances"] == 18 and facts["units"]["quarantined"] == 0
    assert set(facts["items"]["pairs"]) == {"topic_cloze", "sentence_order", "grammar"}
    assert facts["preferences"]["pairs_train"] > 0 and facts["aligned"]
    assert Path(found["report"]).stat().st_size > 10_000
    # An utterance is as long as its letters; 16 training documents and 2 for validation are some minutes of speech.
    assert facts["units"]["audio_seconds"] == pytest.approx(0.05 * _letters(copy, tiny_words), abs=0.1)


def _letters(copy: Path, words: list[str]) -> int:
    """Letters a to z of the documents that the stage `units` has spoken."""
    (corpus,) = (copy / "runs" / "corpus").iterdir()
    code = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from slamray.stage.folder import Folder\n"
        "from slamray.stages import corpus\n"
        f"folder = Folder(Path({str(corpus)!r}))\n"
        "spoken = [*corpus.read(folder, 'train', 16), *corpus.read(folder, 'validation', 2)]\n"
        "print(sum('a' <= sign <= 'z' for document in spoken for sign in document.text.lower()))\n"
    )
    found: int = value(copy, code)
    return found


def test_what_a_voice_without_phonemes_cannot_do_is_refused_before_any_work(
    tiny_words: list[str], tmp_path: Path
) -> None:
    copy = follow(PAGE, "A voice", tmp_path)
    code = """
import json
from slamray.config.load import load_recipe
from slamray.errors import BadInput
from slamray.recipe import assets, slam
said = []
cases = ((slam.build, []), (assets.build, []), (slam.build, ["preferences.voices=[x]"]))
for build, words in cases:
    try:
        build(load_recipe(["profile=laptop", "speech.tts.backend=hum", *words]))
    except BadInput as error:
        said.append(str(error))
print(json.dumps(said))
"""
    tests, assets, voices = value(copy, code)
    assert tests.startswith("speech.tts.backend=hum: this voice knows no phonemes; tests of words")
    assert "evaluate.items.words=0 evaluate.items.words_in_sentence=0" in tests
    assert "an encoder is measured on phones" in assets
    assert voices == "preferences.voices: hum has one voice; leave it at [default]"


def test_settings_of_a_voice_count_only_while_it_speaks(tmp_path: Path) -> None:
    code = """
import json
from slamray.config.base import identity
from slamray.config.speech import HumSettings, TtsSettings
other = HumSettings(lowest_hz=200)
print(json.dumps([
    identity(TtsSettings()) == identity(TtsSettings(hum=other)),
    identity(TtsSettings(backend="hum")) == identity(TtsSettings(backend="hum", hum=other)),
]))
"""
    assert value(follow(PAGE, "A voice", tmp_path), code) == [True, False]


def test_an_encoder_hears_units(tmp_path: Path) -> None:
    copy = follow(PAGE, "An encoder", tmp_path)
    code = """
import json
from pathlib import Path
import numpy as np, torch
from safetensors.torch import save_file
from slamray.config.speech import EncoderSettings
from slamray.errors import BadInput
from slamray.speech.encoders.table import check_encoder, open_encoder, open_features

folder = Path("model")
folder.mkdir()
(folder / "config.json").write_text('{"model_type": "mfcc"}')
settings = EncoderSettings(model=str(folder), centroids=str(folder / "centroids.safetensors"))
low, high = (0.3 * np.sin(2 * np.pi * hz * np.arange(16_000) / 16_000).astype(np.float32) for hz in (200, 2000))
save_file({"centroids_KD": torch.zeros(2, 13)}, folder / "centroids.safetensors")
feats = open_features(settings, "cpu")([low, high])
save_file({"centroids_KD": torch.tensor(np.stack([one.mean(0) for one in feats]))}, folder / "centroids.safetensors")
facts, encoder = check_encoder(settings), open_encoder(settings, "cpu")
units = [row.tolist() for row in encoder([high, low[:8000]], batch_seconds=20)]
save_file({"centroids_KD": torch.zeros(2, 32)}, folder / "centroids.safetensors")
try:
    check_encoder(settings)
except BadInput as error:
    print(json.dumps([facts.n_units, facts.rate_hz, encoder.rate_hz, units, str(error)]))
"""
    n_units, checked_hz, rate_hz, units, error = value(copy, code)
    assert n_units == 2 and checked_hz == rate_hz == 25
    assert units == [[1] * 25, [0] * 12]  # a second of the high tone, half a second of the low one
    assert "speech.encoder.centroids" in error and "32 wide, but" in error


def test_a_decoder_plays_units(tmp_path: Path) -> None:
    copy = follow(PAGE, "A decoder", tmp_path)
    code = """
import json
from pathlib import Path
import numpy as np
from safetensors.numpy import save_file
from slamray.speech.decoders.table import check_decoder, load_decoder

folder = Path("waves")
folder.mkdir()
(folder / "config.json").write_text('{"wave_rate_hz": 8000}')
save_file({"waves_KL": np.array([[0.0, 0.5], [1.0, -1.0]], np.float32)}, folder / "model.safetensors")
check_decoder(str(folder), "evaluate.vocoder")
decoder = load_decoder(folder)
audio, predicted = decoder(np.array([1, 0]), np.array([1, 2])), decoder(np.array([1]))
print(json.dumps([decoder.rate_hz, audio.tolist(), len(predicted)]))
"""
    assert value(copy, code) == [8000, [1.0, -1.0, 0.0, 0.5, 0.0, 0.5], 4]


def test_a_corpus_is_read_into_units_with_its_texts(tiny_encoder: Path, tmp_path: Path) -> None:
    copy = follow(PAGE, "A corpus", tmp_path)
    code = f"""
import json
from pathlib import Path
import numpy as np, soundfile
from support.machine import InProcess
from slamray.config.load import load_recipe
from slamray.stage.folder import Folder
from slamray.stage.tables import read_units
from slamray.stages import recorded

corpus = Path("LJSpeech-1.1")
(corpus / "wavs").mkdir(parents=True)
draw = np.random.default_rng(0)
for name in ("LJ001-0001", "LJ001-0002"):
    soundfile.write(corpus / "wavs" / f"{{name}}.wav", 0.1 * draw.standard_normal(22_050), 22_050)
(corpus / "metadata.csv").write_text("LJ001-0001|Mr. A|Mister A\\nLJ001-0002|1|one\\n")
model = {str(tiny_encoder)!r}
words = [f"speech.encoder.model={{model}}", f"speech.encoder.centroids={{model}}/centroids.safetensors"]
words += ["speech.encoder.layer=2", "speech.encoder.pad_samples=40", f"recorded.ljspeech=[{{corpus}}]"]
recipe = load_recipe(words)
(stage,) = recorded.stages(recipe)
out = Folder(Path("out"))
facts = stage.work({{}}, out, InProcess(recipe.compute), **stage.settings)
texts = sorted(row["sentences"][0]["text"] for row in read_units(out).to_pylist())
print(json.dumps([stage.name, stage.identity["files"]["files"], facts.utterances, facts.audio_seconds, texts]))
"""
    assert value(copy, code) == ["ljspeech", 3, 2, 2.0, ["Mister A", "one"]]


def test_a_change_that_does_not_fit_its_file_is_told() -> None:
    assert changed("a\nb\nc\n", " a\n-b\n+B\n", "f") == "a\nB\nc\n"
    with pytest.raises(AssertionError, match="f holds 0 times"):
        changed("a\nb\n", " c\n+d\n", "f")
    with pytest.raises(AssertionError, match="f holds 2 times"):
        changed("a\na\n", "-a\n", "f")
