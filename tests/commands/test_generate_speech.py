"""Spoken prompts, continued: wav in, wav out; what cannot be heard is told in a line, and the rest is made."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from transformers import AutoModelForCausalLM, Qwen2Config

from slamray.commands.generate import main
from slamray.config.base import asset_path

RATE_HZ = 16_000
HOP = 640  # of the tiny encoder and its decoder: 25 Hz


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A unit LM of the tiny encoder's 20 units with 128 positions."""
    import torch

    folder = tmp_path_factory.mktemp("unit_lm")
    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, intermediate_size=64,
        vocab_size=22, tie_word_embeddings=True, max_position_embeddings=128, bos_token_id=1, eos_token_id=1,
        pad_token_id=0,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recordings of noise at different rates, one in a folder below, and three files that are none."""
    folder = tmp_path_factory.mktemp("prompts")
    (folder / "more").mkdir()
    draw = np.random.default_rng(0)
    soundfile.write(folder / "a.wav", 0.1 * draw.standard_normal(4 * RATE_HZ), RATE_HZ)
    soundfile.write(folder / "more" / "b.flac", 0.1 * draw.standard_normal(2 * 44_100), 44_100)
    soundfile.write(folder / "silent.wav", np.zeros(RATE_HZ), RATE_HZ)
    soundfile.write(folder / "short.wav", 0.1 * draw.standard_normal(50), RATE_HZ)
    (folder / "text.wav").write_text("no audio")
    (folder / "note.txt").write_text("not looked at")
    return folder


@pytest.fixture
def words(tiny_encoder: Path, tiny_vocoder: Path, model: Path) -> list[str]:
    return [
        f"checkpoint={model}", f"speech.encoder.model={tiny_encoder}", "speech.encoder.layer=2",
        f"speech.encoder.centroids={tiny_encoder}/centroids.safetensors", "speech.encoder.pad_samples=40",
        "speech.encoder.dtype=float32", f"evaluate.vocoder={tiny_vocoder}", "evaluate.sampling.max_new_tokens=12",
    ]  # fmt: skip


def test_good_prompts_are_continued_and_bad_ones_told_in_a_line_each(
    words: list[str], prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, f"input={prompts}", f"out={tmp_path}"]) == 2
    told = capsys.readouterr()
    made = {path.relative_to(tmp_path).as_posix(): path for path in tmp_path.rglob("*.wav")}
    assert sorted(made) == ["a.wav", "more/b.wav"]
    for path in made.values():
        audio, rate_hz = soundfile.read(path)
        assert rate_hz == RATE_HZ and len(audio) % HOP == 0 and np.abs(audio).max() > 0
    assert [line.split(":")[0] for line in told.out.splitlines()] == [f"{prompts}/a.wav", f"{prompts}/more/b.flac"]
    errors = [line for line in told.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 3
    for line, (name, reason) in zip(
        errors, [("short", "shorter than one frame"), ("silent", "silent"), ("text", "cannot be read")], strict=True
    ):
        assert f"{prompts}/{name}.wav" in line and reason in line


def test_the_prompt_is_three_seconds_or_the_whole_file(
    words: list[str], prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def prompt_units(*more: str) -> int:
        assert main([*words, f"input={prompts}/a.wav", f"out={tmp_path}", *more]) == 0
        return int(capsys.readouterr().out.split("a.wav: ")[1].split()[0])

    assert prompt_units() < prompt_units("whole=true") <= 100  # 4 s at 25 Hz
    assert prompt_units("evaluate.sampling.prompt_seconds=0.04") == 1


def test_the_continuation_alone_is_as_long_as_what_was_said(words: list[str], prompts: Path, tmp_path: Path) -> None:
    given = [*words, f"input={prompts}/a.wav"]
    assert main([*given, f"out={tmp_path}/both"]) == main([*given, f"out={tmp_path}/alone", "say_prompt=false"]) == 0
    both, alone = (len(soundfile.read(tmp_path / name / "a.wav")[0]) for name in ("both", "alone"))
    assert 0 < alone < both


def test_the_same_prompt_and_seed_say_the_same_whatever_lies_beside(
    words: list[str], prompts: Path, tmp_path: Path
) -> None:
    single = [*words, "evaluate.sampling.batch=1"]
    main([*single, f"input={prompts}", f"out={tmp_path}/all"])
    main([*single, f"input={prompts}/more/b.flac", f"out={tmp_path}/one"])
    main([*single, f"input={prompts}/more/b.flac", f"out={tmp_path}/other", "evaluate.sampling.seed=1"])
    sounds = [(tmp_path / name).read_bytes() for name in ("all/more/b.wav", "one/b.wav", "other/b.wav")]
    assert sounds[0] == sounds[1] != sounds[2]


def test_what_is_wrong_with_the_words_is_one_line_before_any_work(
    words: list[str], prompts: Path, tmp_path: Path, tiny_vocoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def error(*more: str) -> str:
        assert main([*words, *more]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        return line

    assert "no .wav .flac .mp3 .ogg file" in error(f"input={tmp_path}", f"out={tmp_path}/out")
    assert "lies inside input" in error(f"input={prompts}", f"out={prompts}/out")
    assert "is the prompt itself" in error(f"input={prompts}/a.wav", f"out={prompts}")
    assert "speech.encoder (2 specials, 500 units (f4f057de)) have different vocabularies: 20 units here" in error(
        f"input={prompts}", f"out={tmp_path}/out", "speech.encoder.model=assets:hubert-nano",
        "speech.encoder.centroids=assets:hubert-nano/centroids.safetensors", "speech.encoder.layer=5",
    )  # fmt: skip
    story_lm = f"checkpoint={asset_path('assets:story-lm')}"
    assert "is a text LM (vocabulary: 4096 text" in error(f"input={prompts}", f"out={tmp_path}/out", story_lm)
    long = "evaluate.sampling.max_new_tokens=120"
    assert "the model has 128 positions" in error(f"input={prompts}/a.wav", f"out={tmp_path}/out", long)
    (tmp_path / "two").mkdir()
    for suffix in ("wav", "flac"):
        soundfile.write(tmp_path / "two" / f"same.{suffix}", np.ones(100) / 2, RATE_HZ)
    assert "would both be written to" in error(f"input={tmp_path}/two", f"out={tmp_path}/out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_job_starts_no_ray(words: list[str], prompts: Path, tmp_path: Path) -> None:
    code = (
        "import runpy, sys\n"
        "try:\n    runpy.run_path('jobs/generate.py', run_name='__main__')\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "assert 'ray' not in sys.modules"
    )
    command = [sys.executable, "-c", code, *words, f"input={prompts}/a.wav", f"out={tmp_path}"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "a.wav").is_file()
