"""The doors to all jobs: `slamray JOB WORD ...` of an installed package, and each script of jobs/ for one of them."""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Callable, Sequence
from functools import partial

from slamray.commands.help import ASKED, HELP, JOBS, LIST, is_asked, jobs_text, list_recipes, print_help

INSTALL = "--install"


def main(job: str, words: Sequence[str]) -> int:
    """Do a job, or print its help; its exit status."""
    if is_asked(words):
        return print_help(job)
    work: Callable[[Sequence[str]], int] = pkgutil.resolve_name(JOBS[job].main)  # imported only where it is asked for
    return work(words)


def console() -> int:
    """The command `slamray`: `slamray slam --plan` is `python jobs/slam.py --plan`; alone it lists the jobs."""
    job, *words = sys.argv[1:] or [HELP]
    if job == LIST and not words:
        return list_recipes()
    if job in JOBS:
        return main(job, words)
    if job in (HELP, *ASKED):
        return print_help(words[0]) if words and words[0] in JOBS else _print_jobs()
    sys.stderr.write(f"error: {job}: no such job; there are {' '.join(JOBS)}, {LIST} and {HELP}\n")
    return 2


def slam(words: Sequence[str]) -> int:
    """Make a recipe."""
    from slamray.commands import run
    from slamray.recipe.slam import build

    return run.main(words, build)


def assets(words: Sequence[str]) -> int:
    """Make the models of the offline default."""
    from slamray.commands import run
    from slamray.recipe.assets import build, install

    return run.main([word for word in words if word != INSTALL], build, install if INSTALL in words else None)


def evaluate(words: Sequence[str]) -> int:
    """Score checkpoints."""
    from slamray.commands import run
    from slamray.recipe.evaluation import build, own_words, show

    asked, others = own_words(words)
    return run.main(others, partial(build, asked=asked), show)


def _print_jobs() -> int:
    print(jobs_text())
    return 0
