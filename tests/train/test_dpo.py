"""DPO: token layout and masks, order, loss and update against hand-written ones and TRL's, resume, held-out pairs."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import tokenizers
import torch
import torch.nn.functional as F
from support.processes import run_ranks
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from slamray.config.budget import Budget
from slamray.config.compute import Compute
from slamray.config.training import DpoSettings, OptimSettings
from slamray.errors import BadInput
from slamray.model.shared_prompt import pair_rows, visible
from slamray.stage.work import NOTICE
from slamray.tokens.sampler import batch_rows
from slamray.tokens.vocabulary import Vocabulary
from slamray.train.dpo import align as dpo
from slamray.train.dpo import pairs as dpo_pairs
from slamray.train.dpo.pair_scores import score_pairs
from slamray.train.loop import Run

COMPUTE = Compute(dtype="float32", dpo_micro_batch=2, report_every_steps=1, checkpoint_every_seconds=3600)
CONFIG = DpoSettings(
    budget="steps:6",
    pairs_per_step=4,
    context=64,
    seed=3,
    optim=OptimSettings(learning_rate=1e-3, schedule="inverse_sqrt", floor_learning_rate=0.0, warmup_share=0.3),
)


class Killed(Exception):
    """Stands for kill -9 in the middle of a run."""


def build_model(seed: int = 0) -> Qwen2ForCausalLM:
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=502, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=True,
    )  # fmt: skip
    return Qwen2ForCausalLM(config).eval()


def build_pairs(count: int, seed: int) -> list[dict[str, Any]]:
    """Chosen continuations use low units, rejected ones high units, so there is something to learn."""
    rng = np.random.default_rng(seed)
    return [
        {
            "pair_id": f"{seed}-{number:04d}",
            "prompt": rng.integers(0, 500, rng.integers(3, 12)),
            "chosen": rng.integers(0, 250, rng.integers(3, 12)),
            "rejected": rng.integers(250, 500, rng.integers(3, 12)),
        }
        for number in range(count)
    ]


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    build_model().save_pretrained(tmp_path / "start")
    return tmp_path / "start"


def log_likelihood(model: torch.nn.Module, prompt: list[int], rest: list[int]) -> torch.Tensor:
    """Of one unpadded sequence, by torch's cross entropy: shares no code with TRL or slamray."""
    ids = torch.tensor([prompt + rest])
    logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
    return -F.cross_entropy(logits.double(), ids[0, len(prompt) :], reduction="sum")


def by_hand(model: torch.nn.Module, pairs: list[dpo_pairs.PairTokens]) -> torch.Tensor:
    """Log-likelihoods (P, 2) with gradients."""
    scores = [log_likelihood(model, p.prompt_ids, rest) for p in pairs for rest in (p.chosen_ids, p.rejected_ids)]
    return torch.stack(scores).view(len(pairs), 2)


def dpo_loss(scores_P2: torch.Tensor, reference_P2: torch.Tensor, beta: float) -> torch.Tensor:
    """Rafailov et al. 2023, equation 7."""
    gain_P2 = scores_P2 - reference_P2
    return -torch.log(torch.sigmoid(beta * (gain_P2[:, 0] - gain_P2[:, 1]))).mean()


def test_a_pair_is_laid_out_with_one_special_at_either_end() -> None:
    pair = {"pair_id": "a", "prompt": [0, 7], "chosen": np.array([499], np.uint16), "rejected": [3, 3, 4]}
    (tokens,), dropped = dpo_pairs.to_pair_tokens([pair], Vocabulary.of_units(500), 64)
    assert tokens.prompt_ids == [1, 2, 9]
    assert tokens.chosen_ids == [501, 1]
    assert tokens.rejected_ids == [5, 5, 6, 1]
    assert (tokens.tokens, tokens.longest, dropped) == (12, 7, {})


