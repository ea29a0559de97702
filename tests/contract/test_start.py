"""docs/start.md and docs/trouble.md hold: commands print what is shown, errors are those of the code."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import trouble
import yaml
from support.first_hour import is_printed, make_my, shown
from support.machine import InProcess

from slamray.commands.door import main
from slamray.config.load import load_recipe
from slamray.errors import BadInput
from slamray.recipe.slam import build
from slamray.stage.folder import Folder
from slamray.stage.materialise import materialise
from slamray.stage.stage import order

ROOT = Path(__file__).parents[2]
TROUBLE = ROOT / "docs" / "trouble.md"


@pytest.fixture
def my(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with `my/`: stories as JSON lines, and recordings."""
    make_my(tmp_path, seconds=1)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", [command for command, _ in shown()])
def test_a_command_of_the_first_hour_prints_what_is_shown(
    command: str, my: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = dict(shown())[command]
    python, script, *words = shlex.split(command)
    assert python == "python" and script.startswith("jobs/") and lines
    assert main(Path(script).stem, words) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    for line in lines:
        assert is_printed(line, printed), f"{line!r} is not in\n{printed}"
    assert not (my / "runs").exists()  # nothing was started


def test_text_of_my_own_becomes_a_corpus(my: Path, tiny_words: list[str]) -> None:
    words = [*tiny_words, "corpus.paths=[my/stories.jsonl]", f"root={my / 'runs'}"]
    recipe = load_recipe(words)
    corpus = next(stage for stage in order(build(recipe)) if stage.name == "corpus")
    facts = materialise([corpus], Folder(recipe.root), InProcess(), {})["corpus"]["facts"]
    assert facts["train"] + facts["validation"] + facts["evaluation"] == 120


def test_the_site_has_every_page() -> None:
    """Building it takes what is in no environment of the tests; `make docs` refuses a link that leads nowhere."""
    tree = yaml.safe_load((ROOT / "docs" / "mkdocs.yml").read_text())
    told = re.findall(r"[\w/]+\.md", json.dumps(tree["nav"]))
    assert sorted(told) == sorted(str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md"))


def test_the_page_of_troubles_is_that_of_the_code() -> None:
    assert TROUBLE.read_text() == trouble.page(), "run `make trouble`"


@pytest.mark.parametrize(
    "words",
    [
        ["corpus.paths=[nowhere.jsonl]"],
        ["recipe=nowhere"],
        ["dpo.budget=fast"],
        ["profile=moon"],
        ["evaluate.vocoder=/nowhere"],
        ["pretrain.tokens_per_step=1"],
        ["speech.encoder.layer=50"],
    ],
)
def test_an_error_that_a_user_meets_is_on_the_page(words: list[str]) -> None:
    """Found again by its words: what stands in capitals or as dots on the page may be anything."""
    with pytest.raises(BadInput) as met:
        for stage in order(build(load_recipe(words))):
            stage.check({})
            assert stage.fingerprint
    said = " ".join(str(met.value).split())
    rows = [row.split(" | ")[0].removeprefix("| ") for row in TROUBLE.read_text().splitlines() if row.startswith("| ")]
    fixed = [re.split(r"(?:\b[A-Z][A-Z_]+\b|…)", re.sub(r"\\(.)", r"\1", row)) for row in rows]
    assert any(sum(map(len, parts)) > 8 and re.search(".*".join(map(re.escape, parts)), said) for parts in fixed), said
