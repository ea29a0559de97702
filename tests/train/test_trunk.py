"""The stable part that runs share: who trains what, and from where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from slamray import store
from slamray.config.load import load_recipe
from slamray.config.training import OptimSettings, PretrainSettings
from slamray.errors import BadInput
from slamray.recipe.slam import build
from slamray.stage.folder import Folder
from slamray.stage.stage import Stage, order
from slamray.stages.trunk import longest_shorter
from slamray.train.trunk_schedule import branch_optim, check_trunk, trunk_config

WSD = OptimSettings(learning_rate=1e-2, warmup_share=0.125, schedule="wsd", decay_share=0.5)
BRANCH = PretrainSettings(budget="steps:8", trunk="steps:16", optim=WSD)


def test_the_warm_up_is_the_trunks_and_the_decay_the_runs_own() -> None:
    # 1/8 of 16 steps are 2, a quarter of 8; the second half of the 8 decays
    assert branch_optim(BRANCH).warmup_share == 0.25
    stable, until = trunk_config(BRANCH)
    assert (stable.budget, stable.trunk, stable.optim.schedule, until) == ("steps:16", None, "constant", "steps:4")
    longer = BRANCH.model_copy(update={"budget": "steps:16"})
    assert trunk_config(longer) == (stable, "steps:8")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optim": OptimSettings(schedule="cosine")}, "a cosine schedule has no stable part"),
        ({"trunk": "steps:7"}, "give a budget of the kind of pretrain.budget=steps:8, not smaller"),
        ({"trunk": "tokens:100000"}, "give a budget of the kind of"),
        ({"budget": "steps:3"}, "warms up until 67% of it"),
        ({"optim": OptimSettings(name="ademamix", schedule="wsd")}, "AdEMAMix's own warm-ups last the whole budget"),
    ],
)
def test_a_run_that_cannot_branch_off_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        check_trunk(BRANCH.model_copy(update=changes))


def stages(words: list[str], *more: str) -> dict[str, Stage]:
    shared = [word for word in words if not word.startswith("pretrain.budget")]
    shared += ["pretrain.trunk=steps:400", "pretrain.optim.schedule=wsd"]
    recipe = load_recipe([*shared, *more])
    return {stage.name: stage for stage in order(build(recipe))}


def test_runs_of_one_budget_share_its_trunk_whatever_their_dpo(tiny_words: list[str]) -> None:
    one, other = (stages(tiny_words, "pretrain.budget=steps:300", f"dpo.beta={beta}") for beta in (0.1, 0.2))
    assert one["trunk"].fingerprint == other["trunk"].fingerprint == one["pretrained"].inputs[-1].fingerprint
    assert one["pretrained"].fingerprint == other["pretrained"].fingerprint
    assert one["aligned"].fingerprint != other["aligned"].fingerprint
    shorter = stages(tiny_words, "pretrain.budget=steps:200")
    assert shorter["trunk"].identity["until"] == "steps:160" and one["trunk"].identity["until"] == "steps:240"
    assert {**shorter["trunk"].identity, "until": ""} == {**one["trunk"].identity, "until": ""}


def test_a_trunk_goes_on_from_the_longest_shorter_one_of_its_family(tmp_path: Path) -> None:
    ends = {"a": ("mine", 100), "b": ("mine", 200), "c": ("mine", 400), "d": ("another", 250), "pruned": ("mine", 290)}
    for name, (family, until) in ends.items():
        store.write_json(tmp_path / name / "manifest.json", {"facts": {"family": family, "until": until}})
        if name != "pruned":
            (tmp_path / name / "state").mkdir()
    assert longest_shorter(Folder(tmp_path), "mine", 300) == Folder(tmp_path / "b" / "state")
    assert longest_shorter(Folder(tmp_path), "mine", 100) is None
