"""`--help`: every job tells its words, profiles, recipes and examples, and starts nothing."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from slamray.commands import export
from slamray.commands.help import JOBS, by_job, help_text, recipes
from slamray.commands.run import main
from slamray.config.load import load_recipe
from slamray.config.profiles import PROFILES
from slamray.recipe.slam import build

JOBS_FOLDER = Path(__file__).parents[2] / "jobs"


def lines_after(text: str, title: str) -> list[str]:
    return text.partition(f"\n{title}:\n")[2].partition("\n\n")[0].splitlines()


def test_every_job_has_help_of_its_own() -> None:
    assert {path.stem for path in JOBS_FOLDER.glob("*.py")} == JOBS.keys()


@pytest.mark.parametrize("job", JOBS)
def test_help_names_words_profiles_recipes_and_three_examples(job: str) -> None:
    text = help_text(job)
    assert text.startswith(f"usage: python jobs/{job}.py [WORD ...]\n")
    assert [line.split()[:2] for line in lines_after(text, "examples")] == [["python", f"jobs/{job}.py"]] * 3
    if JOBS[job].of_recipe:
        assert [line.split()[0] for line in lines_after(text, "profiles")] == list(PROFILES)
        told = dict(line.split(maxsplit=1) for line in lines_after(text, "recipes"))
        assert set(told) == {path.stem for path in (JOBS_FOLDER.parent / "slamray" / "recipes").glob("*.yaml")}
        words = {line.split()[0]: line for line in lines_after(text, "words of a recipe, a.b=VALUE")}
        assert "strength of the preference" in words["dpo.beta="] or "default: 0.1" in words["dpo.beta="]
        assert all(len(line.split()) > 1 for line in words.values())


@pytest.mark.parametrize("job", ["slam", "export", "generate", "calibrate"])
def test_the_words_of_an_example_are_words_of_the_job(job: str) -> None:
    text = help_text(job)
    known = {line.split()[0] for line in lines_after(text, "words")}
    for example in JOBS[job].examples:
        words = [word for word in shlex.split(example) if not word.startswith("--")]
        own = [word for word in words if f"{word.partition('=')[0]}=" in known]
        load_recipe([word for word in words if word not in own])


@pytest.mark.parametrize("job", JOBS)
def test_a_shell_hands_on_each_word_of_an_example_whole(job: str) -> None:
    for example in JOBS[job].examples:
        bare = [word for word in shlex.split(example, posix=False) if not word.startswith("'")]
        assert not set("[]{}*") & set("".join(bare)), example  # a shell's own; zsh refuses them where no file fits
        if JOBS[job].of_recipe:
            assert all("=" in word or word.startswith("--") for word in shlex.split(example)), example


def test_the_word_help_alone_or_before_others_asks_for_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help"], build) == 0 and export.main(["help", "out=x"]) == 0
    assert capsys.readouterr().out.count("usage: python jobs/") == 2


def test_the_list_names_every_recipe_once_below_the_job_that_takes_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"], build) == 0
    shown = capsys.readouterr().out
    names = [line.split()[0] for line in shown.splitlines() if line.startswith("  ")]
    assert sorted(names) == sorted(path.stem for path in (JOBS_FOLDER.parent / "slamray" / "recipes").glob("*.yaml"))
    _, _, studies = shown.partition("jobs/study.py recipe=NAME:\n")
    assert "study_context_laptop" in {line.split()[0] for line in studies.partition("python ")[0].splitlines()}
    assert {name for name, _ in by_job()["sweep"]} >= {"dpo_budget", "dpo_budget_laptop"}
    assert "demo" in {name for name, _ in by_job()["slam"]}


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_help_goes_before_whatever_else_is_said(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe=nowhere", word, "dpo.bta=1"], build) == 0
    assert export.main([word]) == 0
    found = capsys.readouterr()
    assert [job in found.out for job in ("jobs/slam.py ", "jobs/export.py ")] == [True, True] and not found.err


def test_a_recipe_is_told_by_one_sentence() -> None:
    told = dict(recipes())
    assert told["slam_laptop"] == "slam on a laptop: the demo."
    assert all(sentence and "\n" not in sentence for sentence in told.values())


def test_a_job_prints_its_help_and_exits_with_0() -> None:
    command = [sys.executable, str(JOBS_FOLDER / "convert_vocoder.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "") and re.match(r"usage: python jobs/", done.stdout)