def test_a_pair_is_one_row_with_the_prompt_once() -> None:
    pairs = [
        dpo_pairs.PairTokens("a", [1, 2, 9], [501, 1], [5, 5, 6, 1]),
        dpo_pairs.PairTokens("b", [1, 4], [8, 1], [7, 1]),
    ]
    rows = pair_rows([pair.sides for pair in pairs])
    assert rows.ids_PT.tolist() == [[1, 2, 9, 501, 1, 5, 5, 6, 1], [1, 4, 8, 1, 7, 1, 0, 0, 0]]
    assert rows.positions_PT.tolist() == [[0, 1, 2, 3, 4, 3, 4, 5, 6], [0, 1, 2, 3, 2, 3, 0, 0, 0]]
    assert rows.targets_N.tolist() == [501, 1, 5, 5, 6, 1, 8, 1, 7, 1]
    assert rows.predicted_by_N.tolist() == [2, 3, 2, 5, 6, 7, 9 + 1, 9 + 2, 9 + 1, 9 + 4]
    assert rows.sides_N.tolist() == [0, 0, 1, 1, 1, 1, 2, 2, 3, 3]
    assert rows.first == 1  # of the second pair, whose prompt is the shorter


def test_a_side_sees_the_prompt_and_what_it_said_itself() -> None:
    seen = visible(torch.tensor([[0, 0, 1, 1, 2, 2, 3]]))
    assert seen[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0],
        [1, 1, 0, 0, 1, 0, 0],
        [1, 1, 0, 0, 1, 1, 0],
        [1, 1, 0, 0, 0, 0, 1],
    ]


def test_long_and_empty_pairs_are_left_out_and_counted_never_truncated() -> None:
    pairs = [
        {"pair_id": "fits", "prompt": [1] * 5, "chosen": [2] * 3, "rejected": [3]},  # 1 + 5 + 3 + 1 = 10 tokens
        {"pair_id": "long", "prompt": [1] * 5, "chosen": [2], "rejected": [3] * 4},
        {"pair_id": "empty", "prompt": [1], "chosen": [], "rejected": [3]},
    ]
    kept, dropped = dpo_pairs.to_pair_tokens(pairs, Vocabulary.of_units(500), 10)
    assert [pair.pair_id for pair in kept] == ["fits"]
    assert dropped == {"longer than 10 tokens": 1, "no units in a part": 1}


def test_units_outside_the_vocabulary_and_repeated_ids_are_refused_by_name() -> None:
    pair = {"pair_id": "p7", "prompt": [1], "chosen": [500], "rejected": [3]}
    with pytest.raises(BadInput, match="pair p7: unit 500 is outside the model's 500 units"):
        dpo_pairs.to_pair_tokens([pair], Vocabulary.of_units(500), 64)
    with pytest.raises(BadInput, match="pair p7 stands twice"):
        dpo_pairs.to_pair_tokens([{**pair, "chosen": [1]}] * 2, Vocabulary.of_units(500), 64)


