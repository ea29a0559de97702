"""The whole command with its root in an object store: refused before work, or the same bytes as on a disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support.object_store import BUCKET, ROOT, Gate

from slamray import store
from slamray.commands.run import main
from slamray.config.load import load_recipe
from slamray.errors import BadInput
from slamray.recipe.slam import build
from slamray.stage.folder import Folder
from slamray.stage.objects import Objects
from slamray.tracking import tracking_uri

ADDRESS = f"s3://{BUCKET}/{ROOT}"
REPOSITORY = Path(__file__).parents[2]
TIMED = {"facts.json", "history.json", "metrics.jsonl", "report.html"}  # how long something took is in them


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([f"root={ADDRESS}"], rf"error: tracking.uri: root={ADDRESS} is an object store, and an SQLite file lies on"),
        ([f"root={ADDRESS}", "tracking.uri=sqlite:////tmp/a.db"], "error: tracking.uri: .* give tracking.uri=http://"),
        (["root=s3://nobody/runs"], "error: root=s3://nobody/runs: there is no bucket nobody; make it, or mend"),
    ],
)
def test_what_cannot_work_is_one_line_before_any_work(
    gate: Gate, tiny_words: list[str], capsys: pytest.CaptureFixture[str], words: list[str], line: str
) -> None:
    asked = [word for word in tiny_words if not word.startswith("tracking.")]
    assert main([*asked, *words], build) == 2
    said = capsys.readouterr().err
    assert said.startswith(line.partition(".*")[0]) and said.count("\n") == 1
    assert line.rpartition(".*")[2].strip() in said
    assert Objects(f"s3://{BUCKET}").sizes() == {}


def test_a_store_that_does_not_answer_is_one_line_before_any_work(
    gate: Gate, tiny_words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    gate.trouble = lambda method, path: "refused"
    for more in ([], ["--plan"], ["--verify"]):
        assert main([*tiny_words, f"root={ADDRESS}", *more], build) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"error: root={ADDRESS}: ") and said.count("\n") == 1


def test_a_plan_of_a_root_in_a_store_says_what_is_done(
    gate: Gate, tiny_words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load_recipe([*tiny_words, f"root={ADDRESS}/"])
    assert recipe.root == ADDRESS
    (corpus,) = [stage for stage in build(recipe)[0].inputs if stage.name == "corpus"]
    corpus.folder(Folder(ADDRESS)).write_json("manifest.json", {})
    assert main([*tiny_words, f"root={ADDRESS}", "--plan"], build) == 0
    states = [line.split()[2] for line in capsys.readouterr().out.splitlines() if corpus.fingerprint in line]
    assert states == ["done"]


def test_an_address_of_a_file_is_a_folder_on_a_disk(tmp_path: Path) -> None:
    assert load_recipe([f"root=file://{tmp_path}/runs"]).root == str(tmp_path / "runs")


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "ext4"])
def test_sqlite_on_a_network_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(store, "file_system", lambda path: kind)
    if kind == "ext4":
        assert tracking_uri("", Folder(tmp_path)) == f"sqlite:///{tmp_path}/mlflow.db"
        return
    with pytest.raises(BadInput, match=rf"tracking.uri: sqlite:///{tmp_path}/mlflow.db lies on {kind}, where SQLite's"):
        tracking_uri("", Folder(tmp_path))


def test_the_file_system_of_a_path_is_the_kernels_word_for_it() -> None:
    assert store.file_system(Path("/proc/self/mountinfo")) == "proc"
    asked = subprocess.run(["stat", "-f", "-c", "%T", "/sys"], capture_output=True, text=True, check=True)
    assert store.file_system(Path("/sys")) == asked.stdout.strip()


def command(words: list[str], root: str, cache: Path, log: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"SLAMRAY_CACHE": str(cache), "PYTHONPATH": str(REPOSITORY)}
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "jobs/slam.py", *words, f"root={root}"],
            cwd=REPOSITORY, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip


def files_of(root: Folder) -> dict[str, dict[str, Any]]:
    """Every file of every finished stage with its size and checksum, as the manifests say."""
    found = {}
    for name in root.names("*/*/manifest.json"):
        folder = name.rpartition("/")[0]
        found |= {f"{folder}/{file}": facts for file, facts in root.read_json(name)["files"].items()}
    return found


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_run_in_a_store_that_moves_to_another_machine_has_the_bytes_of_one_on_a_disk(
    gate: Gate, tiny_words: list[str], tmp_path: Path
) -> None:
    """The driver is killed while it trains; the same command goes on with an empty cache."""
    words = [*tiny_words, "compute.dtype=float32", "compute.checkpoint_every_seconds=0.2", "pretrain.budget=steps:60"]
    root, log = Folder(ADDRESS), tmp_path / "log"
    first = command(words, ADDRESS, tmp_path / "one", log)
    deadline = time.monotonic() + 500
    while not root.names("pretrained/*/checkpoints/step-*/complete.json"):
        assert first.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.2)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    second = command(words, ADDRESS, tmp_path / "two", log)
    assert second.wait(600) == 0, log.read_text()[-3000:]
    untouched = command(words, str(tmp_path / "runs"), tmp_path / "one", log)
    assert untouched.wait(600) == 0, log.read_text()[-3000:]
    there, here = files_of(root), files_of(Folder(tmp_path / "runs"))
    assert there.keys() == here.keys() and len(here) > 50
    differ = {name for name in here if there[name] != here[name]}
    assert {name.rpartition("/")[2] for name in differ} <= TIMED
    (history,) = root.names("pretrained/*/history.json")
    losses = [
        [(row["step"], row["loss"]) for row in folder.read_json(history) if "loss" in row]
        for folder in (root, Folder(tmp_path / "runs"))
    ]
    assert losses[0] == losses[1]
    third = command([*words, "--verify"], ADDRESS, tmp_path / "two", tmp_path / "verified")
    assert third.wait(100) == 0
    assert "0 files that are not as they were written" in (tmp_path / "verified").read_text()
    assert json.dumps(sorted(Objects(ADDRESS).sizes())).count(".locks") == 0
