"""What the jobs beside a recipe's run share: their own words, the checkpoint they mean, and errors in one line."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, ValidationError

from slamray import store
from slamray.config.base import Settings, home_path
from slamray.config.load import parse_value
from slamray.config.tree import Recipe
from slamray.errors import BadInput
from slamray.stage.folder import Folder
from slamray.stages.checkpoints import MODEL, TITLES


def _known_checkpoint(stage: str) -> str:
    if stage not in TITLES:
        raise ValueError(f"choose one of {' '.join(TITLES)}")
    return stage


CheckpointName = Annotated[str, AfterValidator(_known_checkpoint)]
Own = TypeVar("Own", bound=Settings)


def as_command(work: Callable[[], int]) -> int:
    """An exit status: the work's own, 2 with one line where the user's input is at fault, 130 for Ctrl-C."""
    try:
        return work()
    except BadInput as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; what is finished stays, and the same command goes on\n")
        return 128 + signal.SIGINT


def split_words(words: Sequence[str], kind: type[Own]) -> tuple[Own, list[str]]:
    """The words that are keys of `kind`, validated, and the others in their order, which are for a recipe."""
    given: dict[str, object] = {}
    others = []
    for word in words:
        key, equals, value = word.partition("=")
        if key not in kind.model_fields:
            others.append(word)
            continue
        given[key] = parse_value(key, value if equals else "")
    try:
        return kind.model_validate(given), others
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        if first["type"] == "missing":
            raise BadInput(f"give {key}=: {kind.model_fields[key].description}") from error
        raise BadInput(f"{key}={first['input']!r}: {first['msg']}") from error


def given_folder(key: str, value: str) -> Path:
    """The folder that a word names, to be written into. BadInput for none, and for what can be no folder."""
    if not value.strip():
        raise BadInput(f"{key}=: names nothing; is the variable set that it comes from? give a folder")
    folder = Path(home_path(value))
    store.check_folder(folder, key)
    return folder


def given_path(key: str, value: str) -> Path:
    """A file or folder that a word names and that is to be read. BadInput for none."""
    if not value.strip():
        raise BadInput(f"{key}=: names nothing; is the variable set that it comes from? give a path")
    return Path(home_path(value))


def find_model(folder: str, checkpoint: str, recipe: Callable[[], Recipe]) -> Path:
    """The folder of a unit LM: the one given (or `model` in it), else the recipe's checkpoint of that name.

    BadInput when there is none there, or the recipe has not made it yet.
    """
    if folder:
        given = Path(home_path(folder))
        found = [path for path in (given, given / MODEL) if (path / "config.json").is_file()]
        if not found:
            raise BadInput(f"checkpoint={folder}: no config.json there, nor in its folder model; check the path")
        return found[0]
    from slamray.recipe.ready import known
    from slamray.recipe.slam import build  # builds the recipe's stages to know their folders; starts nothing
    from slamray.stage.stage import order

    resolved = known(recipe())
    root = Folder(resolved.root)
    for stage in order(build(resolved)):
        if stage.name == checkpoint:
            if not stage.is_done(root):
                raise BadInput(
                    f"{stage.folder(root)}: this recipe's {checkpoint} is not made yet; run jobs/slam.py with the same "
                    "words first, or give checkpoint=FOLDER"
                )
            return stage.folder(root).fetch(MODEL)
    raise BadInput(f"stage={checkpoint}: recipe {resolved.name} has no such checkpoint; choose another")