def test_a_batch_that_does_not_divide_is_refused_with_the_numbers() -> None:
    assert dpo_pairs.accumulation(64, 4, 2) == 8
    for micro_batch, world in ((5, 1), (4, 3), (64, 2)):
        with pytest.raises(BadInput, match=f"dpo_micro_batch={micro_batch} x compute.workers={world};") as told:
            dpo_pairs.accumulation(64, micro_batch, world)
        assert "dpo.pairs_per_step=64" in str(told.value)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_a_step_holds_the_same_micro_batches_for_any_number_of_workers(
    world: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = np.random.default_rng(0).integers(5, 60, 13)
    config = CONFIG.model_copy(update={"pairs_per_step": 8})
    ranks = []
    for rank in range(world):
        monkeypatch.setattr(dpo_pairs, "rank_and_world", lambda rank=rank: (rank, world))
        ranks.append(list(dpo_pairs.StepBatches(list(lengths), config, 2, 0, 5)))
    per_step = 8 // 2 // world
    for step in range(5):
        found = [tuple(batch) for batches in ranks for batch in batches[step * per_step : (step + 1) * per_step]]
        expected = batch_rows(3, step, 13, 8)
        assert sorted(index for batch in found for index in batch) == sorted(expected)
        longest = sorted(lengths[expected])
        pairs_by_length = sorted(zip(longest[::2], longest[1::2], strict=True))
        assert sorted(tuple(sorted(lengths[list(batch)])) for batch in found) == pairs_by_length


def test_a_sampler_that_starts_later_gives_the_rest_of_the_same_batches() -> None:
    lengths = list(range(5, 18))
    whole = list(dpo_pairs.StepBatches(lengths, CONFIG, 2, 0, 7))
    assert list(dpo_pairs.StepBatches(lengths, CONFIG, 2, 3, 4)) == whole[3 * 2 :]
    first_epoch = [index for batch in whole for index in batch][:12]  # 13 pairs, 4 a step
    assert len(set(first_epoch)) == 12


def test_scores_equal_unpadded_cross_entropy(group: None) -> None:
    model = build_model()
    tokens, _ = dpo_pairs.to_pair_tokens(build_pairs(7, 1), Vocabulary.of_units(500), 64)
    with torch.no_grad():
        expected = by_hand(model, tokens).numpy()
    for pairs_at_once in (1, 2):
        compute = COMPUTE.model_copy(update={"dpo_micro_batch": pairs_at_once})
        assert score_pairs(model, tokens, compute) == pytest.approx(expected, abs=1e-4)


def test_loss_and_rewards_equal_the_formula(group: None, tmp_path: Path) -> None:
    policy, reference = build_model(1), build_model(2)
    tokens, _ = dpo_pairs.to_pair_tokens(build_pairs(4, 1), Vocabulary.of_units(500), 64)
    with torch.no_grad():
        scores_P2, reference_P2 = by_hand(policy, tokens), by_hand(reference, tokens)
    dpo._claim_device(COMPUTE)
    run = Run(Budget("steps", 6), COMPUTE, tmp_path, lambda metrics: None)
    trainer = dpo._trainer(CONFIG, COMPUTE, policy, tokens, reference_P2.numpy(), run)
    rows = [trainer.train_dataset[index] for index in range(4)]
    loss = trainer.compute_loss(trainer.model, trainer.data_collator(rows))
    assert loss.item() == pytest.approx(dpo_loss(scores_P2, reference_P2, 0.1).item(), abs=1e-5)
    metrics: dict[str, float] = {}
    trainer.log(metrics)
    gain_2 = 0.1 * (scores_P2 - reference_P2).mean(0)
    assert metrics["rewards/chosen"] == pytest.approx(gain_2[0].item(), abs=1e-5)
    assert metrics["rewards/rejected"] == pytest.approx(gain_2[1].item(), abs=1e-5)
    assert metrics["logps/chosen"] == pytest.approx(scores_P2[:, 0].mean().item(), abs=1e-4)
    assert metrics["logps/rejected"] == pytest.approx(scores_P2[:, 1].mean().item(), abs=1e-4)


def test_a_run_equals_a_hand_written_loop(group: None, tmp_path: Path, model_folder: Path) -> None:
    """Loss, gradient accumulation, clipping, AdamW and the schedule together, step by step."""
    reports: list[dict[str, Any]] = []
    pairs = build_pairs(10, 1)
    dpo.train_dpo(CONFIG, COMPUTE, model_folder, pairs, [], tmp_path / "out", lambda m: reports.append(m))

    model = build_model()
    tokens, _ = dpo_pairs.to_pair_tokens(pairs, Vocabulary.of_units(500), 64)
    with torch.no_grad():
        reference_P2 = by_hand(model, tokens)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1.0, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    assert len(reports) == 6
    for step, metrics in enumerate(reports):
        rate = 1e-3 * (step / 6 / 0.3 if step / 6 < 0.3 else math.sqrt(0.3 / (step / 6)))
        optimiser.param_groups[0]["lr"] = rate
        assert metrics["learning_rate"] == pytest.approx(rate)
        indices = batch_rows(3, step, 10, 4).tolist()
        loss = dpo_loss(by_hand(model, [tokens[index] for index in indices]), reference_P2[indices], 0.1)
        assert metrics["loss"] == pytest.approx(loss.item(), abs=1e-5), step
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimiser.step()
    trained = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model")
    for name, weights in trained.named_parameters():
        torch.testing.assert_close(weights, model.get_parameter(name), atol=2e-5, rtol=0, msg=name)
    assert reports[-1]["loss"] < reports[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)


def plain_trl(folder: Path, pairs: list[dict[str, Any]], steps: int, rate: float) -> torch.nn.Module:
    """The model after TRL's own DPOTrainer: words as text, its tokenising, reference, loop and optimiser."""
    words = {"<PAD>": 0, "<S>": 1} | {f"u{unit}": unit + 2 for unit in range(500)}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<PAD>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokeniser = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<PAD>", bos_token="<S>", eos_token="<S>")

    def text(units: np.ndarray) -> str:
        return "".join(f" u{unit}" for unit in units)

    ordered = sorted(pairs, key=lambda pair: pair["pair_id"])
    read = [ordered[row] for step in range(steps) for row in batch_rows(CONFIG.seed, step, len(pairs), 4)]
    rows = [
        {"prompt": "<S>" + text(p["prompt"]), **{key: text(p[key]) for key in ("chosen", "rejected")}} for p in read
    ]
    arguments = DPOConfig(
        output_dir=str(folder), use_cpu=True, bf16=False, beta=CONFIG.beta, per_device_train_batch_size=4,
        max_steps=steps, learning_rate=rate, lr_scheduler_type="constant", max_grad_norm=0.5, weight_decay=0.0,
        train_sampling_strategy="sequential", save_strategy="no", report_to="none", disable_tqdm=True,
        dataloader_pin_memory=False, activation_checkpointing=False,
    )  # fmt: skip
    trainer = DPOTrainer(
        build_model(), build_model(), arguments, train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokeniser,
    )  # fmt: skip
    trainer.train()
    return trainer.model


def test_five_steps_end_at_the_weights_of_trls_own_trainer(group: None, tmp_path: Path, model_folder: Path) -> None:
    """Within 2e-5, where the steps move them by up to 5e-3."""
    optim = OptimSettings(learning_rate=1e-3, schedule="constant", floor_learning_rate=0.0, warmup_share=0.0)
    config = CONFIG.model_copy(update={"budget": "steps:5", "optim": optim})
    pairs = build_pairs(10, 1)
    dpo.train_dpo(config, COMPUTE, model_folder, pairs, [], tmp_path / "out", lambda *_: None)
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model")
    trls, start = plain_trl(tmp_path / "trl", pairs, 5, 1e-3), build_model()
    moved = max((w - start.get_parameter(name)).abs().max().item() for name, w in ours.named_parameters())
    assert moved > 3e-3
    for name, weights in ours.named_parameters():
        torch.testing.assert_close(weights, trls.get_parameter(name), atol=2e-5, rtol=0, msg=name)


def test_a_notice_has_a_checkpoint_written_at_once_and_goes(group: None, tmp_path: Path, model_folder: Path) -> None:
    def report(metrics: dict[str, Any]) -> None:
        if metrics["step"] == 2:
            (tmp_path / "out" / NOTICE).touch()
        if metrics["step"] == 4:
            raise Killed

    (tmp_path / "out").mkdir()
    with pytest.raises(Killed):
        dpo.train_dpo(CONFIG, COMPUTE, model_folder, build_pairs(10, 1), [], tmp_path / "out", report)
    assert not (tmp_path / "out" / NOTICE).exists()
    assert [path.name for path in (tmp_path / "out" / "checkpoints").glob("step-*")] == ["step-000000003"]


def test_a_killed_run_continues_with_the_losses_of_the_uninterrupted_one(
    group: None, tmp_path: Path, model_folder: Path
) -> None:
    compute = COMPUTE.model_copy(update={"checkpoint_every_seconds": 1e-9})
    whole: list[float] = []
    pairs = build_pairs(10, 1)
    uninterrupted = dpo.train_dpo(
        CONFIG, compute, model_folder, pairs, [], tmp_path / "whole", lambda metrics: whole.append(metrics["loss"])
    )
    first: list[float] = []

    def killed_after_four(metrics: dict[str, Any]) -> None:
        first.append(metrics["loss"])
        if metrics["step"] == 4:
            raise Killed

    with pytest.raises(Killed):
        dpo.train_dpo(CONFIG, compute, model_folder, pairs, [], tmp_path / "cut", killed_after_four)
    rest: list[dict[str, Any]] = []
    resumed = dpo.train_dpo(
        CONFIG, compute, model_folder, pairs, [], tmp_path / "cut", lambda metrics: rest.append(metrics)
    )
    assert resumed["resumed_from"] == "step-000000004"
    assert [metrics["step"] for metrics in rest] == [5, 6]
    assert first + [metrics["loss"] for metrics in rest] == whole  # one worker: bit for bit
    assert resumed["tokens"] == uninterrupted["tokens"] and resumed["train_seconds"] > rest[0]["train_seconds"]
    assert resumed["samples"] == uninterrupted["samples"]
    history = json.loads((tmp_path / "cut" / "history.json").read_text())
    assert [row["step"] for row in history] == [1, 2, 3, 4, 5, 6] and [row["loss"] for row in history] == whole
    weights = [(tmp_path / run / "model/model.safetensors").read_bytes() for run in ("cut", "whole")]
    assert weights[0] == weights[1]


def test_every_step_is_a_row_of_the_history_and_of_a_report_however_seldom_it_reports(
    group: None, tmp_path: Path, model_folder: Path
) -> None:
    pairs = build_pairs(10, 1)
    whole: list[float] = []
    dpo.train_dpo(CONFIG, COMPUTE, model_folder, pairs, [], tmp_path / "each", lambda told: whole.append(told["loss"]))

    # a checkpoint after every step, so that the one of step 3 lies between two reports; the second run goes on there
    seldom = COMPUTE.model_copy(update={"report_every_steps": 2, "checkpoint_every_seconds": 1e-9})
    told: list[dict[str, Any]] = []

    def killed_at_the_second_report(metrics: dict[str, Any]) -> None:
        if metrics["step"] == 4 and not lost.exists():
            raise Killed
        told.append(metrics)

    lost = tmp_path / "lost"
    with pytest.raises(Killed):
        dpo.train_dpo(CONFIG, seldom, model_folder, pairs, [], tmp_path / "seldom", killed_at_the_second_report)
    (tmp_path / "seldom/checkpoints/step-000000004").rename(lost)  # of which the next run knows nothing
    facts = dpo.train_dpo(CONFIG, seldom, model_folder, pairs, [], tmp_path / "seldom", killed_at_the_second_report)
    assert facts["resumed_from"] == "step-000000003"
    history = json.loads((tmp_path / "seldom" / "history.json").read_text())
    assert [row["step"] for row in history] == [1, 2, 3, 4, 5, 6] and [row["loss"] for row in history] == whole
    assert [[row["step"] for row in report["each_step"]] for report in told] == [[1, 2], [3, 4], [5, 6]]
    assert [report["loss"] for report in told] == pytest.approx([sum(whole[i : i + 2]) / 2 for i in (0, 2, 4)])


def test_held_out_pairs_move_and_the_saved_model_is_the_one_that_was_scored(
    group: None, tmp_path: Path, model_folder: Path
) -> None:
    config = CONFIG.model_copy(update={"budget": "steps:20", "pairs_per_step": 8})
    pairs, held_out = build_pairs(40, 1), build_pairs(20, 2)
    facts = dpo.train_dpo(config, COMPUTE, model_folder, pairs, held_out, tmp_path / "out", lambda *_: None)
    heldout = facts["heldout"]
    assert heldout["pairs"] == 20 and heldout["moved"] >= 0.8
    assert heldout["margin"] - heldout["margin_half_width"] > 0
    assert heldout["chosen_gain"] > 0 > heldout["rejected_gain"]
    rows = pq.read_table(tmp_path / "out" / "heldout.parquet").to_pydict()
    tokens, _ = dpo_pairs.to_pair_tokens(held_out, Vocabulary.of_units(500), 64)
    assert rows["pair_id"] == [pair.pair_id for pair in tokens]
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (tmp_path / "out/model", model_folder)]
    assert sizes[0] == sizes[1]  # tied weights are saved once
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model").eval()
    with torch.no_grad():
        expected = by_hand(model, tokens).numpy()
    after_P2 = np.array([rows["chosen_after"], rows["rejected_after"]]).T
    assert after_P2 == pytest.approx(expected, abs=1e-3)


