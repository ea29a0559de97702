"""The whole recipe as stages: what a changed word redoes, and what is refused before any work."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from slamray.commands.run import main, resolved
from slamray.config.load import load_recipe
from slamray.config.tree import Recipe
from slamray.errors import BadInput
from slamray.recipe.slam import build
from slamray.stage.stage import order


def fingerprints(words: list[str]) -> dict[str, str]:
    recipe: Recipe = load_recipe(words)
    return {stage.name: stage.fingerprint for stage in order(build(recipe))}


def redone(before: list[str], after: list[str]) -> set[str]:
    old, new = fingerprints(before), fingerprints(after)
    return {name for name in new if new[name] != old[name]}


def test_a_new_beta_redoes_dpo_and_what_follows(tiny_words: list[str]) -> None:
    assert redone(tiny_words, [*tiny_words, "dpo.beta=0.2"]) == {"aligned", "scores_aligned", "report"}


def test_a_new_profile_redoes_nothing(tiny_words: list[str]) -> None:
    other = ["profile=a5000" if word == "profile=laptop" else word for word in tiny_words]
    assert redone(tiny_words, other) == set()


def test_moving_a_model_folder_redoes_nothing(tiny_words: list[str], tiny_lm: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    copy.mkdir()
    for path in tiny_lm.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    assert redone(tiny_words, [*tiny_words, f"model.base={copy}"]) == set()
    (copy / "config.json").write_text(
        json.dumps(json.loads((copy / "config.json").read_text()) | {"rms_norm_eps": 1e-5})
    )
    assert "untrained" in redone(tiny_words, [*tiny_words, f"model.base={copy}"])


def test_another_voice_seed_redoes_all_speech_and_keeps_the_corpus(tiny_words: list[str]) -> None:
    changed = redone(tiny_words, [*tiny_words, "speech.tts.seed=1"])
    assert {"units", "preferences", "items", "pretrained"} <= changed and not {"corpus", "untrained"} & changed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pretrain.tokens_per_step=1000"], r"tokens_per_step=1000 is no multiple of a row's 128 tokens"),
        (["dpo.pairs_per_step=6", "compute.workers=4"], r"dpo.pairs_per_step=6 is no multiple of compute.workers=4"),
        (["corpus.paths=[/nowhere/x.jsonl]"], r"corpus.paths: /nowhere/x.jsonl names no file"),
        (["speech.encoder.model=/nowhere"], r"speech.encoder.model=/nowhere: no such folder"),
        (["speech.encoder.layer=3"], r"speech.encoder.layer=3: .* has 2 layers"),
        (["speech.encoder.centroids=/nowhere"], r"speech.encoder.centroids=/nowhere: no such file"),
        (["preferences.voices=[bf_emma]"], r"preferences.voices: hibari has one voice"),
        (["recorded.paths=[/nowhere]"], r"recorded.paths: /nowhere names no file"),
        (["recorded.swc=[/nowhere]"], r"recorded.swc: /nowhere names no file"),
        (["pack.mixture={stories: 0.5, swc: 0.5}"], r"pack.mixture: no source is called swc; there are stories"),
        (["speech.tts.backend=kokoro", "preferences.voices=[bob]"], r"preferences.voices: bob is no English voice"),
        (["preferences.source=spoken_swag"], r"preferences.path: source=spoken_swag needs the folder"),
        (["preferences.source=swag"], r"preferences.path: source=swag needs the path"),
        (["preferences.source=swag", "preferences.path=/nowhere"], r"preferences.path: /nowhere names no file"),
        (["corpus.evaluation_share=0"], r"corpus.evaluation_share=0: test items are made of what no training sees"),
        (["corpus.validation_share=0"], r"corpus.validation_share=0: perplexity is measured on validation documents"),
        (["corpus.validation_share=0.95"], r"corpus.evaluation_share, corpus.validation_share: 0.06 \+ 0.95 leave"),
        (["dpo.beta=.inf"], r"dpo.beta=inf: Input should be a finite number"),
        (["dpo.beta=1e999"], r"dpo.beta=.*: Input should be a finite number"),
        (["pretrain.optim.learning_rate=.nan"], r"pretrain.optim.learning_rate=nan: Input should be a finite number"),
        (["pack.mixture={stories: .inf}"], r"pack.mixture.stories=inf: Input should be a finite number"),
        (["root="], r"root='': Value error, names no folder; is the variable set that it comes from\?"),
        (["dpo.bta=1"], r"dpo.bta: no such key; did you mean beta\?"),
        (["corpus.max_words=-4"], r"corpus.max_words=-4"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_before_any_work(
    tiny_words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main([*tiny_words, f"root={tmp_path / 'runs'}", *words], build) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    with pytest.raises(BadInput, match=message):
        raise BadInput(error)
    assert not (tmp_path / "runs").exists()


def test_a_root_that_is_a_file_is_one_line(
    tiny_words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").write_text("")
    for root in (tmp_path / "runs", tmp_path / "runs" / "below"):
        assert main([*tiny_words, f"root={root}", "--plan"], build) == 2
        assert f"error: root={root}: {tmp_path}/runs is a file; give a folder" in capsys.readouterr().err


def test_a_root_below_a_home_is_there_and_not_in_a_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_recipe(["root=~/runs"]).root == str(tmp_path / "runs")
    with pytest.raises(BadInput, match=r"root=.~no-such-user/x.: Value error, no home is known of ~no-such-user"):
        load_recipe(["root=~no-such-user/x"])


def test_a_root_in_a_jobs_own_copy_of_its_files_is_refused_before_any_work(
    tiny_words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "working_dir_files" / "_ray_pkg_1"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    for words in ([], ["--plan"]):
        assert main([*tiny_words, "root=runs", *words], build) == 2
        assert "is Ray's copy of the job's files, which it deletes; give an absolute" in capsys.readouterr().err
    assert not list(copy.iterdir())


def test_checksums_of_files_outside_are_kept_where_there_is_a_root_and_no_root_is_made_for_them(
    tiny_words: list[str], tmp_path: Path
) -> None:
    texts = tmp_path / "a.jsonl"
    texts.write_text('{"text": "one"}')
    root = tmp_path / "runs"
    words = [*tiny_words, f"corpus.paths=[{texts}]", f"root={root}", "--plan"]
    assert main(words, build) == 0 and not root.exists()
    root.mkdir()
    texts.write_text('{"text": "two"}')
    assert main(words, build) == 0
    (table,) = (root / "contents").iterdir()
    assert str(tmp_path).encode() in pq.read_table(table)["folder"].to_pylist()


def test_an_encoder_folder_without_weights_is_refused(
    tiny_words: list[str], tiny_encoder: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_bytes((tiny_encoder / "config.json").read_bytes())
    with pytest.raises(BadInput, match=r"lacks config\.json or weights"):
        fingerprints([*tiny_words, f"speech.encoder.model={tmp_path}"])


def test_centroids_of_another_width_are_refused(tiny_words: list[str], tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"centroids_KD": torch.zeros(20, 31)}, tmp_path / "c.safetensors")
    with pytest.raises(BadInput, match=r"31 wide, but .* gives 32"):
        fingerprints([*tiny_words, f"speech.encoder.centroids={tmp_path}/c.safetensors"])


def test_the_plan_shows_every_stage_and_starts_nothing(
    tiny_words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*tiny_words, f"root={tmp_path / 'runs'}", "--plan"], build) == 0
    shown = capsys.readouterr().out
    for name, fingerprint in fingerprints(tiny_words).items():
        assert name in shown and fingerprint in shown
    # 4 steps of 1024 tokens, 6 N FLOPs a token
    assert "4 steps, 4,096 tokens" in shown
    assert not (tmp_path / "runs").exists()


def test_settings_of_a_voice_that_does_not_speak_redo_nothing(tiny_words: list[str]) -> None:
    assert redone(tiny_words, [*tiny_words, "speech.tts.kokoro.voice=bf_emma"]) == set()


def test_another_corpus_of_recordings_is_a_stage_of_its_own_and_redoes_no_speech(
    tiny_words: list[str], tmp_path: Path
) -> None:
    flac = tmp_path / "LibriSpeech" / "dev-clean" / "1" / "2" / "1-2-0000.flac"
    flac.parent.mkdir(parents=True)
    flac.write_bytes(b"listed, not read")
    words = [*tiny_words, f"recorded.librispeech=[{tmp_path}/LibriSpeech]"]
    changed = redone_with_new(tiny_words, words)
    assert {"librispeech", "packed", "pretrained"} <= changed and not {"units", "preferences", "items"} & changed
    mixed = [*words, "pack.mixture={stories: 0.5, librispeech: 0.5}"]
    assert not {"librispeech", "units"} & redone(words, mixed) and "packed" in redone(words, mixed)
    for other in (b"of another size", b"of that size, x"):
        before = fingerprints(words)["librispeech"]
        flac.write_bytes(other)
        assert fingerprints(words)["librispeech"] != before


def redone_with_new(before: list[str], after: list[str]) -> set[str]:
    old, new = fingerprints(before), fingerprints(after)
    return {name for name in new if new[name] != old.get(name)}


def test_a_data_set_of_pairs_enters_by_its_content_and_not_by_its_path(tiny_words: list[str], tmp_path: Path) -> None:
    row = {"sent1": "a", "sent2": "b", **{f"ending{n}": f"e{n}" for n in range(4)}, "label": 0, "gold-source": "gold"}
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "swag.jsonl").write_text(json.dumps(row))
    here, there = (
        [*tiny_words, "preferences.source=swag", f"preferences.path={tmp_path}/{folder}/swag.jsonl"]
        for folder in ("here", "there")
    )
    moved = fingerprints(here)["preferences"] == fingerprints(there)["preferences"]
    (tmp_path / "there" / "swag.jsonl").write_text(json.dumps(row | {"sent1": "another"}))
    assert moved and fingerprints(here)["preferences"] != fingerprints(there)["preferences"]


def test_a_tolerance_of_bad_rows_redoes_nothing(tiny_words: list[str]) -> None:
    for key in ("corpus", "speech", "recorded"):
        assert redone(tiny_words, [*tiny_words, f"{key}.max_bad_share=0.5"]) == set()


def test_the_resolved_recipe_is_told_as_words_without_what_is_the_default(tiny_words: list[str]) -> None:
    recipe = load_recipe(tiny_words)
    words = [line.strip() for line in resolved(recipe).splitlines()[1:]]
    assert 'pretrain.budget="steps:4"' in words and not any(word.startswith("dpo.beta=") for word in words)
