"""Benchmarks of speed: what a paired result is, from when a stage is timed, and the table of docs/results/speed.md."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import evaluation
import extraction
import pytest
import table
from pairs import measure, result_of
from support.machine import InProcess

from slamray.config.compute import Compute
from slamray.errors import BadInput

LINE = {
    "what": "a against b", "anchor": 12.04, "ours": 24.2, "ratio": 2.013, "low": 1.9, "high": 2.104,
    "commit": "abcdef0", "command": "python benchmarks/extraction.py", "machine": "2 cores of X", "load": 0.42,
}  # fmt: skip


def test_pairs_are_measured_in_turn_and_each_has_a_ratio_of_its_own() -> None:
    said: list[str] = []
    anchors, ours = iter([10.0, 20.0, 40.0]), iter([15.0, 40.0, 70.0])

    def take(name: str) -> float:
        said.append(name)
        return next(anchors if name == "a" else ours)

    found = measure("x", lambda: take("a"), lambda: take("o"), 3)
    assert "".join(said) == "aooaao"
    assert (found.anchor, found.ours) == (20.0, 40.0)
    assert (found.ratio, found.low, found.high) == (1.75, 1.5, 2.0)  # of 15/10, 40/20, 70/40
    assert result_of("x", [2.0], [1.0]).ratio == 0.5


def test_a_stage_is_timed_from_when_every_actor_has_done_a_shard() -> None:
    finished = [(100.0, 10.0), (103.0, 20.0), (107.0, 30.0), (113.0, 40.0)]
    assert extraction.steady_rate(finished, 1) == pytest.approx((20 + 30 + 40) / 13)
    assert extraction.steady_rate(finished, 2) == pytest.approx((30 + 40) / 10)
    with pytest.raises(BadInput, match=r"4 shards are too few for 4 actor\(s\)"):
        extraction.steady_rate(finished, 4)


@pytest.mark.parametrize("speak", ["false", "true"])
def test_extraction_prints_one_line(
    speak: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SLAMKIT", raising=False)
    asked: list[int] = []

    def engine(compute: Compute) -> InProcess:
        asked.append(compute.encoder_actors)
        return InProcess(compute)

    monkeypatch.setattr(extraction, "Engine", engine)
    for name in ("connect", "close"):
        monkeypatch.setattr(InProcess, name, lambda self: None, raising=False)
    words = ["toy=true", "pairs=1", f"speak={speak}", "seconds=100", "speech.shard_documents=1", f"root={tmp_path}"]
    assert extraction.main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["what", "anchor", "ours", "ratio", "low", "high", "commit"]
    assert found["ours"] / found["anchor"] == pytest.approx(found["ratio"]) and found["anchor"] > 0
    assert asked == [1, 2]  # one actor against a laptop's two cores
    assert found["what"].endswith("profile=laptop (2 encoding actors) against compute.encoder_actors=1")


def test_the_table_is_written_from_lines_without_measuring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "run", lambda command: pytest.fail("it measured"))
    lines = [LINE, LINE | {"what": "c", "machine": "8 cores of Y", "load": 7.0, "commit": "1234567+"}]
    (tmp_path / "lines").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert table.main(["run=false", f"lines={tmp_path}/lines", f"page={tmp_path}/page.md"]) == 0
    text = (tmp_path / "page.md").read_text()
    assert "| a against b | 12 | 24.2 | **2.01** | 1.90 to 2.10 | 0.4 | `abcdef0` |" in text
    assert text.index("On 2 cores of X:") < text.index("| a against b | 12") < text.index("On 8 cores of Y:")
    assert "| c | 12 | 24.2 | **2.01** | 1.90 to 2.10 | 7.0 | `1234567+` |" in text
    assert "| a against b | `python benchmarks/extraction.py` |" in text


def test_the_table_keeps_what_each_benchmark_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = {key: value for key, value in LINE.items() if key not in ("command", "machine", "load")}
    monkeypatch.delenv("SLAMKIT", raising=False)
    script = tmp_path / "one.py"
    script.write_text(f"print('noise')\nprint({json.dumps(json.dumps(result))})\n")
    monkeypatch.setattr(table, "COMMANDS", (str(script),))
    assert table.main([f"lines={tmp_path}/lines", f"page={tmp_path}/page.md"]) == 0
    (kept,) = [json.loads(line) for line in (tmp_path / "lines").read_text().splitlines()]
    assert kept["ratio"] == 2.013 and kept["command"] == f"python {script}" and kept["load"] >= 0
    assert "| a against b |" in (tmp_path / "page.md").read_text()
    script.write_text("raise SystemExit(1)\n")
    assert table.main([f"lines={tmp_path}/lines", f"page={tmp_path}/page.md"]) == 2


def test_evaluation_without_a_peer_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SLAMKIT", raising=False)
    assert evaluation.main([]) == 2
    assert capsys.readouterr().err.startswith("error: SLAMKIT: name a clone of slp-rl/slamkit")


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("benchmark", ["pretraining.py", "pretraining.py against=bare", "preference.py"])
def test_a_benchmark_of_training_prints_one_line(benchmark: str) -> None:
    script, *words = benchmark.split()
    command = [sys.executable, f"benchmarks/{script}", *words, "steps=1", "pairs=1"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["ratio"] == pytest.approx(found["ours"] / found["anchor"]) and found["anchor"] > 0
