"""Each packaged recipe's resolved values against the paper's tables, cell by cell. The tables are docs/paper.md's."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from slamray.config.budget import parse_budget
from slamray.config.load import load_recipe, load_study
from slamray.config.profiles import PROFILES
from slamray.config.tree import Recipe
from slamray.stages.planning import parameters

# Table 4, final pre-training, and Table 5, DPO; the filter of docs/paper.md 1.6; Table 6, sampling. Sequences are of
# the context's length, so a batch of them is tokens_per_step / context.
TABLE_4: dict[str, Any] = {
    "model.base": "Qwen/Qwen2.5-0.5B", "model.twist": True, "pretrain.budget": "time:23h30m", "pack.context": 1024,
    "model.rope_theta": 10_000.0, "pretrain.batch": 8 * 16, "pretrain.optim.name": "adamw",
    "pretrain.optim.learning_rate": 1e-3, "pretrain.optim.warmup_share": 0.01, "pretrain.optim.schedule": "cosine",
    "pretrain.optim.floor_learning_rate": 5e-5, "pretrain.optim.clip_norm": 0.5,
    # unstated: HF Trainer's defaults
    "pretrain.optim.beta1": 0.9, "pretrain.optim.beta2": 0.999, "pretrain.optim.epsilon": 1e-8,
    "pretrain.optim.weight_decay": 0.0,
}  # fmt: skip
TABLE_5: dict[str, Any] = {
    "dpo.budget": "time:30m", "dpo.pairs_per_step": 4 * 16, "dpo.optim.learning_rate": 5e-5,
    "dpo.optim.schedule": "inverse_sqrt", "dpo.optim.clip_norm": 0.5, "dpo.optim.name": "adamw", "dpo.beta": 0.1,
    "dpo.context": 1024, "preferences.source": "spoken_swag", "preferences.max_auto_bleu": 0.3,
}  # fmt: skip
TABLE_6 = {
    "evaluate.sampling.temperature": 0.8, "evaluate.sampling.top_k": 25, "evaluate.sampling.max_new_tokens": 150,
    "evaluate.sampling.repetition_penalty": 1.1, "evaluate.sampling.prompt_seconds": 3.0,
}  # fmt: skip
# docs/paper.md 1.2, the tokeniser
TOKENISER = {
    "speech.encoder.model": "slprl/mhubert-base-25hz", "speech.encoder.layer": 11, "speech.encoder.pad_samples": 40,
    "evaluate.normalise": "mean",
}  # fmt: skip
# Section 4.1, the defaults of exploration: context 512, batch 256, 1e-3, 1 %, clip 0.5, AdamW, inverse square root
SECTION_4_1: dict[str, Any] = {
    "pack.context": 512, "pretrain.batch": 256, "pretrain.optim.learning_rate": 1e-3,
    "pretrain.optim.warmup_share": 0.01, "pretrain.optim.clip_norm": 0.5, "pretrain.optim.name": "adamw",
    "pretrain.optim.schedule": "inverse_sqrt", "speech.train_documents": None, "dpo.budget": None,
}  # fmt: skip
RECIPES: dict[str, dict[str, Any]] = {
    "slam": TABLE_4 | TABLE_5 | TABLE_6 | TOKENISER,
    "slam_no_dpo": TABLE_4 | TABLE_6 | TOKENISER | {"dpo.budget": None},
    # "same recipe, batch x 2, DPO for 2 epochs", 48 h: 2 x 47 000 pairs, 64 at a time
    "slam_scaled": TABLE_4 | TABLE_5 | TABLE_6 | TOKENISER
    | {"pretrain.budget": "time:48h", "pretrain.batch": 256, "dpo.budget": "steps:1469"},
    "slam_large": TABLE_4 | TABLE_5 | TABLE_6 | TOKENISER
    | {"pretrain.budget": "time:48h", "pretrain.batch": 256, "dpo.budget": "steps:1469",
       "model.base": "Qwen/Qwen2.5-1.5B"},
    # TWIST warms up for 100 steps; about 18 000 fit
    "twist_350m": TOKENISER | SECTION_4_1
    | {"model.base": "facebook/opt-350m", "model.twist": True, "pretrain.budget": "time:24h",
       "pretrain.optim.warmup_share": pytest.approx(100 / 18_000, rel=0.02)},
    "twist_350m_stories": TOKENISER | SECTION_4_1
    | {"model.base": "facebook/opt-350m", "model.twist": True,
       "pretrain.optim.warmup_share": pytest.approx(100 / 18_000, rel=0.02)},
    "exploration": TOKENISER | SECTION_4_1 | {"model.base": "Qwen/Qwen2.5-0.5B", "pretrain.budget": "time:24h"},
    # Table 2's row by docs/paper.md 5.1 and 5.2: Cuervo and Marxer's training, a day of one A5000, no DPO
    "predicted_optimal": TOKENISER
    | {"model.base": "shape:llama-78m", "model.twist": False, "pretrain.budget": "time:24h", "dpo.budget": None,
       "pack.context": 2050, "pretrain.optim.learning_rate": 5e-4, "pretrain.optim.floor_learning_rate": 5e-5,
       "pretrain.optim.schedule": "cosine", "pretrain.optim.warmup_share": 0.01, "pretrain.optim.name": "adamw",
       "pretrain.optim.weight_decay": 0.1, "speech.train_documents": None},
    "gslm": TOKENISER | SECTION_4_1 | {"model.base": "facebook/opt-125m", "model.twist": False},
}  # fmt: skip
# Table 7's models, with and without TWIST (figures 2 and 3); Slam large is not among them
TABLE_7 = {
    "opt-125m": "facebook/opt-125m", "opt-350m": "facebook/opt-350m", "pythia-160m": "EleutherAI/pythia-160m",
    "pythia-410m": "EleutherAI/pythia-410m", "mobilellm-125m": "facebook/MobileLLM-125M",
    "mobilellm-350m": "facebook/MobileLLM-350M", "smollm2-135m": "HuggingFaceTB/SmolLM2-135M",
    "smollm2-360m": "HuggingFaceTB/SmolLM2-360M", "qwen2.5-0.5b": "Qwen/Qwen2.5-0.5B",
}  # fmt: skip
# Table 9: (context, batch)
TABLE_9 = {"512 x 128": (512, 128), "512 x 256": (512, 256), "1024 x 256": (1024, 256), "1024 x 128": (1024, 128)}
# Table 1: (model, diverse, synthetic)
TABLE_1 = {
    f"{name}{', ' + rest if rest else ''}": (base, "Div" in rest, "Syn" in rest)
    for name, base in (("opt-125m", "facebook/opt-125m"), ("qwen2.5-0.5b", "Qwen/Qwen2.5-0.5B"))
    for rest in ("Syn", "Div + Syn", "", "Div")
}
FIGURE_4 = {
    (optimiser, schedule) for optimiser in ("adamw", "adalomo", "ademamix") for schedule in ("inverse_sqrt", "cosine")
}
PACKAGED = sorted(path.stem for path in Path(str(resources.files("slamray") / "recipes")).glob("*.yaml"))
SWEEPS = [name for name in PACKAGED if "\nsweep:" in (resources.files("slamray") / f"recipes/{name}.yaml").read_text()]


@functools.cache
def loaded(name: str) -> Recipe:
    return load_recipe([f"recipe={name}"])


def cell(recipe: Recipe, key: str) -> Any:
    if key == "pretrain.batch":
        return recipe.pretrain.tokens_per_step / recipe.pack.context
    value: Any = recipe
    for part in key.split("."):
        value = getattr(value, part)
    return value


CELLS = [(name, key, value) for name, table in RECIPES.items() for key, value in table.items()]


@pytest.mark.parametrize(("name", "key", "value"), CELLS, ids=[f"{name}-{key}" for name, key, _ in CELLS])
def test_a_cell_of_the_papers_tables(name: str, key: str, value: Any) -> None:
    assert cell(loaded(name), key) == value


def test_the_budget_is_a_day_and_the_micro_batch_is_table_4s() -> None:
    recipe = load_recipe(["recipe=slam", "profile=a5000"])
    assert recipe.dpo.budget is not None
    seconds = sum(parse_budget(text, "").amount for text in (recipe.pretrain.budget, recipe.dpo.budget))
    assert seconds == 24 * 3600
    compute = recipe.compute  # Tables 4 and 5: 8 x 16 and 4 x 16
    assert (compute.micro_batch, compute.dpo_micro_batch, compute.workers, compute.precision) == (8, 4, 1, "bfloat16")
    assert recipe.pretrain.tokens_per_step == 8 * 16 * 1024 and recipe.dpo.pairs_per_step == 4 * 16
    assert compute.packed_attention == "varlen" and compute.memory_gb == 24
    assert (PROFILES["a100x2"].workers, PROFILES["a100x2"].memory_gb) == (2, 80)


def test_two_epochs_of_dpo_are_the_steps_of_47000_pairs() -> None:
    recipe = load_recipe(["recipe=slam_scaled"])
    assert recipe.dpo.budget is not None
    steps = parse_budget(recipe.dpo.budget, "").amount
    assert 0 <= steps - 2 * 47_000 / recipe.dpo.pairs_per_step < 1


def test_predicted_optimal_has_table_2s_parameters_and_near_a_batch_of_section_4_1() -> None:
    recipe = loaded("predicted_optimal")
    # 11 layers of 4 x 768^2 + 3 x 768 x 2048 + 2 x 768, a last norm, 502 rows: 78M
    assert parameters(recipe) == 11 * (4 * 768**2 + 3 * 768 * 2048 + 2 * 768) + 768 + 502 * 768
    assert round(parameters(recipe) / 1e6) == 78
    assert recipe.pretrain.tokens_per_step == pytest.approx(256 * 512, rel=0.001)


def test_study_init_is_every_model_of_table_7_with_and_without_twist() -> None:
    _, members = load_study(["recipe=study_init"])
    found = {m.variant: (m.recipe.model.base, m.recipe.model.twist) for m in members}
    expected = {name: (base, True) for name, base in TABLE_7.items()}
    assert found == expected | {f"{name}, no TWIST": (base, False) for name, base in TABLE_7.items()}
    for member in members:
        assert len(str(member.recipe.model.revision)) == 40  # a commit
        for key, value in SECTION_4_1.items():
            assert cell(member.recipe, key) == value, (member.variant, key)


def test_study_optimiser_is_figure_4() -> None:
    _, members = load_study(["recipe=study_optimiser", "study.seeds=[0]"])
    assert {(m.recipe.pretrain.optim.name, m.recipe.pretrain.optim.schedule) for m in members} == FIGURE_4
    assert len(members) == 6 and {m.recipe.model.base for m in members} == {"Qwen/Qwen2.5-0.5B"}


def test_study_context_is_table_9() -> None:
    study, members = load_study(["recipe=study_context", "study.seeds=[0]"])
    assert {m.variant: (m.recipe.pack.context, cell(m.recipe, "pretrain.batch")) for m in members} == TABLE_9
    assert set(study.metrics) == {"perplexity", "sblimp", "tsc", "ssc"}


def test_study_data_is_table_1() -> None:
    _, members = load_study(["recipe=study_data", "study.seeds=[0]"])
    found = {}
    for member in members:
        given = member.recipe.recorded
        diverse = {bool(paths) for paths in (given.swc, given.tedlium, given.peoples_speech, given.voxpopuli)}
        assert len(diverse) == 1 and given.librispeech  # all four or none; these always
        assert member.recipe.speech.train_documents is None
        found[member.variant] = (member.recipe.model.base, *diverse, bool(given.stinystories))
        assert cell(member.recipe, "pretrain.batch") == 128 and member.recipe.pack.context == 1024
    assert found == TABLE_1


def test_the_joint_studies_change_one_thing_each_of_the_ablations_model() -> None:
    """docs/paper.md 2.7: 1.5B parameters; shares of 0.2 to 0.4; no supervised pairs; interleaved tokens from none."""
    share, members = load_study(["recipe=study_span_share"])
    assert [m.recipe.joint.interleave.share for m in members] == [0.2, 0.3, 0.4]
    assert {m.recipe.model.base for m in members} == {"Qwen/Qwen2.5-1.5B"} and share.metrics[0] == "perplexity"
    kinds = {
        name: {m.variant: m.recipe.joint.kinds for m in load_study([f"recipe={name}"])[1]}
        for name in ("study_supervised_pairs", "study_interleaved_tokens", "study_span_source")
    }
    assert not {"asr", "tts"} & kinds["study_supervised_pairs"]["without"].keys()
    assert "synthetic" not in kinds["study_interleaved_tokens"]["none"]
    assert set(kinds["study_span_source"]["voice"]) == {"text", "speech", "asr", "tts", "interleaved"}
    bases = [(m.recipe.model.base, m.recipe.model.twist) for m in load_study(["recipe=study_text_lm"])[1]]
    assert bases == [("Qwen/Qwen2.5-1.5B", True), ("Qwen/Qwen2.5-0.5B", True), ("Qwen/Qwen2.5-1.5B", False)]


def _knobs(variants: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """The keys in which variants differ."""
    keys = {key for values in variants.values() for key in values}
    return {key for key in keys if len({repr(values.get(key)) for values in variants.values()}) > 1}


@pytest.mark.parametrize("name", [name for name in PACKAGED if name.startswith("study_")])
def test_a_study_of_the_paper_has_a_laptop_study_of_the_same_knobs(name: str) -> None:
    if name.endswith("_laptop"):
        full, laptop = (load_study([f"recipe={one}"])[0] for one in (name.removesuffix("_laptop"), name))
        assert len(laptop.seeds) == 3 and laptop.of == full.of
        groups = [{key.split(".")[0] for key in _knobs(study.variants)} for study in (laptop, full)]
        assert groups[0] <= groups[1] | {"speech"}
    else:
        assert f"{name}_laptop" in PACKAGED


def test_every_recipe_of_the_paper_has_one_for_the_laptop_that_needs_nothing_from_outside() -> None:
    paper = [name for name in PACKAGED if not name.endswith("_laptop") and name != "demo"]
    assert {f"{name}_laptop" for name in paper} == {name for name in PACKAGED if name.endswith("_laptop")}
    for name in paper:
        if name in SWEEPS:  # tests/commands/test_sweep.py
            continue
        if name.startswith("study_"):
            recipes = [member.recipe for member in load_study([f"recipe={name}_laptop"])[1]]
        else:
            recipes = [load_recipe([f"recipe={name}_laptop"])]
            full = load_recipe([f"recipe={name}"])
            assert (full.dpo.budget is None) == (recipes[0].dpo.budget is None)  # the same stages
            assert full.pretrain.optim.schedule == recipes[0].pretrain.optim.schedule
        for recipe in recipes:
            assert recipe.model.base.startswith(("assets:", "shape:")) and recipe.model.revision is None
            assert recipe.speech.encoder.model.startswith("assets:") and recipe.speech.tts.backend == "hibari"
            assert all(path.startswith("assets:") for path in recipe.corpus.paths) and not recipe.evaluate.sets


def test_the_laptops_recipes_keep_the_ratios_to_the_demo() -> None:
    demo, scaled = load_recipe(["recipe=demo"]), load_recipe(["recipe=slam_scaled_laptop"])
    assert scaled.pretrain.tokens_per_step == 2 * demo.pretrain.tokens_per_step
    seconds = [parse_budget(recipe.pretrain.budget, "").amount for recipe in (demo, scaled)]
    assert seconds[1] == 2 * seconds[0]
    _, members = load_study(["recipe=study_context_laptop", "study.seeds=[0]"])
    ours = [(m.recipe.pack.context, cell(m.recipe, "pretrain.batch")) for m in members]
    # Table 9's last row is slam, ours the demo
    assert ours[-1] == (demo.pack.context, cell(demo, "pretrain.batch"))
    context, batch = (TABLE_9["1024 x 128"][i] / ours[-1][i] for i in (0, 1))
    assert [(c * context, b * batch) for c, b in ours] == list(TABLE_9.values())