def test_evaluations_on_the_way_are_of_the_model_as_it_is_and_change_nothing(
    group: None, tmp_path: Path, model_folder: Path
) -> None:
    told: dict[str, list[dict[str, Any]]] = {"quiet": [], "judged": []}
    pairs, held_out = build_pairs(10, 1), build_pairs(20, 2)
    for name, evaluations in (("quiet", 0), ("judged", 3)):
        config = CONFIG.model_copy(update={"evaluations": evaluations})
        dpo.train_dpo(config, COMPUTE, model_folder, pairs, held_out, tmp_path / name, told[name].append)
    assert not any("heldout_accuracy" in metrics for metrics in told["quiet"])
    judged = [metrics for metrics in told["judged"] if "heldout_accuracy" in metrics]
    assert [metrics["progress"] for metrics in judged] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert all(0 <= metrics["auto_bleu"] <= 1 for metrics in judged)
    tokens, _ = dpo_pairs.to_pair_tokens(held_out, Vocabulary.of_units(500), 64)
    targets_P2 = np.array([(len(pair.chosen_ids), len(pair.rejected_ids)) for pair in tokens])
    for folder, metrics in ((model_folder, judged[0]), (tmp_path / "judged" / "model", judged[-1])):
        with torch.no_grad():
            means_P2 = by_hand(AutoModelForCausalLM.from_pretrained(folder).eval(), tokens).numpy() / targets_P2
        assert metrics["heldout_accuracy"] == (means_P2[:, 0] > means_P2[:, 1]).mean()
    weights = [(tmp_path / name / "model/model.safetensors").read_bytes() for name in told]
    assert weights[0] == weights[1]
    assert not (tmp_path / "judged" / ".evaluated").exists()


