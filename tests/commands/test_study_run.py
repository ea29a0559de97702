"""Whole commands on a local Ray cluster, tiny: a study of optimisers, the same again, and a recipe without DPO."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]


def job(name: str, words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, f"jobs/{name}.py", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def words(tiny_words: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    kept = [word for word in tiny_words if not word.startswith("dpo.budget")]
    return [*kept, f"root={tmp_path_factory.mktemp('runs')}", "dpo.budget=null"]


@pytest.fixture(scope="module")
def study_words(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    path = tmp_path_factory.mktemp("study") / "optimisers.yaml"
    path.write_text(
        "extends: demo\nname: optimisers\n"
        "study:\n  title: Optimisers\n  of: figure 4\n  seeds: [0]\n  metrics: [perplexity, grammar]\n"
        "  variants:\n    adamw: {}\n    ademamix: {pretrain.optim.name: ademamix}\n"
        "    adalomo: {pretrain.optim.name: adalomo, model.base: 'shape:opt-nano', model.twist: false}\n"
    )
    return [f"recipe={path}", *[word for word in words if not word.startswith("model.base")]]


@pytest.fixture(scope="module")
def finished(study_words: list[str], tiny_lm: Path) -> subprocess.CompletedProcess[str]:
    path = Path(study_words[0].removeprefix("recipe="))
    path.write_text(path.read_text().replace("name: optimisers", f"name: optimisers\nmodel: {{base: {tiny_lm}}}"))
    done = job("study", study_words)
    assert done.returncode == 0, done.stderr[-4000:]
    return done


def root_of(words: list[str]) -> Path:
    return Path(next(word for word in words if word.startswith("root=")).removeprefix("root="))


def test_a_study_makes_each_variant_and_draws_them(
    finished: subprocess.CompletedProcess[str], study_words: list[str]
) -> None:
    root = root_of(study_words)
    (folder,) = root.glob("study/*")
    rows = pq.read_table(folder / "runs.parquet").to_pylist()
    assert {(row["variant"], row["metric"]) for row in rows} == {
        (variant, metric) for variant in ("adamw", "ademamix", "adalomo") for metric in ("perplexity", "grammar")
    }
    perplexity = {row["variant"]: row["value"] for row in rows if row["metric"] == "perplexity"}
    assert len(set(perplexity.values())) == 3  # each trained in its own way
    assert (folder / "study.png").stat().st_size > 10_000
    assert "adalomo" in finished.stdout and "study.png" in finished.stdout
    made = {name: len(list(root.glob(f"{name}/*/manifest.json"))) for name in ("units", "packed", "untrained")}
    assert made == {"units": 1, "packed": 1, "untrained": 2}  # shared where they are the same
    assert len(list(root.glob("pretrained/*/manifest.json"))) == 3 and not list(root.glob("aligned"))


def test_the_same_study_again_makes_nothing(finished: subprocess.CompletedProcess[str], study_words: list[str]) -> None:
    root = root_of(study_words)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("manifest.json")}
    again = job("study", study_words)
    assert again.returncode == 0, again.stderr[-2000:]
    assert {path: path.stat().st_mtime_ns for path in root.rglob("manifest.json")} == before


def test_a_recipe_without_dpo_has_a_report_of_what_there_is(
    finished: subprocess.CompletedProcess[str], words: list[str]
) -> None:
    done = job("slam", words)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "2 of 9 stages made" in done.stdout and "pre-trained" in done.stdout and "after DPO" not in done.stdout
    (page,) = root_of(words).glob("report/*/report.html")
    text = page.read_text()
    assert "pre-trained" in text and "after DPO" not in text and "Preference training" not in text
