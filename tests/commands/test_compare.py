"""Runs beside the paper: its tables are whole, costs add up, and no figure stands in a column that is not its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from slamray import tracking
from slamray.commands.compare import main, power, short, show_sweep, tables
from slamray.data.published_sets import KINDS
from slamray.report import comparison_figure
from slamray.report.comparison_figure import law_curve
from slamray.report.runs import Entry, Score, read_paper, read_runs, read_sweeps
from slamray.speech.audio import to_flac
from slamray.stage.folder import Folder
from slamray.stages.checkpoints import TITLES
from slamray.tracking import MlflowTracker, flatten

PARAMETERS = 5_000_000
TOKENS = 2_000_000


def score(value: float, n: int = 120) -> dict[str, Any]:
    return {"metric": "", "n": n, "ties": 0, "accuracy": value, "low": value - 0.05, "high": value + 0.05}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store as two commands leave it: a run of a recipe, and published sets scored on the same checkpoints."""
    root = tmp_path_factory.mktemp("runs")
    patch = pytest.MonkeyPatch()
    patch.setattr(tracking, "CLOSE_SECONDS", 250.0)  # a busy machine takes long to make the store
    trained: dict[str, dict[str, Any]] = {
        "untrained": {"parameters": PARAMETERS},
        "pretrained": {
            "parameters": PARAMETERS, "tokens": TOKENS, "flops": 6.0 * PARAMETERS * TOKENS,
            "flops_with_attention": 7.0 * PARAMETERS * TOKENS, "device_seconds": 7200.0,
        },
        "aligned": {
            "parameters": PARAMETERS, "tokens": 1000, "flops": 6000.0 * PARAMETERS, "flops_with_attention": 3.5e10,
            "device_seconds": 1800.0,
        },
    }  # fmt: skip
    own = {
        f"scores_{name}": {
            "figures": {
                "topic_cloze": score(0.5 + i / 10),
                "grammar": score(0.6),
                "perplexity": {"perplexity": 9.0 - i},
                "unit_auto_bleu": {"auto_bleu": 0.04},
            }
        }
        for i, name in enumerate(trained)
    }
    sets = {
        "figures": {"tsc": score(0.6, 1871), "ssc": score(0.55, 9), "salmon": score(0.7, 50)},
        "parts": {"salmon/rir": score(0.9, 5)},
    }
    spoken = {"with_prompt": {"perplexity": 70.0, "auto_bleu": 0.03, "utterances": 8}, "prompts": 8}
    evaluated = {"evaluation": {"checkpoints": {"aligned": sets}}, "genppl_aligned": spoken}
    paper = {"metric": "ssc", "asr": "openai/whisper-large-v3-turbo", "judge": "meta-llama/Llama-3.2-1B"}
    other = {"metric": "topic_cloze", "asr": "/models/tiny-whisper", "judge": "assets:story-lm"}
    runs = {"train": (trained | own | {"genppl_pretrained": spoken}, other), "evaluate": (trained | evaluated, paper)}
    for run, (stages, genppl) in runs.items():
        tracker = MlflowTracker(f"sqlite:///{root}/mlflow.db", "slamray", "demo", run, root)
        genppl_words = {f"evaluate.genppl.{key}": value for key, value in genppl.items()}
        tracker.params({"compute.workers": 2, "compute.device": "cuda"} | genppl_words)
        for step in (1, 2):
            tracker.metrics("aligned", {"step": step, "rewards/margins": step / 10})
        tracker.figures({"topic_cloze": 0.7, "perplexity": 7.0})
        for stage, facts in stages.items():
            tracker.finish_stage(stage, {"facts": facts, "wall_seconds": 1.0, "fingerprint": f"print of {stage}"})
        tracker.close("FINISHED")
    sweep = MlflowTracker(f"sqlite:///{root}/mlflow.db", "slamray", "How much DPO?", "sweep", root)
    sweep.params({"sweep.metrics": ["topic_cloze"]})
    for share, seed, right in ((0, 0, 0.5), (0, 1, 0.6), (5, 0, 0.7)):
        label = f"DPO {share} %, seed {seed}"
        sweep.params({"axis.DPO": share, "seed": seed}, label)
        sweep.finish_stage(label, {"facts": {"topic_cloze": right}, "wall_seconds": 1.0, "fingerprint": label})
    sweep.params({"axis.DPO": 9, "seed": 0}, "DPO 9 %, seed 0")  # a trial that failed
    sweep.note("Best so far: DPO 5 %")
    sweep.finish_stage("answer", {"facts": {}, "wall_seconds": 1.0, "fingerprint": "answer"})
    sweep.close("FINISHED")
    patch.undo()
    return root


@pytest.fixture
def entries(root: Path) -> list[Entry]:
    return read_runs(f"sqlite:///{root}/mlflow.db", "slamray", (), read_paper(), TITLES)


