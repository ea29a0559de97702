"""Continuations: seeded, padded right, ended by the special, and empty ones counted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from slamray.config.evaluation import SamplingSettings
from slamray.model.sampling import Continuation, Prompt, choose_prompts, continue_units, cut_prompt, describe
from slamray.tokens.vocabulary import BOS, FIRST_UNIT

N_UNITS = 20


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=N_UNITS + FIRST_UNIT, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=256, initializer_range=0.3, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def prompts() -> list[Prompt]:
    return [Prompt(f"p{i}", np.arange(i + 1, dtype=np.uint16)) for i in range(5)]


def ended_by(model: PreTrainedModel, weight: float) -> PreTrainedModel:
    """The same model with a head that gives the special this much more."""
    twin = LlamaForCausalLM(model.config).eval()
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        twin.model.norm.weight.zero_()  # all logits equal ...
    original = twin.lm_head.forward
    bias = torch.zeros(N_UNITS + FIRST_UNIT)
    bias[BOS] = weight
    twin.lm_head.forward = lambda hidden: original(hidden) + bias  # type: ignore[method-assign]
    return twin


def test_the_same_seed_gives_the_same_continuations_and_leaves_the_callers_randomness_alone(
    model: PreTrainedModel,
) -> None:
    config = SamplingSettings(max_new_tokens=20, batch=2)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = continue_units(model, prompts(), config)
    assert torch.rand(1) == expected
    again = continue_units(model, prompts(), config)
    other = continue_units(model, prompts(), SamplingSettings(max_new_tokens=20, batch=2, seed=1))
    assert [c.units.tolist() for c in first] == [c.units.tolist() for c in again]
    assert [c.units.tolist() for c in first] != [c.units.tolist() for c in other]


def test_continuations_are_units_without_the_prompt_and_not_longer_than_asked(model: PreTrainedModel) -> None:
    made = continue_units(model, prompts(), SamplingSettings(max_new_tokens=20, batch=3))
    assert [c.prompt_id for c in made] == [p.prompt_id for p in prompts()]
    for continuation in made:
        assert continuation.units.dtype == np.uint16 and continuation.units.max(initial=0) < N_UNITS
        assert len(continuation.units) == 20 or (continuation.ended and len(continuation.units) < 20)


def test_greedy_continuation_does_not_depend_on_padding(model: PreTrainedModel) -> None:
    # top_k 1 leaves nothing to draw, so a batch must give what each prompt gives alone.
    together = continue_units(model, prompts(), SamplingSettings(top_k=1, max_new_tokens=15, batch=5))
    alone = continue_units(model, prompts(), SamplingSettings(top_k=1, max_new_tokens=15, batch=1))
    assert [c.units.tolist() for c in together] == [c.units.tolist() for c in alone]


def test_a_model_that_always_ends_gives_empty_continuations_which_are_counted(model: PreTrainedModel) -> None:
    found = describe(continue_units(ended_by(model, 50.0), prompts(), SamplingSettings(max_new_tokens=20)))
    assert (found["continuations"], found["empty"], found["ended"], found["auto_bleu"]) == (5, 5, 5, None)


def test_a_model_that_never_ends_stops_at_the_limit(model: PreTrainedModel) -> None:
    found = describe(continue_units(ended_by(model, -50.0), prompts(), SamplingSettings(max_new_tokens=20)))
    assert (found["empty"], found["ended"], found["mean_units"]) == (0, 0, 20)


def test_auto_bleu_is_the_mean_over_what_was_said() -> None:
    def said(*units: int) -> Continuation:
        return Continuation("p", np.zeros(1, np.uint16), np.array(units, np.uint16), False)

    # 1 2 1 2: bigrams 12, 21, 12, of which two occur twice: 2/3. 3 4 5: none.
    assert describe([said(1, 2, 1, 2), said(3, 4, 5), said()])["auto_bleu"] == pytest.approx((2 / 3 + 0) / 2)


def test_a_prompt_holds_the_units_that_begin_within_its_seconds() -> None:
    units, durations = np.array([7, 8, 9, 7], np.uint16), np.array([10, 20, 50, 5], np.uint16)
    assert cut_prompt("a", units, durations, 1.2, rate_hz=25).units.tolist() == [7, 8]  # 9 begins at 30 / 25 = 1.2 s
    assert cut_prompt("a", units, durations, 1.21, rate_hz=25).units.tolist() == [7, 8, 9]


def test_prompts_do_not_depend_on_the_order_they_come_in() -> None:
    known = [prompt.prompt_id for prompt in prompts()]
    ids = choose_prompts(known, 3, 0)
    assert ids == choose_prompts(known[::-1], 3, 0) == sorted(ids)
    assert len(choose_prompts(known, 99, 0)) == 5
