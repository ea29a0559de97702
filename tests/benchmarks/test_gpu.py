"""benchmarks/gpu.sh at toy size: every part tells its figures, and a gate fails where something is wrong."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

ROOT = Path(__file__).parents[2]
Rows = dict[str, dict[str, Any]]  # by what they tell


def rows(out: Path) -> Rows:
    return {row["what"]: row for row in map(json.loads, (out / "gpu.jsonl").read_text().splitlines())}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The command, as a module; what it sets in the environment is gone afterwards."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    for name in ("DS_ACCELERATOR", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    import gpu

    return gpu


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_script_tells_the_figures_of_every_part_on_a_cpu(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHON": sys.executable, "COMMIT": "abc1234", "OMP_NUM_THREADS": "1"}
    command = ["sh", str(ROOT / "benchmarks" / "gpu.sh"), "--toy", "--seconds", "3000", "--out", "out"]
    began = time.time()
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    print(f"{time.time() - began:.0f} s")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    told = rows(tmp_path / "out")
    assert set((tmp_path / "out" / "gpu.jsonl").read_text().splitlines()) <= set(done.stdout.splitlines())
    assert told.pop("gates")["failed"] == []
    assert len(told) == 2 + 9 + 6 + 1 + 3 + 6 + 2 + 2
    for row in told.values():
        assert "error" not in row and "skipped" not in row and row["commit"] == "abc1234"
        assert row["anchor"] is None or row["ratio"] == pytest.approx(row["ours"] / row["anchor"], rel=1e-4)
        assert row["low"] <= (row["ratio"] or row["ours"]) <= row["high"]
        assert row["ours"] > 0 or row["what"].startswith("attention")

    attention = [row for what, row in told.items() if what.startswith("attention")]
    assert all(row["logits_off"] < 0.03 and row["changed_in_the_piece"] > 1.0 for row in attention)
    assert told["attention, opt, sdpa, float32"]["logits_off"] < 1e-5 < told["attention, opt, varlen"]["logits_off"]
    for row in (row for what, row in told.items() if what.startswith("pre-training")):
        assert row["first_loss"] == pytest.approx(math.log(502), abs=0.2)  # random weights know nothing
        memory = row["memory_gib"]
        mapped = (
            4 * 132_800 / 2**30
        )  # weights: on a CPU they are mapped from their file, and no allocator hears of them
        assert 0.9 < (memory["peak"] + mapped) / memory["planned"] < 1.1
    assert told["pre-training, sdpa, micro-batch 2"]["anchor"] is None
    ways = [told[f"pre-training, {way}, micro-batch 4"] for way in ("sdpa", "varlen", "varlen + compile")]
    assert [row["micro_batches_in_a_step"] for row in ways] == [2, 2, 2]
    assert [row["anchor"] for row in ways[1:]] == [ways[0]["ours"]] * 2
    assert told["checkpoint, training stands still"]["losses_off"] == 0.0
    for micro_batch in (1, 2, 4):
        row = told[f"DPO, micro-batch {micro_batch}"]
        assert row["pairs_per_second"] * row["tokens_a_pair"] == pytest.approx(row["ours"], rel=0.5)
        assert row["last_loss"] < 0.8  # ln 2 where nothing was learned
    for precision in ("float32", "TF32", "bfloat16"):
        row = told[f"extraction, {precision}, kernel"]
        assert row["units_as_on_the_cpu"] >= 0.985 and row["distinct_units"] > 10
    assert told["extraction, float32, kernel"]["units_as_on_the_cpu"] == 1.0
    for batch in (8, 32):
        row = told[f"spoken text, batches of {batch}"]
        assert row["units_as_in_a_batch_of_1"] == row["spans_as_in_a_batch_of_1"] == 1.0 and row["units"] > 40 * 4


def whole_row(
    queries_THD: torch.Tensor, keys_TGD: torch.Tensor, values_TGD: torch.Tensor, *_: Any, **words: Any
) -> Any:
    """Causal attention that knows rows of 128 tokens, and no pieces."""
    groups = queries_THD.shape[1] // keys_TGD.shape[1]
    heads = (queries_THD, keys_TGD.repeat_interleave(groups, 1), values_TGD.repeat_interleave(groups, 1))
    rows_BHCD = (one.unflatten(0, (-1, 128)).transpose(1, 2) for one in heads)
    output_BHCD = scaled_dot_product_attention(*rows_BHCD, is_causal=True, scale=words["scale"])
    return output_BHCD.transpose(1, 2).flatten(0, 1)


def test_attention_over_the_whole_row_fails_its_gates_and_no_other(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("slamray.model.attention.varlen_reference", whole_row)
    assert gpu.main(["--toy", "--parts", "attention", "--out", str(tmp_path)]) == 1
    wrong = ("qwen2, varlen", "qwen2, varlen, grouped heads expanded", "opt, varlen")
    gates = {f"attention, {which}: {gate}" for which in wrong for gate in ("logits", "gradient", "pieces")}
    assert set(rows(tmp_path)["gates"]["failed"]) == gates


def test_an_optimiser_that_forgets_its_moments_fails_the_gate_of_the_restart(
    gpu: ModuleType, group: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from gpu_parts import training

    monkeypatch.setattr("slamray.train.checkpoint.read_optimiser", lambda *_: None)
    assert gpu.main(["--toy", "--parts", "checkpoint", "--out", str(tmp_path)]) == 1
    row = rows(tmp_path)["checkpoint, training stands still"]
    assert row["gates"] == {"losses after the restart": False}
    assert row["losses_off"] > training.RESUMED["cuda"]  # a GPU's rounding would not hide it


def test_a_part_that_breaks_or_takes_too_long_is_named_and_the_next_one_runs(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from gpu_parts import kernels
    from gpu_parts.bench import Bench, Measured

    def breaks(bench: Bench) -> None:
        raise ValueError("as planted")

    def sleeps(bench: Bench) -> None:
        bench.tell("before", "s", Measured.single(1.0))
        time.sleep(60)

    def fails(bench: Bench) -> None:
        assert bench.left > 0
        bench.tell("after", "s", Measured.of([1.0, 2.0, 4.0]), Measured(4.0, 2.0, 8.0), gates={"low": False})

    parts = {name: (f"gpu_parts.kernels:{name}", 1) for name in ("breaks", "sleeps", "fails")}
    monkeypatch.setattr(gpu, "PARTS", parts)
    for function in (breaks, sleeps, fails):
        monkeypatch.setattr(kernels, function.__name__, function, raising=False)
    began = time.monotonic()
    assert gpu.main(["--toy", "--seconds", "3", "--out", str(tmp_path)]) == 1
    assert time.monotonic() - began < 30
    told = rows(tmp_path)
    assert told["breaks"]["error"] == "ValueError: as planted" and told["before"]["ours"] == 1.0
    assert [told["after"][key] for key in ("ratio", "low", "high")] == [0.5, 0.125, 2.0]
    assert told["gates"]["failed"] == ["breaks: error", "sleeps: out of time", "after: low"]