def test_the_papers_tables_are_whole() -> None:
    second, third = read_paper().tables.values()
    assert (len(second), len(third)) == (10, 15)
    by_name = {entry.name: entry for entry in [*second, *third]}
    assert by_name["TWIST-1.3B"].scores["sBLIMP"].value == 57.0
    slam = {name: score.value for name, score in by_name["Slam"].scores.items()}
    assert slam == {"sBLIMP": 58.86, "sSC": 58.04, "tSC": 82.04, "GenPPL": 62.8, "A-BLEU": 3.88, "GPTScore": 2.09}
    assert by_name["Slam (large)"].scores["GenPPL"].value == 41.2
    original = by_name["TWIST-350M, original recipe, this budget"].scores["tSC"]
    assert (original.low, original.high) == pytest.approx((68.33, 69.27))
    assert "GenPPL" not in by_name["GSLM"].scores


def test_flops_of_the_papers_runs_are_those_of_its_figures() -> None:
    # docs/paper.md 1.5, from the paper's parameters and tokens: Slam 3.0e18, scaled 3.6e19, large 4.8e19
    _, third = read_paper().tables.values()
    flops = {entry.name: power(entry.flops) for entry in third}
    assert (flops["Slam"], flops["Slam (scaled)"], flops["Slam (large)"]) == ("3.0e18", "3.6e19", "4.8e19")
    assert flops["Moshi (speech only)"] == "-"  # tokens are not told


def test_a_checkpoint_costs_what_it_and_the_training_before_it_cost(entries: list[Entry]) -> None:
    untrained, pretrained, aligned = entries
    assert [entry.name for entry in entries] == ["demo, untrained", "demo, pre-trained", "demo, after DPO"]
    assert (untrained.flops, untrained.device_hours, untrained.tokens) == (0, 0, 0)
    assert (pretrained.flops, pretrained.device_hours) == (6.0 * PARAMETERS * TOKENS, 2.0)
    assert aligned.flops == 6.0 * PARAMETERS * (TOKENS + 1000)
    assert aligned.flops_with_attention == 7.0 * PARAMETERS * TOKENS + 3.5e10
    assert (aligned.device_hours, aligned.tokens, aligned.preference_tokens) == (2.5, TOKENS, 1000)
    assert (aligned.parameters, aligned.devices) == (PARAMETERS, "2 cuda")


def test_scores_of_two_commands_meet_on_the_checkpoint_they_share(entries: list[Entry]) -> None:
    _, pretrained, aligned = entries
    assert aligned.own["topic_cloze"] == Score(pytest.approx(70), pytest.approx(65), pytest.approx(75), 120)
    assert aligned.scores["tSC"].value == pytest.approx(60) and not pretrained.scores
    assert aligned.own["perplexity"].value == 7.0


def test_genppl_is_the_papers_only_with_its_prompts_recogniser_and_judge(entries: list[Entry]) -> None:
    _, pretrained, aligned = entries
    assert aligned.scores["GenPPL"] == Score(70.0, n=8) and aligned.scores["A-BLEU"].value == pytest.approx(3)
    assert not pretrained.scores and pretrained.own["genppl_own_judge"].value == 70.0


def test_a_set_that_the_paper_lacks_is_our_own_column_and_its_parts_are_none(entries: list[Entry]) -> None:
    assert entries[2].own["salmon"].value == pytest.approx(70)
    assert not [metric for metric in entries[2].own if "rir" in metric]


def test_numbers_of_items_are_those_of_the_published_sets() -> None:
    paper = read_paper()
    for name in ("sBLIMP", "sSC", "tSC"):
        assert sorted(paper.items[name]) == sorted(KINDS[paper.logged[name]].published.values())


def test_own_metrics_and_the_papers_never_share_a_column(entries: list[Entry]) -> None:
    assert all(not set(entry.own) & {"tsc", "ssc", "sblimp"} for entry in entries)
    assert all(set(entry.scores) <= {"tSC", "sSC", "GenPPL", "A-BLEU"} for entry in entries)
    text = tables(read_paper(), entries, None)
    _, _, runs, _, own = text.split("\n\n")
    assert "tSC" in runs and "topic_cloze" not in runs
    assert "topic_cloze" in own.splitlines()[1] and "tSC" not in own
    assert own.startswith("Our own metrics: other test items than the paper's")
    (last,) = [line for line in runs.splitlines() if line.startswith("demo, after DPO")]
    assert "60.0 [55.0, 65.0] " in last and "55.0 [50.0, 60.0]*" in last  # 1,871 items as published, and 9


