"""In DPO the rejected side does not know what the chosen side says, nor the other way round, nor one pair another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.families import SMALL
from transformers import AutoModelForCausalLM

from slamray.config.budget import Budget
from slamray.config.compute import Compute
from slamray.config.training import DpoSettings
from slamray.model import shared_prompt
from slamray.model.attention import register_attention
from slamray.model.shared_prompt import pair_rows, side_log_likelihoods
from slamray.model.unit_lm import unit_lm_config
from slamray.tokens.vocabulary import Vocabulary
from slamray.train.dpo import align as dpo
from slamray.train.dpo.pairs import PairTokens, to_pair_tokens
from slamray.train.loop import Run

COMPUTE = Compute(dtype="float32", dpo_micro_batch=4, report_every_steps=1, checkpoint_every_seconds=3600)
CONFIG = DpoSettings(budget="steps:6", pairs_per_step=4, context=64)
CHOSEN, REJECTED = 0, 1


def model_of(family: str, attention: str) -> Any:
    torch.manual_seed(0)
    config = unit_lm_config(SMALL[family], Vocabulary.of_units(20))
    implementation = register_attention(attention)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=implementation).eval()
    for parameter in model.parameters():  # as families begin, OPT's attention hardly shows in its logits
        if parameter.ndim == 2:
            parameter.data.normal_(std=0.2)
    return model


def pairs_of(shift: dict[str, int]) -> list[PairTokens]:
    """Four pairs whose sides differ in length; every unit of a side is moved by its shift."""
    rng = np.random.default_rng(1)
    lengths = [(5, 9, 12), (3, 12, 4), (7, 6, 6), (4, 3, 11)]
    rows = []
    for number, row in enumerate(lengths):
        parts = dict(zip(("prompt", "chosen", "rejected"), (rng.integers(0, 20, n) for n in row), strict=True))
        moved = {name: (units + shift.get(name, 0)) % 20 for name, units in parts.items()}
        rows.append({"pair_id": f"{number}", **moved})
    return to_pair_tokens(rows, Vocabulary.of_units(20), 64)[0]


def moved(model: Any, side: str, attention: str) -> tuple[float, float]:
    """The least change of a log-likelihood of the side whose tokens change, and the greatest of the other side's."""
    with torch.no_grad():
        before_P2, after_P2 = (
            side_log_likelihoods(model, pair_rows([pair.sides for pair in pairs_of(shift)]), attention)
            for shift in ({}, {side: 7})
        )
    change_P2 = (after_P2 - before_P2).abs()
    own, other = (CHOSEN, REJECTED) if side == "chosen" else (REJECTED, CHOSEN)
    return change_P2[:, own].min().item(), change_P2[:, other].max().item()


@pytest.mark.parametrize("side", ["chosen", "rejected"])
@pytest.mark.parametrize("family", SMALL)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_side_of_a_pair_scores_the_same_whatever_the_other_says(attention: str, family: str, side: str) -> None:
    own, other = moved(model_of(family, attention), side, attention)
    assert own > 0.1 and other == 0.0


def test_the_check_notices_a_side_that_sees_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def causal(parts_PT: torch.Tensor) -> torch.Tensor:
        length = parts_PT.shape[1]
        return torch.ones(len(parts_PT), 1, length, length, dtype=torch.bool).tril()

    monkeypatch.setattr(shared_prompt, "visible", causal)
    own, other = moved(model_of("qwen2", "sdpa"), "chosen", "sdpa")  # chosen sides stand before rejected ones
    assert own > 0.1 and other > 0.1


@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_in_the_trainers_forward_pass_too(group: None, tmp_path: Path, side: str) -> None:
    """What the loss is made of: mean log-likelihoods of the micro-batch, as they are reported."""
    other = "rejected" if side == "chosen" else "chosen"
    found = []
    for shift in ({}, {side: 7}):
        tokens = pairs_of(shift)
        dpo._claim_device(COMPUTE)
        run = Run(Budget("steps", 6), COMPUTE, tmp_path, lambda metrics: None)
        trainer = dpo._trainer(CONFIG, COMPUTE, model_of("qwen2", "eager"), tokens, np.zeros((4, 2)), run)
        rows = [trainer.train_dataset[index] for index in range(4)]
        trainer.compute_loss(trainer.model, trainer.data_collator(rows))
        metrics: dict[str, float] = {}
        trainer.log(metrics)
        found.append({name: metrics[f"logps/{name}"] for name in ("chosen", "rejected")})
    before, after = found
    assert after[other] == before[other] and abs(after[side] - before[side]) > 0.1
