"""ZeRO 3 and recomputed layers: the losses of one worker, and checkpoints in parts that any number goes on from."""

from __future__ import annotations

import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.object_store import BUCKET, ROOT, Gate
from support.processes import run_ranks
from transformers import Qwen2Config, Qwen2ForCausalLM

from slamray.config.compute import Compute
from slamray.config.training import OptimSettings, PretrainSettings
from slamray.errors import BadInput
from slamray.model.unit_lm import load_unit_lm
from slamray.stage.folder import Folder, Root
from slamray.tokens.documents import unit_document
from slamray.tokens.rows import write_rows
from slamray.tokens.vocabulary import Vocabulary
from slamray.train.pretrain import pretrain
from slamray.train.sharded import Saved

CONTEXT = 32
OPTIM = OptimSettings(learning_rate=1e-2, warmup_share=0.25, weight_decay=0.1)
STEPS = PretrainSettings(budget="steps:8", tokens_per_step=8 * CONTEXT, optim=OPTIM, validations=4, validation_rows=5)
EXACT = Compute(micro_batch=2, dtype="float32", report_every_steps=1, checkpoint_every_seconds=1e6)
SAVING = EXACT.model_copy(update={"checkpoint_every_seconds": 1e-9})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """rows/ and model/: documents that count upwards, and a tiny Qwen2 whose tensors do not divide by two or three."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    vocabulary = Vocabulary.of_units(21, "the centroids")
    documents = [unit_document((np.arange(n) + n) % 20, vocabulary) for n in rng.integers(5, 60, 60)]
    write_rows(folder / "rows", documents, vocabulary, CONTEXT)
    torch.manual_seed(0)
    shape = {"hidden_size": 15, "head_dim": 10, "intermediate_size": 25, "num_attention_heads": 3}
    config = Qwen2Config(vocab_size=23, num_hidden_layers=2, num_key_value_heads=1, tie_word_embeddings=True, **shape)
    Qwen2ForCausalLM(config).save_pretrained(folder / "model")
    return folder


def leave(
    rank: int, data: Path, out: Root, compute: Compute, kill_after_step: int | None, told: Path, cache: str = ""
) -> None:
    """A run, or what of it comes before a step; each rank leaves the losses it was told. cache: of a store's files."""
    if cache:
        os.environ["SLAMRAY_CACHE"] = cache
    losses: list[float] = []

    def report(metrics: dict[str, Any]) -> None:
        losses.append(metrics["loss"])
        if metrics["step"] == kill_after_step:
            raise KeyboardInterrupt

    facts: dict[str, Any] = {}
    try:
        facts = pretrain(STEPS, compute, data / "model", data / "rows", data / "rows", out, report)
    except KeyboardInterrupt:
        assert kill_after_step
    told.with_name(f"{told.name}-{rank}").write_text(json.dumps([losses, facts.get("validation_loss")]))


def trained(
    data: Path, out: Root, workers: int, kill_after_step: int | None = None, compute: Compute = SAVING, **changes: Any
) -> list[float]:
    """Losses of a run on so many workers, the same on each."""
    compute = compute.model_copy(update={"workers": workers, **changes})
    with tempfile.TemporaryDirectory() as folder:
        told, cache = Path(folder) / "told", os.environ.get("SLAMRAY_CACHE", "")
        run_ranks(leave, workers, data, out, compute, kill_after_step, told, cache)
        found = [json.loads((Path(folder) / f"told-{rank}").read_text()) for rank in range(workers)]
    assert all(one == found[0] for one in found)
    return list(found[0][0])


def weights(out: Root) -> dict[str, torch.Tensor]:
    return dict(load_unit_lm(Folder(out).fetch("model")).state_dict())


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The run of one worker without ZeRO: its losses and weights."""
    out = tmp_path_factory.mktemp("alone") / "out"
    return trained(data, out, 1, compute=EXACT), weights(out)


def untied(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: weight for name, weight in weights.items() if name != "lm_head.weight"}


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Within what float32 rounds in eight steps of AdamW, which divides small numbers by small ones."""
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, atol=1e-4, rtol=0, msg=name)