@pytest.mark.parametrize("budget", ["time:0.2s", "tokens:600", "flops:3e8"])
def test_a_run_stops_when_its_budget_is_spent(group: None, tmp_path: Path, model_folder: Path, budget: str) -> None:
    reports: list[dict[str, Any]] = []
    config = CONFIG.model_copy(update={"budget": budget})
    pairs = build_pairs(10, 1)
    facts = dpo.train_dpo(config, COMPUTE, model_folder, pairs, [], tmp_path / "out", lambda m: reports.append(m))
    assert facts["progress"] == 1.0 and all(metrics["progress"] < 1 for metrics in reports[:-1])
    assert facts["flops"] == 6.0 * build_model().num_parameters() * facts["tokens"]


def test_no_pair_left_is_one_clear_line(group: None, tmp_path: Path, model_folder: Path) -> None:
    config = CONFIG.model_copy(update={"context": 8})
    with pytest.raises(BadInput, match=r"no preference pair is left to train on .*'longer than 8 tokens': 10"):
        dpo.train_dpo(config, COMPUTE, model_folder, build_pairs(10, 1), [], tmp_path / "out", lambda *_: None)


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_weights(
    group: None, tmp_path: Path, model_folder: Path
) -> None:
    losses: dict[str, float] = {}
    for dtype in ("float32", "bfloat16"):
        compute = COMPUTE.model_copy(update={"dtype": dtype})
        facts = dpo.train_dpo(CONFIG, compute, model_folder, build_pairs(10, 1), [], tmp_path / dtype, lambda *_: None)
        losses[dtype] = facts["loss"]
        assert AutoModelForCausalLM.from_pretrained(tmp_path / dtype / "model", dtype="auto").dtype == torch.float32
    assert losses["bfloat16"] == pytest.approx(losses["float32"], abs=0.02) and losses["bfloat16"] != losses["float32"]


