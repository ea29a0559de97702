"""What a plan says of the scaling law: the FLOPs of a budget, and the law's choice beside the recipe's."""

from __future__ import annotations

from pathlib import Path

import pytest

from slamray.commands.run import main
from slamray.config.load import load_recipe
from slamray.recipe.slam import build
from slamray.stage.stage import order
from slamray.stages.prediction import budget_flops, lines

LLAMA = ["model.base=shape:llama-78m", "model.twist=false", "dpo.budget=null"]


@pytest.mark.parametrize(
    ("words", "flops"),
    [
        (["pretrain.budget=flops:3e18"], 3e18),
        (["pretrain.budget=tokens:1_000"], 6 * 7e6 * 1000),
        (["pretrain.budget=steps:10", "pretrain.tokens_per_step=2048"], 6 * 7e6 * 20480),
        (["pretrain.budget=time:23h30m"], None),
        (["recipe=slam", "profile=a5000"], 3.0e18),  # docs/paper.md 1.5
        (["recipe=slam_scaled", "profile=a100x2"], 3.6e19),
    ],
)
def test_a_budget_is_worth_so_many_flops(words: list[str], flops: float | None) -> None:
    found = budget_flops(load_recipe(words), 7_000_000)
    assert found == (None if flops is None else pytest.approx(flops, rel=0.06))


def test_the_plan_shows_the_laws_choice_beside_the_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*LLAMA, "pretrain.budget=flops:3.0e18", "root=nowhere", "--plan"], build) == 0
    lines = capsys.readouterr().out.splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith("scaling law"))
    choice, caveat = lines[place : place + 2]
    # docs/paper.md 5.1: 59M and 8.4B; 3.0e18 / 6 / 78.26M
    assert choice.startswith("scaling law for 3.00e+18 FLOPs: 59.2M parameters x 8.44B tokens, 2.053 nats a unit; ")
    assert "this recipe: 78.3M parameters x 6.39B tokens" in choice and "TWIST" in caveat


def test_a_time_on_a_machine_of_unknown_speed_is_said_to_be_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["root=nowhere", "--plan"], build) == 0
    assert "the FLOPs of time:4m30s are not known" in capsys.readouterr().out


def test_data_that_repeats_is_counted_in_epochs_and_a_finished_training_is_not_predicted(tmp_path: Path) -> None:
    recipe = load_recipe([*LLAMA, "pretrain.budget=tokens:3_000_000", f"root={tmp_path}"])
    stages = order(build(recipe))
    fresh = lines(recipe, stages)[0]
    known = {stage.name: stage for stage in stages}
    facts = {"facts": {"train": {"tokens": 1_000_000}}}
    known["packed"].folder(tmp_path).write_json("manifest.json", facts)
    again = lines(recipe, stages)[0]
    assert again.endswith("(3.0 epochs)") and "epochs" not in fresh
    loss = [float(line.split("tokens, ")[2].split(" nats")[0]) for line in (fresh, again)]
    assert loss[1] > loss[0]
    known["pretrained"].folder(tmp_path).write_json("manifest.json", {"facts": {}})
    assert lines(recipe, stages) == []
