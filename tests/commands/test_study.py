"""Studies: what is shared, what a plan says, what one failure costs, and what the tables and the picture hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from support.machine import InProcess

from slamray.commands import study
from slamray.commands.study import PICTURE, RUNS, SUMMARY, Trial, build, main, make_trials, study_stage
from slamray.config.load import load_study
from slamray.config.tree import Recipe
from slamray.errors import BadInput
from slamray.report.panels import make_panel
from slamray.report.study_figure import Curve, band
from slamray.runtime.engine import Engine
from slamray.stage.folder import Folder
from slamray.stage.materialise import materialise
from slamray.stage.stage import Inputs, Stage, order
from slamray.stage.work import Machine

RECIPES = Path(__file__).parents[2] / "slamray" / "recipes"


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "extends: demo\nname: mine\ndpo: {budget: null}\n"
        "study:\n  title: A < B\n  of: figure 0\n  seeds: [0, 1, 2]\n  metrics: [perplexity, grammar]\n"
        "  variants:\n    slow: {pretrain.optim.learning_rate: 1.0e-3}\n"
        "    fast: {pretrain.optim.learning_rate: 2.0e-3}\n"
    )
    return path


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("study_*.yaml")))
def test_every_variant_of_a_shipped_study_can_be_planned(name: str, tmp_path: Path) -> None:
    profile = ["profile=laptop"] if name.endswith("_laptop") else ["profile=a100x2"]
    assert main([f"recipe={name}", *profile, f"root={tmp_path}", "--plan"]) == 0


def words(study_file: Path, tiny_words: list[str], root: Path) -> list[str]:
    kept = [word for word in tiny_words if not word.startswith("dpo.budget")]
    return [f"recipe={study_file}", *kept, f"root={root}"]


def fake_stages(recipe: Recipe) -> list[Stage]:
    """The stages that a study reads, their facts computed from the recipe by hand; seed 1 of `fast` fails."""
    rate, seed = recipe.pretrain.optim.learning_rate, recipe.pretrain.seed

    def pretrain(inputs: Inputs, out: Folder, machine: Machine, **settings: Any) -> dict[str, Any]:
        if (rate, seed) == (2e-3, 1) and not (Path(recipe.root) / "mended").exists():
            raise BadInput("the disk is full")
        history = [{"tokens": t, "validation_loss": 5 - t / 100 - seed / 10} for t in (0, 50, 100)]
        out.write_json("history.json", [*history, {"tokens": 60, "loss": 1.0}])
        spent = {"flops": 1e6, "flops_with_attention": 1.1e6, "train_seconds": 2.0, "device_seconds": 2.0}
        return {"tokens": 100, "parameters": 7, **spent}

    def score(inputs: Inputs, out: Folder, machine: Machine) -> dict[str, Any]:
        pair = {"metric": "grammar", "n": 10, "ties": 0, "accuracy": 0.5 + 100 * rate + seed / 100}
        grammar = pair | {"low": 0.1, "high": 0.9}
        perplexity = {"perplexity": 100 * rate + seed, "targets": 70}
        return {"figures": {"perplexity": perplexity, "grammar": grammar}, "gains": {}}

    shared = Stage("units", lambda inputs, out, machine: {"units": 1}, {})
    untrained = Stage("untrained", lambda inputs, out, machine, seed: {"parameters": 7}, {"seed": seed}, (shared,))
    trained = Stage("pretrained", pretrain, {"rate": rate, "seed": seed}, (untrained,))
    scores = Stage("scores_pretrained", score, {}, (trained,))
    return [Stage("report", lambda inputs, out, machine: {}, {}, (scores,))]


@pytest.fixture
def made(
    study_file: Path, tiny_words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Any, list[Trial], dict[str, str], Path]:
    monkeypatch.setattr(study, "build_recipe", fake_stages)
    monkeypatch.setattr(Engine, "connect", lambda self: None)
    monkeypatch.setattr(Engine, "check_root", lambda self, root: None)
    asked, members = load_study(words(study_file, tiny_words, tmp_path / "runs"))
    engine = Engine(members[0].recipe.compute)
    runs = build(members, asked.metrics, asked.checkpoint)
    return asked, runs, make_trials(runs, engine, []), tmp_path / "runs"


def test_a_failed_run_is_reported_and_costs_only_itself(made: tuple[Any, list[Trial], dict[str, str], Path]) -> None:
    asked, runs, failed, root = made
    assert failed == {"fast, seed 1": "BadInput: the disk is full"}
    good = [run for run in runs if run.label not in failed]
    assert len(good) == 5 and all(target.is_done(root) for run in good for target in run.targets)
    target = study_stage(asked, good, root)
    facts = materialise([target], root, InProcess(), {})["study"]["facts"]
    by_hand = {(row["variant"], row["metric"]): row for row in facts["summary"]}
    # perplexity is 100 x rate + seed; fast has seeds 0 and 2 alone
    slow, fast = by_hand["slow", "perplexity"], by_hand["fast", "perplexity"]
    assert (slow["seeds"], slow["mean"], slow["low"], slow["high"]) == (3, pytest.approx(1.1), 0.1, 2.1)
    assert (fast["seeds"], fast["mean"], fast["low"], fast["high"]) == (2, pytest.approx(1.2), 0.2, 2.2)
    assert "slow" in facts["table"][1] and "1.10 [0.10, 2.10]" in facts["table"][1]
    assert "61.00 [60.00, 62.00]" in facts["table"][1]  # grammar: 0.5 + 0.1 + seed / 100


def test_the_tables_hold_every_run_and_the_picture_is_drawn(
    made: tuple[Any, list[Trial], dict[str, str], Path],
) -> None:
    asked, runs, failed, root = made
    target = study_stage(asked, [run for run in runs if run.label not in failed], root)
    materialise([target], root, InProcess(), {})
    rows = pq.read_table(target.folder(root).fetch(RUNS)).to_pylist()
    assert len(rows) == 5 * 2 and {row["variant"] for row in rows} == {"slow", "fast"}
    grammar = next(row for row in rows if (row["variant"], row["seed"], row["metric"]) == ("slow", 2, "grammar"))
    assert grammar["value"] == pytest.approx(0.62) and (grammar["low"], grammar["high"], grammar["n"]) == (0.1, 0.9, 10)
    assert (grammar["parameters"], grammar["tokens"], grammar["flops"], grammar["train_seconds"]) == (7, 100, 1e6, 2.0)
    assert pq.read_table(target.folder(root).fetch(SUMMARY)).num_rows == 4
    picture = (target.folder(root).fetch(PICTURE)).read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 10_000


def test_the_mended_run_is_all_that_is_made_again(made: tuple[Any, list[Trial], dict[str, str], Path]) -> None:
    asked, runs, _, root = made
    before = {path: path.stat().st_mtime_ns for path in root.glob("*/*/manifest.json")}
    (root / "mended").touch()
    assert make_trials(runs, Engine(runs[0].member.recipe.compute), []) == {}
    after = {path: path.stat().st_mtime_ns for path in root.glob("*/*/manifest.json")}
    assert {path.parent.parent.name for path in after.keys() - before.keys()} == {"pretrained", "scores_pretrained"}
    assert all(after[path] == stamp for path, stamp in before.items())
    assert study_stage(asked, runs, root).fingerprint != study_stage(asked, runs[:-1], root).fingerprint


def test_variants_share_what_they_have_in_common(study_file: Path, tiny_words: list[str], tmp_path: Path) -> None:
    asked, members = load_study(words(study_file, tiny_words, tmp_path / "runs"))
    runs = build(members, asked.metrics, asked.checkpoint)
    found = order([target for run in runs for target in run.targets])
    counts = {name: sum(stage.name == name for stage in found) for name in {stage.name for stage in found}}
    shared = dict.fromkeys(("corpus", "units", "packed", "items"), 1)
    # a rate is no part of the untrained model, a seed is
    assert counts == shared | {"untrained": 3, "pretrained": 6, "scores_pretrained": 6}


def test_the_plan_of_a_study_names_variants_and_starts_nothing(
    study_file: Path, tiny_words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words(study_file, tiny_words, tmp_path / "runs"), "study.seeds=[0]", "--plan"]) == 0
    shown = capsys.readouterr().out
    assert "study 'A < B' (figure 0): 2 variants x 1 seeds" in shown
    assert "0 of 1 done   pretrain.optim.learning_rate=0.002" in shown
    assert "4 steps, 4,096 tokens" in shown and "GB a device" in shown and "with attention" in shown
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("study.metrics=[sblimp]", "sblimp is not measured, only perplexity topic_cloze .* give evaluate.sets.sblimp"),
        ("study.checkpoint=aligned", "variant slow: no aligned, for dpo.budget is null"),
        ("model.base=/nowhere", "variant slow: model.base=/nowhere: no such folder"),
    ],
)
def test_what_is_wrong_with_a_study_is_said_before_any_work(
    study_file: Path, tiny_words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], word: str, message: str
) -> None:
    assert main([*words(study_file, tiny_words, tmp_path / "runs"), word]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    with pytest.raises(BadInput, match=message):
        raise BadInput(error)
    assert not (tmp_path / "runs").exists()


def test_a_band_is_over_the_tokens_that_all_seeds_have_seen() -> None:
    tokens, mean, low, high = band([Curve("a", [0, 10], [4.0, 2.0]), Curve("a", [0, 20], [4.0, 4.0])])
    assert (tokens[0], tokens[-1]) == (0, 10)
    assert (mean[-1], low[-1], high[-1]) == (3.0, 2.0, 4.0)


def test_a_picture_shows_the_interval_over_items_where_a_variant_has_one_seed() -> None:
    gain = "topic_cloze_st_gain"
    rows = [
        {"variant": variant, "metric": gain, "value": value, "low": value - 0.02, "high": value + 0.03}
        for variant, value in (("one", 0.01), ("two", 0.05), ("two", 0.07))
    ]
    found = make_panel(gain, rows, [vars(row) for row in study.summarise([tuple(row.values())[:3] for row in rows])])
    assert found.gain and not found.accuracy
    assert found.intervals == {"one": pytest.approx((-0.01, 0.04))}
    assert (found.spreads["two"].low, found.spreads["two"].high) == (0.05, 0.07)


def test_no_interval_is_shown_of_a_figure_that_has_none() -> None:
    rows = [{"variant": "one", "metric": "perplexity", "value": 9.0, "low": None, "high": None}]
    found = make_panel("perplexity", rows, [vars(row) for row in study.summarise([("one", "perplexity", 9.0)])])
    assert not found.intervals and not found.gain
