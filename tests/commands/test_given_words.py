"""What people give the jobs by mistake: files for folders, variables that are not set, stores that are away."""

from __future__ import annotations

import json
import socket
import threading
import time
from pathlib import Path

import pytest

from slamray import mlflow_events, tracking
from slamray.commands import compare, export, generate
from slamray.config.compute import TrackingSettings
from slamray.errors import BadInput
from slamray.stage.folder import Folder
from slamray.tracking import check_answers, open_tracker, sqlite_uri, tracking_uri


@pytest.fixture(scope="module")
def unit_lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A unit LM of 20 units that states no vocabulary, and is known by its special tokens."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    folder = tmp_path_factory.mktemp("unit_lm")
    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, intermediate_size=64,
        vocab_size=22, tie_word_embeddings=True, bos_token_id=1, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def test_an_out_that_can_be_no_folder_is_one_line_in_every_job(
    unit_lm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "there"
    file.write_text("x")
    for out in (file, file / "below"):
        assert export.main([f"out={out}", f"checkpoint={unit_lm}"]) == 2
        assert generate.main([f"input={tmp_path}", f"out={out}", f"checkpoint={unit_lm}"]) == 2
        assert compare.main([f"root={tmp_path}", f"out={out / 'x.png'}"]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert [f"{file} is a file; give a folder" in line for line in lines] == [True] * 3, lines
    assert compare.main([f"root={tmp_path}", f"out={tmp_path}"]) == 2
    assert "a folder; give the name of a picture" in capsys.readouterr().err
    assert file.read_text() == "x"


def test_a_word_whose_variable_is_not_set_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert export.main(["out="]) == 2
    assert generate.main(["input=", "out=x"]) == 2
    assert compare.main(["root="]) == 2
    lines = capsys.readouterr().err.splitlines()
    for line, key in zip(lines, ("out", "input", "root"), strict=True):
        assert line.startswith(f"error: {key}=: names nothing; is the variable set that it comes from?")


def test_a_text_lm_is_not_exported_as_a_unit_lm(
    tiny_lm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export.main([f"out={tmp_path / 'out'}", f"checkpoint={tiny_lm}"]) == 2
    assert f"{tiny_lm} is a text LM (64 rows), not a unit LM" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_store_of_mlflow_lies_in_the_root_whatever_signs_its_path_has(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    name = "a%23b?c#d 100%"
    root = tmp_path / name / "runs"
    root.mkdir(parents=True)
    uri = tracking_uri("", Folder(root))
    tracker = open_tracker(TrackingSettings(experiment="test"), "demo", "f1", Folder(root))
    (root / "page.html").write_text("the page")
    tracker.artifact(root / "page.html")
    tracker.close("FINISHED")
    assert uri == sqlite_uri(root / "mlflow.db") and (root / "mlflow.db").is_file()
    check_answers(uri)
    (run,) = MlflowClient(tracking_uri=uri).search_runs(
        [MlflowClient(uri).get_experiment_by_name("test").experiment_id]
    )
    assert run.info.status == "FINISHED"
    assert [path.read_text() for path in (root / "mlflow-artifacts").rglob("page.html")] == ["the page"]
    mlflow_events.remove_strays(uri)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_server_that_is_away_or_silent_is_one_line_in_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "ANSWER_SECONDS", 1.0)
    began = time.monotonic()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        away = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert compare.main([f"uri={away}"]) == 2
        taken.listen()
        held: list[object] = []  # a connection that is not answered, and not closed either
        threading.Thread(target=lambda: held.append(taken.accept()), daemon=True).start()
        assert compare.main([f"uri={away}"]) == 2
    assert compare.main(["uri=http://no-such-host.invalid:5000"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert all("the tracking server does not answer (" in line and "start it, or give uri=" in line for line in lines)
    assert len(lines) == 3 and time.monotonic() - began < 10


def test_a_database_that_is_no_store_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"no database at all" * 100)
    assert compare.main([f"root={tmp_path}"]) == 2
    assert f"{tmp_path}/mlflow.db: no store of MLflow (file is not a database)" in capsys.readouterr().err
    (tmp_path / "mlflow.db").write_bytes(b"")
    with pytest.raises(BadInput, match=r"no store of MLflow \(no such table: experiments\)"):
        check_answers(f"sqlite:///{tmp_path}/mlflow.db")


def test_prompts_left_by_a_file_manager_are_no_prompts(tmp_path: Path) -> None:
    for name in ("a.WAV", "._a.WAV", "__MACOSX/a.wav", "b/c.wav"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"")
    found = generate.targets(tmp_path / "in", tmp_path / "out")
    assert [source.relative_to(tmp_path / "in").as_posix() for source, _ in found] == ["a.WAV", "b/c.wav"]


def test_a_checkpoints_pointer_is_one_line_before_anything_is_written(
    unit_lm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "config.json").write_text(json.dumps(json.loads((unit_lm / "config.json").read_text())))
    (copy / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n")
    assert export.main([f"out={tmp_path}/out", f"checkpoint={copy}"]) == 2
    assert "model.safetensors: a pointer of Git LFS, not the file itself" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
