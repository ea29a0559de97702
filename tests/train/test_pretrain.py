"""The pre-training loop on tiny models: exact against plain torch, exact after a kill, the same for any batch split."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.processes import run_ranks
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from slamray.config.compute import Compute
from slamray.config.training import OptimSettings, PretrainSettings
from slamray.errors import BadInput
from slamray.model.saved_vocabulary import read_unit_vocabulary
from slamray.model.unit_lm import load_unit_lm
from slamray.tokens.documents import Document, unit_document
from slamray.tokens.rows import RowStore, write_rows
from slamray.tokens.sampler import batch_rows
from slamray.tokens.vocabulary import Vocabulary
from slamray.train.pretrain import Part, pretrain
from slamray.train.trunk_schedule import trunk_config

CONTEXT = 32
OPTIM = OptimSettings(learning_rate=1e-2, warmup_share=0.25)
STEPS = PretrainSettings(budget="steps:8", tokens_per_step=8 * CONTEXT, optim=OPTIM, validations=4, validation_rows=8)
WHOLE = Part()
WSD = OPTIM.model_copy(update={"warmup_share": 0.125, "schedule": "wsd", "decay_share": 0.5})
EXACT = Compute(micro_batch=4, dtype="float32", report_every_steps=1, checkpoint_every_seconds=1e6)

pytestmark = pytest.mark.usefixtures("group")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """rows/ and model/: documents that count upwards, and a tiny Qwen2."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    vocabulary = Vocabulary.of_units(20, "the centroids")
    documents = [unit_document((np.arange(n) + n) % 20, vocabulary) for n in rng.integers(5, 60, 60)]
    write_rows(folder / "rows", documents, vocabulary, CONTEXT)
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = Qwen2Config(vocab_size=22, num_hidden_layers=2, tie_word_embeddings=True, **shape)
    Qwen2ForCausalLM(config).save_pretrained(folder / "model")
    return folder


class Reports(list[dict[str, Any]]):
    """Collects metrics; can kill the run after a step."""

    def __init__(self, kill_after_step: int | None = None) -> None:
        self.kill_after_step = kill_after_step

    def __call__(self, metrics: dict[str, Any]) -> None:
        self.append(metrics)
        if metrics["step"] == self.kill_after_step:
            raise KeyboardInterrupt

    def losses(self) -> list[float]:
        return [metrics["loss"] for metrics in self]


def _train(
    data: Path, out: Path, config: PretrainSettings = STEPS, compute: Compute = EXACT,
    kill_after_step: int | None = None, part: Part = WHOLE,
) -> tuple[Reports, dict[str, Any]]:  # fmt: skip
    reports = Reports(kill_after_step)
    facts: dict[str, Any] = {}
    try:
        facts = pretrain(config, compute, data / "model", data / "rows", data / "rows", out, reports, part)
    except KeyboardInterrupt:
        assert kill_after_step
    return reports, facts


def _sum_of_losses(model: PreTrainedModel, rows: RowStore, row: int) -> torch.Tensor:
    """Piece by piece, without packing, with transformers' own attention."""
    total, column = torch.zeros(()), 0
    for length in rows.lengths_P[rows.offsets[row] : rows.offsets[row + 1]]:
        tokens = torch.from_numpy(rows.tokens_RC[row, column : column + length].astype(np.int64))
        column += length
        total = total + cross_entropy(model(tokens[None]).logits[0, :-1], tokens[1:], reduction="sum")
    return total


def _reference(data: Path) -> list[float]:
    """The same run in plain torch, one row at a time, with the schedule written out for these eight steps."""
    model, rows = load_unit_lm(data / "model"), RowStore(data / "rows")
    optimiser = torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=0.0)
    losses = []
    for step in range(8):
        rate = 1e-2 * step / 2 if step < 2 else 5e-5 + (1e-2 - 5e-5) * (1 + math.cos(math.pi * (step - 2) / 6)) / 2
        batch = batch_rows(0, step, rows.rows, 8)
        loss = torch.stack([_sum_of_losses(model, rows, row) for row in batch]).sum() / rows.targets_R[batch].sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimiser.param_groups[0]["lr"] = rate
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("attention", ["sdpa", "varlen"])
def test_every_attention_trains_to_the_same_losses(data: Path, tmp_path: Path, attention: str) -> None:
    """Within what bfloat16 rounds: 8 bits."""
    bfloat16 = EXACT.model_copy(update={"dtype": "bfloat16"})
    blockwise, _ = _train(data, tmp_path / "blockwise", compute=bfloat16)
    other, _ = _train(data, tmp_path / "other", compute=bfloat16.model_copy(update={"attention": attention}))
    assert other.losses() == pytest.approx(blockwise.losses(), rel=2**-8)
    assert other.losses()[-1] < 0.9 * other.losses()[0]