@pytest.mark.slow
def test_two_workers_under_zero_3_train_what_one_trains_and_go_on_bit_for_bit(
    data: Path, tmp_path: Path, alone: tuple[list[float], dict[str, torch.Tensor]]
) -> None:
    losses, expected = alone
    whole = trained(data, tmp_path / "whole", 2, zero_stage=3)
    assert whole == pytest.approx(losses, rel=2e-5)
    assert_close(weights(tmp_path / "whole"), expected)
    first = trained(data, tmp_path / "cut", 2, kill_after_step=3, zero_stage=3)
    parts = sorted((tmp_path / "cut/checkpoints/step-000000003").rglob("part-*.safetensors"))
    held = [sum(math.prod(shape) for shape in Saved(part).shapes.values()) for part in parts]
    numbers, tensors = sum(weight.numel() for weight in untied(expected).values()), len(untied(expected))
    assert len(parts) == 4 and sum(held[:2]) == numbers  # of weights and of moments, each worker's
    assert max(held[:2]) <= (numbers + tensors) / 2 and max(held[2:]) <= numbers + 2 * tensors
    assert first + trained(data, tmp_path / "cut", 2, zero_stage=3) == whole
    again, once = weights(tmp_path / "cut"), weights(tmp_path / "whole")
    assert all(torch.equal(again[name], once[name]) for name in once)


@pytest.mark.slow
@pytest.mark.parametrize(
    "turns",
    [
        [(2, 3), (1, 3), (2, 3)],  # workers and ZeRO stage of each turn
        pytest.param([(1, 0), (2, 3), (1, 0)], marks=pytest.mark.long),
        pytest.param([(3, 3), (2, 1), (2, 3)], marks=pytest.mark.long),
    ],
)
def test_a_run_moves_between_workers_and_stages(
    data: Path, tmp_path: Path, alone: tuple[list[float], dict[str, torch.Tensor]], turns: list[tuple[int, int]]
) -> None:
    """Three steps, three steps and the last two."""
    losses, expected = alone
    found = []
    for (workers, stage), end in zip(turns, (3, 6, None), strict=True):
        found += trained(data, tmp_path / "out", workers, kill_after_step=end, zero_stage=stage)
    assert found == pytest.approx(losses, rel=2e-5)
    assert_close(weights(tmp_path / "out"), expected)


@pytest.mark.slow
@pytest.mark.long
def test_a_run_in_a_store_moves_between_workers(
    gate: Gate, data: Path, alone: tuple[list[float], dict[str, torch.Tensor]]
) -> None:
    """Each worker puts its parts there, and a checkpoint has no marker before they are."""
    losses, expected = alone
    out = Folder(f"s3://{BUCKET}/{ROOT}/run")
    found = trained(data, out, 2, kill_after_step=3, zero_stage=3)
    found += trained(data, out, 3, kill_after_step=6, zero_stage=3)
    found += trained(data, out, 1, zero_stage=3)
    assert found == pytest.approx(losses, rel=2e-5)
    assert_close(weights(out), expected)
    put = [path.rpartition("checkpoints/")[2] for method, path in gate.asked if method == "PUT"]
    first = [name for name in put if name.startswith("step-000000003")]
    assert first[-1].endswith("complete.json") and sum("part-00001" in name for name in first) == 3


def wild(rank: int, data: Path, out: Path) -> None:
    config = STEPS.model_copy(update={"optim": OptimSettings(learning_rate=1e38, warmup_share=0.0)})
    compute = EXACT.model_copy(update={"workers": 2, "zero_stage": 3})
    with pytest.raises(BadInput, match="not finite at step"):
        pretrain(config, compute, data / "model", data / "rows", data / "rows", out, lambda metrics: None)


@pytest.mark.slow
@pytest.mark.long
def test_a_loss_that_is_not_finite_stops_all_workers_with_one_line(data: Path, tmp_path: Path) -> None:
    run_ranks(wild, 2, data, tmp_path)


@pytest.mark.slow
@pytest.mark.long
def test_recomputed_layers_change_nothing_under_zero_3(
    data: Path, tmp_path: Path, alone: tuple[list[float], dict[str, torch.Tensor]]
) -> None:
    found = trained(data, tmp_path / "out", 2, compute=EXACT, zero_stage=3, recompute=True)
    assert found == pytest.approx(alone[0], rel=2e-5)
    assert_close(weights(tmp_path / "out"), alone[1])


def test_recomputed_layers_give_the_same_bits_and_run_twice(group: None, data: Path, tmp_path: Path) -> None:
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        forward = torch.nn.Linear.forward
        patch.setattr(torch.nn.Linear, "forward", lambda self, x: calls.append(self) or forward(self, x))
        counted = []
        for recompute in (False, True):
            compute = EXACT.model_copy(update={"recompute": recompute})
            out = tmp_path / str(recompute)
            leave(0, data, out, compute, None, tmp_path / f"told-{recompute}")
            counted.append(len(calls))
            calls.clear()
    told = [json.loads((tmp_path / f"told-{recompute}-0").read_text()) for recompute in (False, True)]
    assert told[0] == told[1]
    once, twice = (weights(tmp_path / str(recompute)) for recompute in (False, True))
    assert all(torch.equal(once[name], twice[name]) for name in once)
    products, micro_batches = 2 * 7, 8 * 4  # of two layers, and of eight steps
    assert counted[1] - counted[0] == products * micro_batches
