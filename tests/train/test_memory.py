"""Planned memory against what torch's allocator says of the real training engine, and against arithmetic."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.measure_memory import measure, measure_dpo
from support.processes import run_ranks
from transformers import AutoModelForCausalLM, GPTNeoXConfig, OPTConfig, PreTrainedConfig, Qwen2Config

from slamray.config.compute import Compute
from slamray.config.profiles import PROFILES
from slamray.config.training import DpoSettings, OptimSettings
from slamray.errors import BadInput
from slamray.model.families import family_config
from slamray.model.unit_lm import count_config_parameters, count_unit_lm_parameters, unit_lm_config
from slamray.tokens.vocabulary import Vocabulary
from slamray.train.memory import GIB, bucket_elements, check_memory, planned_dpo_memory, planned_memory

ROWS, CONTEXT = 4, 192
SHAPES: dict[str, PreTrainedConfig] = {
    "qwen2": Qwen2Config(
        hidden_size=128, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, intermediate_size=352,
        vocab_size=600, tie_word_embeddings=True,
    ),
    "pythia": GPTNeoXConfig(
        hidden_size=128, num_hidden_layers=3, num_attention_heads=4, intermediate_size=512, vocab_size=600,
        tie_word_embeddings=False,
    ),
    "opt": OPTConfig(
        hidden_size=128, num_hidden_layers=3, num_attention_heads=4, ffn_dim=512, word_embed_proj_dim=128,
        vocab_size=600, max_position_embeddings=256,
    ),
}  # fmt: skip
QWEN_05B = unit_lm_config(family_config("Qwen/Qwen2.5-0.5B"), Vocabulary.of_units(500), 10_000.0)


def test_weights_gradients_and_state_are_what_table_7_makes_them() -> None:
    parameters = count_unit_lm_parameters(family_config("Qwen/Qwen2.5-0.5B"), Vocabulary.of_units(500))
    assert parameters == 358_347_904
    planned = planned_memory(QWEN_05B, OptimSettings(), PROFILES["a5000"], 1024)
    assert (planned.weights, planned.gradients, planned.optimiser) == (4 * parameters, 4 * parameters, 8 * parameters)
    mixed = planned_memory(QWEN_05B, OptimSettings(name="ademamix"), PROFILES["a5000"], 1024)
    assert mixed.optimiser == 12 * parameters
    assert (
        planned_memory(QWEN_05B, OptimSettings(name="adalomo"), PROFILES["a5000"], 1024).optimiser < parameters // 100
    )


def test_the_papers_run_fits_its_device_and_not_a_smaller_one() -> None:
    """Table 4: 8 rows at once on an A5000 of 24 GB."""
    a5000 = PROFILES["a5000"]
    planned = planned_memory(QWEN_05B, OptimSettings(), a5000, 1024)
    assert 16 < planned.total / GIB < 23
    words = "pre-training", "compute.micro_batch (8)"
    check_memory(planned, a5000, *words)
    with pytest.raises(BadInput, match=r"compute\.memory_gb=16: pre-training is planned to need \d+\.\d+ GB a device"):
        check_memory(planned, a5000.model_copy(update={"memory_gb": 16.0}), *words)
    check_memory(planned, a5000.model_copy(update={"memory_gb": None}), *words)


def test_activations_grow_with_rows_and_shards_shrink_with_workers() -> None:
    one, two = (
        planned_memory(
            SHAPES["qwen2"], OptimSettings(), Compute(micro_batch=rows, dtype="float32"), CONTEXT
        ).activations
        for rows in (2, 4)
    )
    assert two == pytest.approx(2 * one, rel=0.02)  # under bf16 the cast weights are kept besides
    alone, eight = (
        planned_memory(SHAPES["qwen2"], OptimSettings(), Compute(workers=workers, zero_stage=1), CONTEXT)
        for workers in (1, 8)
    )
    assert eight.optimiser == alone.optimiser // 8 and eight.gradients == alone.gradients
    parameters = alone.weights // 4
    assert alone.optimiser == 12 * parameters and alone.buffers == 8 * bucket_elements(parameters)
    third = planned_memory(SHAPES["qwen2"], OptimSettings(), Compute(workers=8, zero_stage=2), CONTEXT)
    assert third.gradients == alone.gradients // 8


def test_zero_3_spreads_all_state_and_recomputed_layers_keep_their_inputs_alone() -> None:
    kept, again = (
        planned_memory(SHAPES["qwen2"], OptimSettings(), Compute(workers=8, zero_stage=3, recompute=recompute), CONTEXT)
        for recompute in (False, True)
    )
    parameters = count_config_parameters(SHAPES["qwen2"])
    assert (
        kept.weights + kept.gradients + kept.optimiser == 16 * parameters // 8
    )  # float32: weights, gradients, moments
    assert (again.weights, again.gradients, again.optimiser) == (kept.weights, kept.gradients, kept.optimiser)
    inputs = 3 * 8 * CONTEXT * 128 * 4  # of three layers, float32
    assert inputs < again.activations < kept.activations / 3


def test_varlen_is_planned_without_a_mask_as_long_rows_cost_what_as_many_tokens_of_short_ones_do() -> None:
    def activations(attention: str, rows: int, context: int) -> int:
        compute = Compute.model_validate(
            {"device": "cuda", "attention": attention, "micro_batch": rows, "dtype": "bfloat16"}
        )
        return planned_memory(SHAPES["qwen2"], OptimSettings(), compute, context).activations

    assert activations("varlen", 1, 4 * CONTEXT) == pytest.approx(activations("varlen", 4, CONTEXT), rel=1e-3)
    assert activations("sdpa", 1, 4 * CONTEXT) > 1.01 * activations("sdpa", 4, CONTEXT)


def measured_bytes(folder: Path, shape: PreTrainedConfig, optimiser: str, compute: Compute) -> int:
    """The allocator's peak on the worker that needs most, in processes of their own."""
    shape.save_pretrained(folder / "shape")
    task = {"shape": str(folder / "shape"), "optimiser": optimiser, "compute": compute.model_dump()}
    run_ranks(measure, compute.workers, folder, task)
    return max(json.loads((folder / f"peak-{rank}.json").read_text()) for rank in range(compute.workers))


CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("qwen2", "adamw", {}),
    ("qwen2", "adamw", {"dtype": "float32"}),
    ("qwen2", "ademamix", {}),
    ("pythia", "adalomo", {}),
    ("opt", "adamw", {}),
    ("qwen2", "adamw", {"zero_stage": 1}),
    ("qwen2", "adamw", {"workers": 2}),
    ("qwen2", "adamw", {"workers": 2, "zero_stage": 1}),
    ("qwen2", "adamw", {"workers": 2, "zero_stage": 2}),
    ("opt", "adamw", {"workers": 2, "zero_stage": 3, "recompute": True}),
]
RARE: list[tuple[str, str, dict[str, Any]]] = [
    ("qwen2", "adamw", {"workers": 2, "zero_stage": 3}),
    ("qwen2", "adamw", {"recompute": True}),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "optimiser", "changes"), [*CASES, *(pytest.param(*case, marks=pytest.mark.long) for case in RARE)]
)
def test_the_plan_is_within_a_tenth_of_the_allocators_peak(
    tmp_path: Path, shape: str, optimiser: str, changes: dict[str, Any]
) -> None:
    config = unit_lm_config(SHAPES[shape], Vocabulary.of_units(500), 10_000.0)
    compute = Compute(micro_batch=ROWS, **changes)
    planned = planned_memory(config, OptimSettings.model_validate({"name": optimiser}), compute, CONTEXT)
    measured = measured_bytes(tmp_path, config, optimiser, compute)
    print(f"{shape} {optimiser} {changes}: planned {planned.total:,}, measured {measured:,}")
    # The two buffers of ZeRO are planned beside all activations, as large models fill them in the midst of a backward
    # pass. Here one bucket holds every gradient: it is filled at the end of the pass, when activations are gone.
    # What ZeRO 3 has fetched is there for a while, as processes happen to run: 24.2 to 25.6 MB of 22.7 planned.
    above = 1.2 if compute.zero_stage == 3 else 1.1
    assert planned.total - planned.buffers <= 1.1 * measured and measured <= above * planned.total


def test_a_device_too_small_for_dpo_is_refused_by_dpos_words() -> None:
    a5000, dpo = PROFILES["a5000"], DpoSettings()
    planned = planned_dpo_memory(QWEN_05B, dpo, a5000)
    words = "DPO", "compute.dpo_micro_batch (4) or dpo.context (1024)"
    check_memory(planned, a5000, *words)
    message = r"compute\.memory_gb=8: DPO is planned to need 1\d\.\d+ GB .*; lower compute\.dpo_micro_batch \(4\)"
    with pytest.raises(BadInput, match=message):
        check_memory(planned, a5000.model_copy(update={"memory_gb": 8.0}), *words)
    judged = planned_dpo_memory(SHAPES["qwen2"], dpo.model_copy(update={"evaluations": 1, "context": 64}), a5000)
    assert judged.scoring > judged.weights


@pytest.mark.slow
def test_the_plan_of_dpo_is_within_a_tenth_too(tmp_path: Path) -> None:
    config = unit_lm_config(SHAPES["qwen2"], Vocabulary.of_units(500), 10_000.0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    compute = Compute(dpo_micro_batch=4, workers=2, zero_stage=1, dtype="float32")
    dpo = DpoSettings(budget="steps:1", pairs_per_step=16, context=CONTEXT)
    planned = planned_dpo_memory(config, dpo, compute)
    task = {"model": str(tmp_path / "model"), "compute": compute.model_dump(), "dpo": dpo.model_dump()}
    run_ranks(measure_dpo, compute.workers, tmp_path, task)
    measured = max(json.loads((tmp_path / f"peak-{rank}.json").read_text()) for rank in range(compute.workers))
    print(f"DPO: planned {planned.total:,}, measured {measured:,}; {planned}")
    # What ZeRO 3 has fetched is there for a while, as processes happen to run: 24.2 to 25.6 MB of 22.7 planned.
    above = 1.2 if compute.zero_stage == 3 else 1.1
    assert planned.total - planned.buffers <= 1.1 * measured and measured <= above * planned.total