def test_the_command_prints_the_tables_and_draws_the_picture(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "pictures" / "compare.png"
    assert main([f"root={root}", "price_per_device_hour=1.2", f"out={picture}", "runs=[demo]"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line.split() for line in lines if line.startswith("demo, after DPO") and "2 cuda" in line]
    # 5M parameters, 2M + 1k tokens, 6 x 5e6 x 2.001e6, 7 x 5e6 x 2e6 + 3.5e10, 1.2 x 2.5 h
    assert row[5:13] == ["5M", "2M", "+", "1k", "6.0e13", "7.0e13", "2.5", "3.00"]
    assert any(line.startswith("Slam (scaled)") and "84.18" in line for line in lines)
    content = picture.read_bytes()
    assert content.startswith(b"\x89PNG") and len(content) > 20_000


def test_the_runs_are_put_on_a_page_side_by_side_with_the_sounds_that_lie_below_the_root(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = Folder(root) / "report" / "train"  # as stages leave it: a record, and what is to be heard
    report.write_json("manifest.json", {"inputs": {"scores_untrained": "u", "scores_aligned": "a"}})
    said = {"prompt_id": "p1", "said": "Once upon a time", "heard": "there was"}
    report.write_json("sounds.json", [{"checkpoint": name, **said} for name in ("untrained", "aligned")])
    (Folder(root) / "scores_aligned" / "a").write("audio/p1.flac", to_flac(np.zeros(16_000, np.float32)))
    page = tmp_path / "pages" / "page.html"
    assert main([f"root={root}", f"out={page}"]) == 0
    assert capsys.readouterr().out == f"page: {page}\n"
    text = page.read_text()
    assert "2 runs side by side" in text and "How much DPO?" not in text  # a sweep is no run of a recipe
    assert text.count("<audio") == 1 and "Once upon a time" in text and "Margin of DPO" in text
    assert "/models/tiny-whisper" in text and "openai/whisper-large-v3-turbo" in text  # what differs


def test_a_sweep_is_shown_point_by_point_with_its_sentence(root: Path) -> None:
    (entry,) = read_sweeps(f"sqlite:///{root}/mlflow.db", "slamray", ["How much DPO?"])
    lines = [line.split() for line in show_sweep(entry).splitlines()]
    assert lines[0] == ["Sweep:", "How", "much", "DPO?"] and lines[-1] == ["Best", "so", "far:", "DPO", "5", "%"]
    assert ["DPO", "0", "%", "55.00", "[50.00,", "60.00]"] in lines
    assert ["DPO", "5", "%", "70.00", "[70.00,", "70.00]"] in lines
    assert not any("9" in words for words in lines)


def test_what_cannot_be_compared_is_one_line(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = {
        f"root={tmp_path}": "no mlflow.db there",
        f"root={root} runs=[other]": "runs=other: no such run in experiment slamray; there are How much DPO?, demo",
        f"root={root} experiment=none": "experiment=none: not in",
        f"root={root} prise=1": "prise=1: no such word; there are root uri",
        f"root={root} price_per_device_hour=cheap": "price_per_device_hour='cheap'",
    }
    for words, expected in cases.items():
        assert main([*words.split(), f"out={tmp_path}/x.png"]) == 2
        assert expected in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_rows_of_a_list_are_logged_by_metric_and_part() -> None:
    rows = [{"metric": "salmon", "part": "all", "n": 1}, {"metric": "salmon", "part": "rir (x)", "n": 2}]
    assert flatten({"a": rows, "b": [1, 2]}) == {"a.salmon.n": 1, "a.salmon/rir__x_.n": 2}


def test_the_laws_curve_passes_between_its_endpoints() -> None:
    paper = read_paper()
    small, large = paper.endpoints
    assert [(entry.parameters, entry.scores["tSC"].value) for entry in paper.endpoints] == [
        (309e6, 75.31), (823e6, 77.93),
    ]  # fmt: skip
    assert small.flops and large.flops
    x, y = law_curve(paper, [large.flops, small.flops])
    # k C^.025, k the geometric mean of 75.31 / (5.636e19)^.025 and 77.93 / (4.049e20)^.025: by hand 24.051
    assert y[0] == pytest.approx(74.74, abs=0.01) and y[-1] == pytest.approx(78.52, abs=0.01)
    assert (x[0], x[-1]) == pytest.approx((small.flops, large.flops)) and y == sorted(y)


def test_the_picture_has_the_curve_and_both_endpoints_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(comparison_figure, "save", lambda figure, path: drawn.append(figure))
    comparison_figure.draw(read_paper(), [], tmp_path / "figure.png")
    (axes,) = drawn[0].axes
    points = [tuple(one.get_offsets()[0]) for one in axes.collections]
    ends = {6 * 309e6 * 30.4e9: 75.31, 6 * 823e6 * 82e9: 77.93}  # Table 2 prints the second too, as 78.0
    assert {x: y for x, y in points if x in ends} == ends and sum(x in ends for x, _ in points) == 2
    (curve,) = axes.lines
    assert np.all(np.diff(curve.get_ydata()) > 0) and "law" in str(curve.get_label())


def test_counts_are_short() -> None:
    assert [short(n) for n in (None, 0, 999, 5e6, 358_347_904, 999_900_000, 16.7e9, 1e12)] == [
        "-", "0", "999", "5M", "358M", "1B", "16.7B", "1T",
    ]  # fmt: skip
    assert [power(n) for n in (None, 0, 6.4e13, 3.6e19)] == ["-", "0", "6.4e13", "3.6e19"]