def test_recomputed_layers_give_the_same_bits_and_run_twice(
    group: None, tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[torch.nn.Module] = []
    forward = torch.nn.Linear.forward
    monkeypatch.setattr(torch.nn.Linear, "forward", lambda self, x: calls.append(self) or forward(self, x))
    counted = []
    for recompute in (False, True):
        compute = COMPUTE.model_copy(update={"recompute": recompute})
        out = tmp_path / str(recompute)
        dpo.train_dpo(CONFIG, compute, model_folder, build_pairs(10, 1), [], out, lambda *_: None)
        counted.append(len(calls))
        calls.clear()
    once, twice = ((tmp_path / name / "model/model.safetensors").read_bytes() for name in ("False", "True"))
    assert once == twice
    products, micro_batches = 2 * 7, 6 * 2  # of two layers, and of six steps
    assert counted[1] - counted[0] == products * micro_batches


def run_rank(rank: int, world: int, folder: Path, name: str, zero_stage: int, kill_at: int) -> None:
    compute = COMPUTE.model_copy(
        update={
            "workers": world,
            "zero_stage": zero_stage,
            "recompute": zero_stage == 3,
            "dpo_micro_batch": 1,
            "checkpoint_every_seconds": 1e-9,
        }
    )
    losses: list[float] = []

    def report(metrics: dict[str, Any]) -> None:
        if "loss" in metrics:  # not before training
            losses.append(metrics["loss"])
        if metrics.get("step") == kill_at:
            raise Killed

    config = CONFIG.model_copy(update={"evaluations": 2})
    with contextlib.suppress(Killed):
        dpo.train_dpo(config, compute, folder / "start", build_pairs(10, 1), build_pairs(5, 2), folder / name, report)
    if rank == 0:
        np.save(folder / f"losses-{name}-{kill_at}.npy", losses)


def run_workers(world: int, folder: Path, name: str, zero_stage: int = 0, kill_at: int = 0) -> list[float]:
    run_ranks(run_rank, world, world, folder, name, zero_stage, kill_at)
    return [float(loss) for loss in np.load(folder / f"losses-{name}-{kill_at}.npy")]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """A folder with the run of one worker, uninterrupted, and its losses."""
    folder = tmp_path_factory.mktemp("alone")
    build_model().save_pretrained(folder / "start")
    return folder, run_workers(1, folder, "alone")


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_two_workers_train_like_one_at_every_zero_stage(alone: tuple[Path, list[float]], zero_stage: int) -> None:
    folder, losses = alone
    name = f"both-{zero_stage}"
    assert run_workers(2, folder, name, zero_stage) == pytest.approx(losses, abs=1e-5)
    one, two = (AutoModelForCausalLM.from_pretrained(folder / run / "model") for run in ("alone", name))
    for parameter, weights in one.named_parameters():
        torch.testing.assert_close(weights, two.get_parameter(parameter), atol=2e-5, rtol=0, msg=parameter)
    rows = [pq.read_table(folder / run / "heldout.parquet").to_pydict() for run in ("alone", name)]
    if zero_stage < 3:  # the same batches, so bit for bit
        assert rows[0]["chosen_before"] == rows[1]["chosen_before"]
    assert rows[0]["chosen_before"] == pytest.approx(rows[1]["chosen_before"], abs=1e-4)
    assert rows[0]["chosen_after"] == pytest.approx(rows[1]["chosen_after"], abs=1e-3)
    history = [json.loads((folder / run / "history.json").read_text()) for run in ("alone", name)]
    judged = [[row["heldout_accuracy"] for row in run if "heldout_accuracy" in row] for run in history]
    assert judged[0] == judged[1] and len(judged[0]) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first_world", "second_world", "zero_stage"),
    [
        (1, 2, 1),
        (2, 1, 2),
        (1, 2, 3),
        *(pytest.param(*rest, marks=pytest.mark.long) for rest in [(1, 2, 0), (2, 1, 0), (2, 1, 3)]),
    ],
)
def test_a_killed_run_continues_on_other_workers(
    alone: tuple[Path, list[float]], first_world: int, second_world: int, zero_stage: int
) -> None:
    """Any number of them, at every stage of ZeRO: a checkpoint holds the whole optimiser."""
    folder, losses = alone
    name = f"cut-{first_world}-{second_world}-{zero_stage}"
    first = run_workers(first_world, folder, name, zero_stage, kill_at=3)
    rest = run_workers(second_world, folder, name, zero_stage)
    assert (len(first), len(rest)) == (3, 3)
    assert first + rest == pytest.approx(losses, abs=1e-5)
