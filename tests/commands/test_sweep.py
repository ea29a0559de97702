"""What a sweep does without Ray: its points, what it refuses, what it chooses, what it says it cost, its picture."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.machine import InProcess

from slamray.commands.study import Trial, build
from slamray.commands.sweep import SweepRun, check
from slamray.commands.sweep_answer import Judged, choose, objective, spent
from slamray.commands.sweep_space import load_tuning, make_space
from slamray.config.load import Member, Sweep, load_sweep
from slamray.errors import BadInput
from slamray.report.sweep_figure import draw
from slamray.runtime.engine import Engine
from slamray.stage.folder import Folder
from slamray.stage.materialise import materialise
from slamray.stage.stage import PRUNED, Inputs, Stage, prune
from slamray.stage.work import Machine
from slamray.tracking import NullTracker

TUNING = Path(__file__).parents[2] / "tuning"


def a_sweep(tuning: str = "dpo_budget", **space: Any) -> Sweep:
    return Sweep(title="A sweep", tuning=tuning, space=space)


def points_of(tuning: str, **space: Any) -> dict[str, Any]:
    made = make_space(load_tuning(TUNING, tuning), a_sweep(tuning, **space))
    return {point.label: dict(point.changes) for point in made.points}


def test_shares_split_one_total_between_pre_training_and_dpo() -> None:
    points = points_of("dpo_budget", total="time:24h", shares=[0, 0.125], trunk=False)
    assert points == {
        "DPO 0 % of the budget": {"pretrain.budget": "time:24h", "dpo.budget": None},
        "DPO 12.5 % of the budget": {"pretrain.budget": "time:75600s", "dpo.budget": "time:10800s"},  # 21 h and 3 h
    }


def test_points_of_a_trunk_name_the_whole_budget_as_its_end() -> None:
    (point,) = points_of("dpo_budget", total="tokens:1000", shares=[0.25]).values()
    assert point["pretrain.trunk"] == "tokens:1000" and point["pretrain.optim.schedule"] == "wsd"
    assert (point["pretrain.budget"], point["dpo.budget"]) == ("tokens:750", "tokens:250")


def test_without_dpo_its_settings_make_no_further_points() -> None:
    labels = list(points_of("dpo_budget", total="steps:100", shares=[0, 0.5], betas=[0.1, 0.5]))
    assert labels == [
        "DPO 0 % of the budget, beta 0.1", "DPO 50 % of the budget, beta 0.1", "DPO 50 % of the budget, beta 0.5",
    ]  # fmt: skip


def test_every_packaged_sweep_loads_with_its_tuning_file() -> None:
    recipes = TUNING.parent / "slamray" / "recipes"
    names = {path.stem for path in recipes.glob("*.yaml") if "\nsweep:" in path.read_text()}
    asked = {"dpo_budget", "data_mixture", "family", "rate_and_batch"}
    assert names == asked | {f"{name}_laptop" for name in asked}
    for name in names:
        sweep, members = load_sweep([f"recipe={name}"], tuning_points)
        assert len(members) % len(sweep.seeds) == 0 and len(members) > len(sweep.seeds)
        for member in members if name.endswith("_laptop") else []:  # these need nothing from outside
            assert member.recipe.model.base.startswith(("assets:", "shape:"))
            assert member.recipe.speech.encoder.model.startswith("assets:") and not member.recipe.evaluate.sets


def test_a_mixture_gives_the_rest_to_the_recordings_in_their_proportions() -> None:
    points = points_of("data_mixture", synthetic="told", recordings={"libri": 3.0, "vox": 1.0}, shares=[0.2])
    assert points["stories 20 % of the tokens"]["pack.mixture"] == pytest.approx(
        {"told": 0.2, "libri": 0.6, "vox": 0.2}
    )


def test_families_share_one_budget_of_flops() -> None:
    points = points_of("family", flops="flops:1e12", families={"qwen2": {}, "opt": {"model.base": "shape:opt-nano"}})
    assert points == {
        "qwen2": {"pretrain.budget": "flops:1e12"},
        "opt": {"pretrain.budget": "flops:1e12", "model.base": "shape:opt-nano"},
    }


def test_rates_and_batches_make_a_grid() -> None:
    points = points_of("rate_and_batch", learning_rates=[1e-3, 2e-3], tokens_per_step=[1024, 2048])
    assert len(points) == 4
    assert points["learning rate 0.002, tokens a step 1024"] == {
        "pretrain.optim.learning_rate": 0.002, "pretrain.tokens_per_step": 1024,
    }  # fmt: skip


def tuning_points(sweep: Sweep) -> dict[str, Any]:
    space = make_space(load_tuning(TUNING, sweep.tuning), sweep)
    return {point.label: point.changes for point in space.points}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sweep.tuning=budget"], r"sweep.tuning=budget: no .*budget.py; there are .*dpo_budget"),
        (["sweep.space.share=[0]"], r"sweep.space.share: no such key; did you mean shares\?"),
        (["sweep.space.total=one day"], "sweep.space.total"),
        (["sweep.space.shares=[1.5]"], r"sweep.space.shares.0=1.5: Input should be less than 1"),
        (["sweep.seed=[0]"], r"sweep.seed: no such key; did you mean seeds\?"),
        (["dpo.budget=steps:3"], "dpo.budget: this is what the sweep varies"),
        (["pretrain.seed=3"], "pretrain.seed: this is what the sweep varies"),
        (["recipe=demo"], "recipe=demo is no sweep"),
        (["sweep.space.shares=[0.9999999]"], "variant DPO 100 % of the budget"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused_with_its_key(words: list[str], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        _, members = load_sweep(["recipe=dpo_budget_laptop", *words], tuning_points)
        build(members, ())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": ("perplexity",)}, "sweep.objective: perplexity is not of the items"),
        ({"stop": "asha"}, "sweep.stop=asha: nothing is told during DPO; give dpo.evaluations"),
    ],
)
def test_what_cannot_be_judged_is_refused(changes: dict[str, Any], message: str) -> None:
    sweep, members = load_sweep(["recipe=dpo_budget_laptop"], tuning_points)
    runs = build(members, ())
    check(sweep, runs)
    with pytest.raises(BadInput, match=message):
        check(sweep.model_copy(update=changes), runs)


def items(share: float, first: int = 0) -> Judged:
    """400 judgements of which that share is right: in each hundred those from `first` on, going round."""
    return {"topic_cloze": ((np.arange(400) - first) % 100 < 100 * share).astype(float)}


def test_a_point_that_wins_with_every_seed_and_most_items_is_recommended() -> None:
    found = choose({"none": [items(0.5), items(0.52)], "some": [items(0.7), items(0.72)], "much": [items(0.6)] * 2})
    assert found.point == "some" and found.also == () and found.sure == 1.0
    assert found.value == pytest.approx(0.71) and found.low < 0.71 < found.high
    assert found.sentence(["topic_cloze"]).startswith("Recommended: some: topic cloze 71.0 % [")


def test_points_within_noise_are_named_beside_the_best() -> None:
    found = choose({"a": [items(0.6, 50), items(0.61)], "b": [items(0.61), items(0.62, 50)], "c": [items(0.3)] * 2})
    assert found.point == "b" and found.also == ("a",)
    assert "Not told apart from it: a." in found.sentence(["topic_cloze"])
    assert "mean of topic cloze and grammar 61.5 % [" in found.sentence(["topic_cloze", "grammar"])
    found = choose({"a": [items(0.6, 50)], "b": [items(0.6)]})
    assert "Not told apart from it: any other point." in found.sentence(["topic_cloze"])


def test_the_interval_holds_what_seeds_alone_would_do() -> None:
    # two seeds, 0 and 1: a mean of two draws is 0, 1/2 or 1, with probabilities 1/4, 1/2, 1/4
    found = choose({"a": [{"m": np.zeros(10)}, {"m": np.ones(10)}]})
    assert (found.value, found.low, found.high) == (0.5, 0.0, 1.0)


def test_a_point_with_fewer_seeds_is_left_out_of_the_choice() -> None:
    found = choose({"one lucky seed": [items(0.9)], "two": [items(0.6), items(0.6)]})
    assert found.point == "two"


def test_the_objective_weighs_metrics_not_items() -> None:
    assert objective({"a": np.ones(10), "b": np.zeros(1000)}) == 0.5


def nothing(inputs: Inputs, out: Folder, machine: Machine, **settings: Any) -> dict[str, Any]:
    return {}


def write_model(inputs: Inputs, out: Folder, machine: Machine) -> dict[str, Any]:
    out.write_json("model/weights", 1)
    return {"loss": 2.0}


def a_run(root: Path, label: str, shared: Stage, seconds: float) -> Trial:
    _, members = load_sweep(["recipe=dpo_budget_laptop"], tuning_points)
    member = Member(label, 0, members[0].recipe)
    own = Stage("pretrained", nothing, {"label": label}, (shared,))
    own.folder(root).write_json("manifest.json", {"facts": {"train_seconds": seconds, "shared_seconds": 60.0}})
    return Trial(member, "pretrained", (own,))


def test_a_trunk_is_paid_once_and_would_be_paid_by_each_run_alone(tmp_path: Path) -> None:
    trunk = Stage("trunk", nothing, {})
    trunk.folder(tmp_path).write_json("manifest.json", {"facts": {"train_seconds": 60.0}})
    cost = spent([a_run(tmp_path, "a", trunk, 100.0), a_run(tmp_path, "b", trunk, 80.0)], tmp_path)
    assert (cost.shared, cost.independent) == (60 + 40 + 20, 180)
    assert "(67%)" in cost.sentence()


def test_pruning_takes_the_models_and_leaves_a_record_that_says_so(tmp_path: Path) -> None:
    made = Stage("pretrained", write_model, {})
    materialise([made], tmp_path, InProcess(), {})
    prune(made, tmp_path, "model")
    assert not made.folder(tmp_path).exists("model") and made.is_done(tmp_path)
    manifest = made.manifest(tmp_path)
    assert manifest["facts"] == {"loss": 2.0} and list(manifest[PRUNED]) == ["model/weights"]


def test_a_pruned_stage_is_made_again_when_another_needs_it(tmp_path: Path) -> None:
    def read(inputs: Inputs, out: Folder, machine: Machine) -> dict[str, Any]:
        return {"read": inputs["pretrained"].read_json("model/weights")}

    made = Stage("pretrained", write_model, {})
    needs = Stage("aligned", read, {}, (made,))
    materialise([made], tmp_path, InProcess(), {})
    prune(made, tmp_path, "model")
    assert materialise([needs], tmp_path, InProcess(), {})["aligned"]["facts"] == {"read": 1}


def test_the_picture_has_a_panel_for_each_metric_and_marks_the_choice(tmp_path: Path) -> None:
    points = [{"label": f"{x} %", "x": x, "line": ""} for x in (0, 5, 20)]
    rows = [
        {"variant": point["label"], "metric": metric, "value": 0.5 + seed / 50, "low": low, "high": low}
        for point in points
        for metric, low in (("perplexity", None), ("topic_cloze", 0.4))
        for seed in (0, 1)
    ]
    summary = [
        {"variant": point["label"], "metric": metric, "seeds": 2, "mean": 0.51, "low": 0.5, "high": 0.52}
        for point in points
        for metric in ("perplexity", "topic_cloze")
    ]
    metrics, pictures = ["perplexity", "topic_cloze"], []
    for chosen in ("5 %", "none of them"):
        path = tmp_path / f"{chosen}.png"
        draw("How much?", "Recommended: 5 %", metrics, points, "DPO (%)", rows, summary, chosen, path)
        pictures.append(np.asarray(Image.open(path).convert("RGB")).astype(int))
    orange = [int((abs(picture - (0xD5, 0x5E, 0x00)).sum(-1) < 30).sum()) for picture in pictures]
    assert orange[0] > 100 > orange[1]  # a star in each panel
    assert pictures[0].shape[1] > 900  # two panels beside each other


def test_a_disk_too_small_for_the_models_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["recipe=dpo_budget_laptop", f"root={tmp_path}"]
    sweep, members = load_sweep(words, tuning_points)
    engine = Engine(members[0].recipe.compute)
    trials = {trial.label: trial for trial in build(members, ())}
    run = SweepRun(sweep, make_space(load_tuning(TUNING, sweep.tuning), sweep), trials, engine, words)
    monkeypatch.setattr(Engine, "connect", lambda self: pytest.fail("it was about to start"))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=50_000_000))
    with pytest.raises(BadInput, match=r"a sweep of 18 trials needs about [\d,.]+ MB but 50 MB are free"):
        run.make(NullTracker())
