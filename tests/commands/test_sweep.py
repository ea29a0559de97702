"""What a sweep does without Ray: its points, what it refuses, what it chooses, what it says it cost, its picture."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from support.machine import InProcess
from support.published_sets import write, write_gold

from slamray.commands.study import Trial, build, figure_rows
from slamray.commands.sweep import SweepRun, check, main
from slamray.commands.sweep_answer import Judged, choose, judge, merit, objective, spent
from slamray.commands.sweep_space import load_tuning, make_space
from slamray.config.compute import TrackingSettings
from slamray.config.load import Member, Sweep, load_sweep
from slamray.config.speech import EncoderSettings
from slamray.errors import BadInput
from slamray.evaluate.generative_perplexity import Likelihood, generative_perplexity
from slamray.evaluate.metrics import METRICS, ScalarMetric
from slamray.evaluate.summary import PairScore, item_values, summarise_items
from slamray.report.sweep_figure import draw
from slamray.runtime.engine import Engine
from slamray.stage.folder import Folder
from slamray.stage.materialise import materialise
from slamray.stage.records import to_table
from slamray.stage.stage import PRUNED, Inputs, Stage, order, prune
from slamray.stage.work import Machine
from slamray.stages.genppl import ROWS
from slamray.stages.scoring import SCORES
from slamray.tracking import NullTracker, open_tracker

RECIPES = Path(__file__).parents[2] / "slamray" / "recipes"


def a_sweep(tuning: str = "dpo_budget", **space: Any) -> Sweep:
    return Sweep(title="A sweep", tuning=tuning, space=space)


def points_of(tuning: str, **space: Any) -> dict[str, Any]:
    made = make_space(load_tuning(tuning), a_sweep(tuning, **space))
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
    recipes = RECIPES
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
    space = make_space(load_tuning(sweep.tuning), sweep)
    return {point.label: point.changes for point in space.points}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sweep.tuning=budget"], r"sweep.tuning=budget: no budget.py in .*; there are .*dpo_budget"),
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
        (
            {"objective": ("topic_cloze", "perplexity")},
            r"sweep.objective=\[topic_cloze, perplexity\]: perplexity has another scale than the others",
        ),
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
    found = choose({"a": [{"grammar": np.zeros(10)}, {"grammar": np.ones(10)}]})
    assert (found.value, found.low, found.high) == (0.5, 0.0, 1.0)


def test_a_point_with_fewer_seeds_is_left_out_of_the_choice() -> None:
    found = choose({"one lucky seed": [items(0.9)], "two": [items(0.6), items(0.6)]})
    assert found.point == "two"


def test_the_objective_weighs_metrics_not_items() -> None:
    assert objective({"grammar": np.ones(10), "topic_cloze": np.zeros(1000)}) == 0.5


def texts(perplexities: list[float]) -> Judged:
    """Continuations that the judge finds so perplexing; nan: nothing was understood."""
    return {"genppl": np.log(perplexities)}


def test_an_objective_that_is_better_lower_chooses_the_least() -> None:
    points = {"a": [[80, 20], [90, 40]], "b": [[4, 9], [2, 8]], "c": [[99, 99], [99, 98]]}
    found = choose({point: [texts(seed) for seed in seeds] for point, seeds in points.items()})
    # the figure of a seed is the geometric mean of its texts: 6 and 4; over seeds their mean
    assert found.point == "b" and found.value == pytest.approx(5.0)
    assert found.sure == 1.0 and found.also == ()
    assert found.sentence(["genppl"]).startswith("Recommended: b: genppl 5.0 [")
    assert merit(texts([80, 20])) == pytest.approx(-40.0) and merit(texts([4, 9])) == pytest.approx(-6.0)


def test_texts_in_which_nothing_was_understood_take_no_part() -> None:
    found = choose({"a": [texts([4, 9, float("nan")])], "b": [texts([100, float("nan"), 100])]})
    assert (found.point, found.value) == ("a", pytest.approx(6.0))


def test_a_number_by_itself_is_judged_over_seeds_alone() -> None:
    perplexity = {"a": (9.0, 9.5), "b": (8.0, 8.5)}
    found = choose({point: [{"perplexity": np.array([one])} for one in seeds] for point, seeds in perplexity.items()})
    assert (found.point, found.value, found.low, found.high) == ("b", 8.25, 8.0, 8.5)
    assert "perplexity 8.25 [8.00, 8.50] over 2 seeds; the best in 100% of 2,000 resamples of seeds," in found.sentence(
        ["perplexity"]
    )


def test_every_metric_of_the_table_is_drawn_and_judged_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "surprise", ScalarMetric("Surprise", ("validation_pieces",), "s", "n", measure="a:b"))
    for name in ("surprise", "perplexity", "unit_auto_bleu"):
        words = ["recipe=dpo_budget_laptop", f"sweep.metrics=[{name}]", f"sweep.objective=[{name}]"]
        sweep, members = load_sweep(words, tuning_points)
        check(sweep, build(members[:1], sweep.metrics + sweep.objective))
    with pytest.raises(BadInput, match=r"metrics: genppl is not measured.*give evaluate.genppl.prompts=1000|genppl"):
        build(members[:1], ["genppl"])


@pytest.fixture
def figure_5(tmp_path: Path) -> list[str]:
    """Words of the paper's sweep on the demo's models, with silent stand-ins for the published sets."""
    silence = np.zeros(1600, np.float32)
    for name in ("ssc", "tsc"):
        for number, label in enumerate(("correct", "incorrect")):
            write(tmp_path / name / f"{number}_a_{label}.wav", silence)
    sides = [{"id": 0, "filename": name, "voice": "v", "type": "t", "subtype": "s", "transcription": "", "correct": c}
             for name, c in (("a", 1), ("b", 0))]  # fmt: skip
    for side in sides:
        write(tmp_path / "sblimp" / f"{side['filename']}.wav", silence)
    write_gold(tmp_path / "sblimp", sides[0], sides)
    encoder = EncoderSettings()
    return [
        "recipe=dpo_budget", f"root={tmp_path / 'runs'}", "corpus.paths=[assets:stories.jsonl.gz]",
        "preferences.source=stories", "preferences.path=", "model.base=shape:qwen2-nano", "model.twist=false",
        "model.revision=null", f"recorded.librispeech=[hf://datasets/openslr/librispeech_asr@{'0' * 40}/x]",
        "recorded.stinystories=[]",
        f"speech.encoder.model={encoder.model}", f"speech.encoder.centroids={encoder.centroids}",
        f"speech.encoder.layer={encoder.layer}", "speech.encoder.pad_samples=0",
        f"evaluate.sets={{sblimp: {tmp_path}/sblimp, ssc: {tmp_path}/ssc, tsc: {tmp_path}/tsc}}",
    ]  # fmt: skip


def test_the_papers_sweep_plans_by_the_papers_metrics(figure_5: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    sweep, members = load_sweep(figure_5, tuning_points)
    assert sweep.metrics == ("sblimp", "ssc", "tsc", "genppl", "auto_bleu")  # Table 2's columns; figure 5 has three
    assert members[0].recipe.evaluate.genppl.metric == "ssc" and members[0].recipe.evaluate.genppl.prompts == 1000
    aligned = [target.name for target in build(members, sweep.metrics)[-1].targets]
    assert aligned == ["scores_aligned", "evaluation", "genppl_aligned"]
    assert main([*figure_5, "sweep.objective=[genppl]", "--plan"]) == 0, capsys.readouterr().err
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "sweep 'How much of 24 h should be DPO?': 6 points x 3 seeds"
    assert "dpo.budget=time:1797.12s" in lines[3]  # half an hour of 24 is 2.08 %
    assert main([*figure_5, "evaluate.genppl.prompts=0", "--plan"]) == 2
    assert "metrics: genppl is not measured" in capsys.readouterr().err


def test_judged_items_come_to_the_figures_that_are_shown(tmp_path: Path, figure_5: list[str]) -> None:
    sweep, members = load_sweep(figure_5, tuning_points)
    (trial,) = build(members[:1], sweep.metrics)

    def score(metric: str, item: str, voice: str, correct: float) -> PairScore:
        return PairScore(f"{metric}-{item}-{voice}", metric, "all", item, 0.0, 0.0, correct)

    # two items, the first in three voices: the mean of 1/3 and 1
    pairs = [score("sblimp", "x", voice, right) for voice, right in (("a", 0.0), ("b", 1.0), ("c", 0.0))]
    pairs += [score("sblimp", "y", "a", 1.0), score("tsc", "z", "a", 0.5)]
    table = to_table(pairs, PairScore).add_column(0, "checkpoint", pa.array(["pretrained"] * len(pairs)))
    stages = {name: trial.measures(name).name for name in ("sblimp", "genppl", "auto_bleu", "perplexity")}
    assert list(stages.values()) == ["evaluation", "genppl_pretrained", "genppl_pretrained", "scores_pretrained"]
    root = Path(members[0].recipe.root)
    trial.measures("tsc").folder(root).write_table(SCORES, table)
    heard = [("p", "a b a b", 6.0, 3), ("q", "", 0.0, 0), ("r", "one two three", 4.0, 4)]
    rows = [{"prompt_id": key, "text": text, "nll": nll, "tokens": n} for key, text, nll, n in heard]
    trial.measures("genppl").folder(root).write_table(ROWS, pa.Table.from_pylist(rows))

    judged = judge(trial, ["sblimp", "tsc", "genppl", "auto_bleu"], root)
    found = {name: objective({name: values}) for name, values in judged.items()}
    # "a b a b" has the bigrams ab, ba, ab: two of three occur twice
    assert found == pytest.approx({"sblimp": 2 / 3, "tsc": 0.5, "genppl": np.exp(1.5), "auto_bleu": 1 / 3})
    likelihoods = [Likelihood(nll, n) for _, _, nll, n in heard]
    assert found["genppl"] == pytest.approx(generative_perplexity(likelihoods)["perplexity"])
    assert found["sblimp"] == pytest.approx(summarise_items(pairs[:4])[0].accuracy)

    figures = {"sblimp": asdict(summarise_items(pairs[:4])[0])}
    heard_facts = {"with_prompt": {"perplexity": found["genppl"], "auto_bleu": 1 / 3, "utterances": 3}}
    facts = {
        "evaluation": {"checkpoints": {"pretrained": {"figures": figures}}},
        "genppl_pretrained": heard_facts,
        "untrained": {"parameters": 7},
        "pretrained": {"tokens": 9, "flops": 378.0, "train_seconds": 1.0},
    }
    for name, record in facts.items():
        trial.stage(name).folder(root).write_json("manifest.json", {"facts": record})
    rows_shown = figure_rows(trial, ["sblimp", "genppl", "auto_bleu"], root)
    del found["tsc"]
    assert {row.metric: row.value for row in rows_shown} == pytest.approx(found)
    assert [(row.low is None, row.n) for row in rows_shown] == [(False, 2), (True, 3), (True, 3)]


def test_parts_that_weigh_alike_weigh_alike_in_the_objective() -> None:
    # part a: 1 of 1 right, part b: 1 of 4: the mean of 1 and 1/4
    pairs = [PairScore("0", "salmon", "a", "", 0, 0, 1.0)]
    pairs += [PairScore(str(n), "salmon", "b", "", 0, 0, float(n == 1)) for n in range(1, 5)]
    assert item_values(pairs, "parts").mean() == pytest.approx(0.625) == summarise_items(pairs, "parts")[0].accuracy
    assert item_values(pairs, "items").mean() == pytest.approx(0.4)


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


def test_a_trial_in_mlflow_has_its_place_as_parameters_and_all_that_was_measured_of_it(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    words = ["recipe=dpo_budget_laptop", f"root={tmp_path}", "sweep.objective=[perplexity]", "sweep.seeds=[3]"]
    sweep, members = load_sweep(words, tuning_points)
    trials = {trial.label: trial for trial in build(members, ())}
    space = make_space(load_tuning(sweep.tuning), sweep)
    run = SweepRun(sweep, space, trials, Engine(members[0].recipe.compute), words)
    label, trial = list(trials.items())[1]
    spent = {"parameters": 7, "tokens": 100, "flops": 4200.0, "flops_with_attention": 5000.0, "device_seconds": 1800.0}
    figures = {"perplexity": {"perplexity": 9.5}, "topic_cloze": {"accuracy": 0.7}}
    facts = {
        "pretrained": spent,
        "aligned": spent | {"heldout": {"pairs": 0}},
        "scores_aligned": {"figures": figures, "gains": {}},
    }
    for stage in order(trial.targets):
        record = {"facts": facts.get(stage.name, {}), "wall_seconds": 1.0, "fingerprint": stage.fingerprint}
        stage.folder(tmp_path).write_json("manifest.json", record)
    tracker = open_tracker(TrackingSettings(), sweep.title, "sweep", tmp_path)
    run._track(tracker, label, trial)
    tracker.close("FINISHED")
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (experiment,) = (one for one in client.search_experiments() if one.name == "slamray")
    (child,) = client.search_runs([experiment.experiment_id], f"tags.`slamray.stage` = '{label}'")
    (axis,) = [key for key in child.data.params if key.startswith("axis.")]
    point = next(point for point in space.points if point.label == trial.member.variant)
    assert child.data.params.keys() == {axis, "seed", *point.changes} and child.data.params["seed"] == "3"
    assert float(child.data.params[axis]) == point.x
    assert child.data.metrics == {
        "perplexity": 9.5, "topic_cloze": 0.7, "parameters": 7, "tokens": 100, "preference_tokens": 100,
        "flops": 8400.0, "flops_with_attention": 10_000.0, "device_hours": 1.0, "wall_seconds": 1.0,
    }  # fmt: skip
    assert [file.path for file in client.list_artifacts(child.info.run_id)] == ["recipe.yaml"]


def test_a_disk_too_small_for_the_models_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["recipe=dpo_budget_laptop", f"root={tmp_path}"]
    sweep, members = load_sweep(words, tuning_points)
    engine = Engine(members[0].recipe.compute)
    trials = {trial.label: trial for trial in build(members, ())}
    run = SweepRun(sweep, make_space(load_tuning(sweep.tuning), sweep), trials, engine, words)
    monkeypatch.setattr(Engine, "connect", lambda self: pytest.fail("it was about to start"))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=50_000_000))
    with pytest.raises(BadInput, match=r"a sweep of 18 trials needs about [\d,.]+ MB but 50 MB are free"):
        run.make(NullTracker())