@pytest.mark.parametrize("micro_batch", [1, 2, 4, 8])
def test_losses_are_those_of_plain_torch_for_any_micro_batch(data: Path, tmp_path: Path, micro_batch: int) -> None:
    reports, _ = _train(data, tmp_path, compute=EXACT.model_copy(update={"micro_batch": micro_batch}))
    assert reports.losses() == pytest.approx(_reference(data), rel=2e-5)


def test_bfloat16_follows_float32_and_learns(data: Path, tmp_path: Path) -> None:
    config = STEPS.model_copy(update={"budget": "steps:40"})
    exact, _ = _train(data, tmp_path / "a", config)
    half, _ = _train(data, tmp_path / "b", config, EXACT.model_copy(update={"dtype": "bfloat16"}))
    assert half.losses() == pytest.approx(exact.losses(), rel=0.03)
    assert half.losses()[-1] < 0.5 * half.losses()[0]


def test_a_killed_run_goes_on_bit_for_bit(data: Path, tmp_path: Path) -> None:
    whole, facts = _train(data, tmp_path / "whole")
    saving = EXACT.model_copy(update={"checkpoint_every_seconds": 1e-9})
    first, _ = _train(data, tmp_path / "cut", compute=saving, kill_after_step=3)
    second, _ = _train(data, tmp_path / "cut", compute=saving, kill_after_step=6)
    third, facts_again = _train(data, tmp_path / "cut", compute=saving)
    assert [m["step"] for m in first + second + third] == list(range(1, 9))
    assert first.losses() + second.losses() + third.losses() == whole.losses()
    weights, again = (load_unit_lm(tmp_path / name / "model").state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    for key in ("step", "tokens", "flops", "validation_loss", "samples"):
        assert facts[key] == facts_again[key]
    histories = [json.loads((tmp_path / name / "history.json").read_text()) for name in ("whole", "cut")]
    assert [h.get("loss") for h in histories[0]] == [h.get("loss") for h in histories[1]]


def test_a_branch_comes_to_the_same_as_one_run_however_the_trunk_was_cut(data: Path, tmp_path: Path) -> None:
    config = STEPS.model_copy(update={"trunk": "steps:16", "optim": WSD})
    whole, _ = _train(data, tmp_path / "whole", config)

    stable, until = trunk_config(config)
    _, first = _train(data, tmp_path / "first", stable, part=Part(until="steps:2"))
    saving = EXACT.model_copy(update={"checkpoint_every_seconds": 1e-9})
    rest = Part(tmp_path / "first" / "state", until)
    cut, _ = _train(data, tmp_path / "second", stable, saving, kill_after_step=3, part=rest)
    trunk, second = _train(data, tmp_path / "second", stable, saving, part=rest)
    branch, facts = _train(data, tmp_path / "branch", config, part=Part(after=tmp_path / "second" / "state"))

    assert [row["step"] for row in cut + trunk + branch] == [3, 4, 5, 6, 7, 8]
    assert [row["lr"] for row in branch] == [row["lr"] for row in whole[4:]]
    assert branch.losses() == whole.losses()[4:]
    weights, again = (load_unit_lm(tmp_path / name / "model").state_dict() for name in ("whole", "branch"))
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert facts["tokens"] == whole[-1]["tokens"]
    assert first["shared_seconds"] == 0 < second["shared_seconds"] < facts["shared_seconds"] < facts["train_seconds"]
    assert not (tmp_path / "second" / "model").exists()


def test_a_part_that_the_one_before_has_passed_leaves_the_same_state(data: Path, tmp_path: Path) -> None:
    """A step is the smallest piece: budgets closer than one end at the same step."""
    stable, _ = trunk_config(STEPS.model_copy(update={"trunk": "steps:16", "optim": WSD}))
    _train(data, tmp_path / "first", stable, part=Part(until="steps:2"))
    reports, facts = _train(data, tmp_path / "second", stable, part=Part(tmp_path / "first" / "state", "steps:2"))
    assert reports == [] and facts["step"] == 2
    states = [(tmp_path / name / "state/model/model.safetensors").read_bytes() for name in ("first", "second")]
    assert states[0] == states[1]


def test_a_finished_run_called_again_trains_no_further(data: Path, tmp_path: Path) -> None:
    _, facts = _train(data, tmp_path)
    reports, again = _train(data, tmp_path)
    assert reports == [] and again == facts


def test_validation_is_the_mean_over_targets_and_comes_at_even_shares(data: Path, tmp_path: Path) -> None:
    _, facts = _train(data, tmp_path)
    history = json.loads((tmp_path / "history.json").read_text())
    validations = [entry for entry in history if "validation_loss" in entry]
    assert [entry["step"] for entry in validations] == [0, 2, 4, 6, 8]
    rows = RowStore(data / "rows")
    with torch.no_grad():
        for folder, entry in ((data / "model", validations[0]), (tmp_path / "model", validations[-1])):
            model = load_unit_lm(folder).eval()
            total = sum(float(_sum_of_losses(model, rows, row)) for row in range(8))
            expected = total / int(rows.targets_R[:8].sum())
            assert entry["validation_loss"] == pytest.approx(expected, rel=1e-5)
            assert entry["validation_perplexity"] == pytest.approx(math.exp(expected), rel=1e-4)
    assert facts["validation_loss"] == validations[-1]["validation_loss"]


def test_what_was_spent_adds_up(data: Path, tmp_path: Path) -> None:
    reports, facts = _train(data, tmp_path, compute=EXACT.model_copy(update={"peak_tflops": 1.0}))
    rows = RowStore(data / "rows")
    tokens = sum(int(rows.tokens_R[batch_rows(0, step, rows.rows, 8)].sum()) for step in range(8))
    parameters = sum(p.numel() for p in load_unit_lm(data / "model").parameters())
    assert facts["tokens"] == tokens and facts["flops"] == 6 * parameters * tokens
    last = reports[-1]
    assert last["progress"] == 1.0 and 0 < last["padding_share"] < 0.2 and 0 < last["data_wait_share"] < 1
    assert last["mfu"] == pytest.approx(6 * parameters * last["tokens_per_second"] / 1e12)


def test_a_time_budget_goes_on_after_a_kill_and_ends_near_the_floor(data: Path, tmp_path: Path) -> None:
    config = STEPS.model_copy(update={"budget": "time:2s"})
    saving = EXACT.model_copy(update={"checkpoint_every_seconds": 1e-9})
    first, _ = _train(data, tmp_path, config, saving, kill_after_step=3)
    reports, facts = _train(data, tmp_path, config)
    assert reports[0]["train_seconds"] > first[-1]["train_seconds"] > 0
    assert 2.0 <= facts["train_seconds"] < 3.0  # over by one step at most
    assert reports[-1]["lr"] < 0.05 * OPTIM.learning_rate


def test_a_loss_that_is_not_finite_stops_with_one_line(data: Path, tmp_path: Path) -> None:
    wild = STEPS.model_copy(update={"optim": OptimSettings(learning_rate=1e38, warmup_share=0.0)})
    with pytest.raises(BadInput, match="not finite at step"):
        _train(data, tmp_path, wild)


def test_a_batch_that_does_not_divide_is_refused_before_any_work(data: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"pretrain\.tokens_per_step=250 is no multiple of a row's"):
        _train(data, tmp_path, STEPS.model_copy(update={"tokens_per_step": 250}))
    assert not list(tmp_path.iterdir())


def test_a_micro_batch_that_does_not_divide_the_batch_trains_as_the_next_smaller_that_does(
    data: Path, tmp_path: Path
) -> None:
    three, two = (
        _train(data, tmp_path / str(rows), compute=EXACT.model_copy(update={"micro_batch": rows}))[0] for rows in (3, 2)
    )
    assert [row["loss"] for row in three] == [row["loss"] for row in two]


def _worker(rank: int, data: Path, folder: Path, first: bool) -> None:
    """Two workers' part of the test below; each rank leaves the losses it was told."""
    plain = EXACT.model_copy(update={"micro_batch": 2})
    sharded = plain.model_copy(update={"zero_stage": 1, "checkpoint_every_seconds": 1e-9})
    if first:
        told = [_train(data, folder / "two", compute=plain)[0].losses()]
        told.append(_train(data, folder / "moved", compute=sharded, kill_after_step=3)[0].losses())
    else:
        told = [_train(data, folder / "moved", compute=sharded)[0].losses()]
    (folder / f"{first}-{rank}.json").write_text(json.dumps(told))


@pytest.mark.slow
def test_two_workers_train_what_one_trains_and_a_run_moves_between_them(data: Path, tmp_path: Path) -> None:
    whole, _ = _train(data, tmp_path / "whole")
    run_ranks(_worker, 2, data, tmp_path, True)
    saving = EXACT.model_copy(update={"checkpoint_every_seconds": 1e-9})
    alone, _ = _train(data, tmp_path / "moved", compute=saving, kill_after_step=5)
    run_ranks(_worker, 2, data, tmp_path, False)
    for rank in (0, 1):
        two, moved = json.loads((tmp_path / f"True-{rank}.json").read_text())
        (end,) = json.loads((tmp_path / f"False-{rank}.json").read_text())
        assert two == pytest.approx(whole.losses(), rel=2e-5)
        # steps 1-3 on two workers under ZeRO 1, 4-5 on one without, 6-8 on two again
        assert moved + alone.losses() + end == pytest.approx(whole.losses(), rel=2e-5)


def _one_of_many(rank: int, data: Path, folder: Path) -> None:
    reports, facts = _train(data, folder / "many", compute=EXACT.model_copy(update={"micro_batch": 2}))
    (folder / f"{rank}.json").write_text(json.dumps([reports.losses(), facts["samples"]]))


@pytest.mark.slow
@pytest.mark.parametrize("world", [3, 4, 6])
def test_any_number_of_workers_trains_what_one_trains(data: Path, tmp_path: Path, world: int) -> None:
    """Three do not divide the step's four micro-batches: two work on one that does not count. So do two of six."""
    whole, facts = _train(data, tmp_path / "whole")
    run_ranks(_one_of_many, world, data, tmp_path)
    for rank in range(world):
        losses, samples = json.loads((tmp_path / f"{rank}.json").read_text())
        assert losses == pytest.approx(whole.losses(), rel=2e-5) and samples == facts["samples"]


def test_training_marks_the_model_with_the_rows_vocabulary_and_refuses_rows_of_another(
    data: Path, tmp_path: Path
) -> None:
    config = STEPS.model_copy(update={"budget": "steps:1"})
    _train(data, tmp_path, config)
    known = RowStore(data / "rows").vocabulary
    assert known is not None and read_unit_vocabulary(tmp_path / "model", "checkpoint") == known
    others = Vocabulary.of_units(20, "other centroids")
    write_rows(tmp_path / "rows", [unit_document(np.arange(20), others)] * 20, others, CONTEXT)
    with pytest.raises(BadInput, match=r"/model .* and .*/rows .*: the units are the centroids here, other centroids"):
        pretrain(config, EXACT, tmp_path / "model", tmp_path / "rows", tmp_path / "rows", tmp_path / "out", Reports())


def test_a_loss_mask_leaves_out_what_it_masks(data: Path, tmp_path: Path) -> None:
    """One step on rows of one document each, against plain torch on the documents themselves."""
    rng = np.random.default_rng(0)
    vocabulary = Vocabulary.of_units(20)
    drawn = [rng.integers(2, 22, CONTEXT).astype(np.uint16) for _ in range(8)]
    documents = [Document(ids, rng.random(CONTEXT) < 0.3) for ids in drawn]
    write_rows(tmp_path / "rows", documents, vocabulary, CONTEXT)
    reports = Reports()
    config = STEPS.model_copy(update={"budget": "steps:1"})
    pretrain(config, EXACT, data / "model", tmp_path / "rows", tmp_path / "rows", tmp_path / "out", reports)
    model, total, count = load_unit_lm(data / "model"), 0.0, 0
    for document in documents:
        tokens, mask = torch.from_numpy(document.ids.astype(np.int64)), torch.from_numpy(document.targets)
        losses = cross_entropy(model(tokens[None]).logits[0, :-1], tokens[1:], reduction="none")
        total, count = total + float(losses[mask[1:]].sum()), count + int(mask.sum())
    assert reports.losses() == pytest.approx([total / count], rel=2e-5)
