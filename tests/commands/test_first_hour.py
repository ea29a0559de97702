"""The first hour, typed: every command of docs/start.md in a fresh clone, as it stands, then without --plan, tiny."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import tiny
from support.first_hour import is_printed, make_my, shown

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
FROM_THE_HUB = "recipe=slam "  # of these the plan is all that can be seen without a network and a GPU
ITEMS = ("evaluate.items", "dpo.budget", "pretrain.budget", "tracking")  # a sweep has words of its own for them
SWEEP = [
    "evaluate.items.topic_cloze=4", "evaluate.items.sentence_order=4", "evaluate.items.words_in_sentence=0",
    "sweep.space.total=tokens:4096", "sweep.space.shares=[0, 0.2]", "sweep.seeds=[0]", "sweep.keep=0",
    "sweep.metrics=[perplexity, topic_cloze]",
    "sweep.objective=[topic_cloze, sentence_order]", "tracking.enabled=false",
]  # fmt: skip


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository as somebody gets it, with `my/`: stories as JSON lines, and three recordings."""
    clone = tmp_path_factory.mktemp("hour") / "slamray"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    make_my(clone, seconds=8)
    return clone


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Words of tiny models, for the demo's recipe."""
    folder = tmp_path_factory.mktemp("tiny")
    return tiny.words(tiny.make_encoder(folder / "e"), tiny.make_lm(folder / "lm"), tiny.make_vocoder(folder / "v"))


def typed(command: str, clone: Path) -> subprocess.CompletedProcess[str]:
    """A line given to a shell in the clone, whose environment has been entered."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(clone)}
    return subprocess.run(["bash", "-c", command], cwd=clone, env=environment, capture_output=True, text=True)


def small_words(command: str, small: list[str]) -> list[str]:
    """What makes this command end in a minute or two; the command's own words come after them and win."""
    if "assets.py" in command:
        return tiny.asset_words()
    if "sweep.py" in command:
        return [*(word for word in small if not word.startswith(ITEMS)), *SWEEP]
    return small


@pytest.mark.parametrize(("command", "lines"), shown())
def test_a_command_of_the_first_hour_is_typed_and_then_done(
    command: str, lines: list[str], clone: Path, small: list[str]
) -> None:
    told = typed(command, clone)
    assert told.returncode == 0, told.stderr[-3000:]
    for line in lines:
        assert is_printed(line, told.stdout), f"{line!r} is not in\n{told.stdout}"
    planned = re.fullmatch(r"(python \S+)(.*) --plan", command)
    if planned is None or FROM_THE_HUB in command:
        return
    script, words = planned.groups()
    quoted = " ".join(f"'{word}'" for word in small_words(command, small))
    done = typed(f"{script} {quoted}{words}", clone)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    assert re.search(r"\d+ of \d+ stages made|^sweep: \S+sweep\.png", done.stdout, re.MULTILINE), done.stdout[-2000:]
