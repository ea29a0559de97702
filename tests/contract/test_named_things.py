"""What documents and comments name exists: sections of docs/paper.md, files, commands and their words."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from slamray.commands.sweep_space import load_tuning, make_space
from slamray.config.load import Sweep, Variants, load_recipe, load_study, load_sweep
from slamray.config.tree import Recipe
from slamray.errors import BadInput

ROOT = Path(__file__).parents[2]
FOLDERS = ("benchmarks", "cluster", "docs", "jobs", "slamray", "tests", "tuning")
SUFFIXES = (".md", ".py", ".yaml", ".html", ".c")
CITATION = re.compile(r"docs/paper\.md (\d+\.\d+)((?:(?:, | and )\d+\.\d+)*)")
UNNAMED_SOURCE = re.compile(r"\brecipe(?:\.md)?,? \d+\.\d+")  # a document of that kind is not in the repository
NAMED_PATH = re.compile(rf"(?<![\w./:-])((?:{'|'.join(FOLDERS)})/[\w./*-]*[\w*])(?![\w\\])")
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)\)")
COMMAND = re.compile(r"python (jobs/\w+\.py)([^`\n]*)")
MAKE = re.compile(r"(?:`|^ {4,}(?:\$ )?)make ([a-z-]+)([^`\n#]*)", re.MULTILINE)
KEY = re.compile(rf"`'?((?:{'|'.join(Recipe.model_fields)})\.[\w.]+)(?<!\.safetensors)[=`]")
EVALUATE_WORDS = {"checkpoints", "metrics", "sets"}  # read by hand in slamray/recipe/evaluation.py
PLACEHOLDER = re.compile(r"=[A-Z|]+(?:\.\w+|\|[\w.]+)*$|^a\.b=")  # recipe=NAME, out=FOLDER, a.b=c
UNUSED_FOLDERS = {"__pycache__"}


def texts() -> dict[Path, str]:
    """Every document and source file, by its path inside the repository."""
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in SUFFIXES]
    paths += [*ROOT.glob("*.md"), ROOT / "Makefile", ROOT / "pyproject.toml"]
    kept = [path for path in paths if path != Path(__file__) and not UNUSED_FOLDERS & set(path.parts)]
    return {path.relative_to(ROOT): path.read_text() for path in sorted(kept)}


TEXTS = texts()
FOLLOWED = Path("docs/extend.md")  # makes what it names; tests/contract/test_extend*.py follow it
DOCUMENTS = [path for path in TEXTS if path.suffix == ".md" and path != FOLLOWED]
USAGES = [*DOCUMENTS, *(path for path in TEXTS if path.suffix in (".py", ".yaml"))]


def test_every_section_of_the_papers_page_that_is_cited_exists() -> None:
    sections = set(re.findall(r"^#+ (\d+\.\d+) ", TEXTS[Path("docs/paper.md")], re.MULTILINE))
    cited = [
        (path, section)
        for path, text in TEXTS.items()
        for first, others in CITATION.findall(text)
        for section in [first, *re.findall(r"\d+\.\d+", others)]
    ]
    assert cited
    assert [f"{path}: docs/paper.md {section}" for path, section in cited if section not in sections] == []


def test_no_comment_cites_a_page_that_is_not_in_the_repository() -> None:
    assert [f"{path}: {found}" for path, text in TEXTS.items() for found in UNNAMED_SOURCE.findall(text)] == []


def test_every_file_that_is_named_exists() -> None:
    """Paths from the root of the repository in all texts, and the links and pictures of documents."""
    named = [
        (path, ROOT, name) for path, text in TEXTS.items() if path != FOLLOWED for name in NAMED_PATH.findall(text)
    ]
    named += [(path, ROOT / path.parent, name) for path in DOCUMENTS for name in LINK.findall(TEXTS[path])]
    assert [f"{path}: {name}" for path, base, name in named if not any(base.glob(name))] == []


def test_every_make_target_that_is_named_exists() -> None:
    makefile = TEXTS[Path("Makefile")]
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    wrong = []
    for path in USAGES:
        for target, words in MAKE.findall(TEXTS[path]):
            variables = re.findall(r"\b(\w+)=", words)
            if target not in targets or any(f"$({name})" not in makefile for name in variables):
                wrong.append(f"{path}: make {target}{words}")
    assert wrong == []


def commands() -> Iterator[tuple[Path, Path, str]]:
    """Every command of a job that a text shows: where, which job, and its words as they are written."""
    for path in USAGES:
        for job, words in COMMAND.findall(TEXTS[path]):
            yield path, Path(job), words.split("  #")[0]


@pytest.mark.parametrize("job", sorted({job for _, job, _ in commands()}), ids=str)
def test_every_command_of_a_job_that_is_shown_has_words_that_exist(job: Path) -> None:
    """Dotted keys, names of recipes and profiles, the job's own words and flags, by the loader that reads them."""
    assert (ROOT / job).is_file()
    wrong = []
    for path, other, line in commands():
        try:
            if other == job:
                check_words(job, split_usage(line))
        except (BadInput, AssertionError) as error:
            wrong.append(f"{path}: {job}{line}: {error}")
    assert wrong == []


def split_usage(line: str) -> list[str]:
    """The words of a command as a usage line writes them: `[recipe=NAME] [a.b=c ...] [--plan | --verify]`."""
    words = []
    for word in shlex.split(line):
        bare = word.removeprefix("[")
        surplus = bare.count("]") - bare.count("[")
        words.append(bare[: len(bare) - surplus] if surplus > 0 and bare.endswith("]" * surplus) else bare)
    return [word for word in words if re.match(r"--[a-z]|[a-z][\w.]*=", word)]


def check_words(job: Path, words: Sequence[str]) -> None:
    """BadInput or AssertionError for a word that the job does not know."""
    sources = [Path("slamray/commands") / name for name in ("door.py", "run.py", job.name)]
    sources = [source for source in sources if source in TEXTS]
    flags = [word for word in words if word.startswith("--")]
    known = {flag for source in sources for flag in re.findall(r'"(--[a-z]+)"', TEXTS[source])}
    assert set(flags) <= known, f"flags are {known}"
    own = own_words(sources[-1]) | (EVALUATE_WORDS if job.stem == "evaluate" else set())
    rest = [word for word in words if word not in flags and word.partition("=")[0] not in own]
    rest = [word for word in rest if not PLACEHOLDER.search(word)]
    if any(word.startswith("recipe=") for word in rest) and job.stem == "study":
        load_study(in_repository(rest))
    elif any(word.startswith("recipe=") for word in rest) and job.stem == "sweep":
        load_sweep(in_repository(rest), points_of)
    else:
        load_recipe([word for word in in_repository(rest) if not word.startswith("sweep.")])


def in_repository(words: Sequence[str]) -> list[str]:
    """The same words, with a recipe file found from the root of the repository."""
    return [re.sub(r"^recipe=(.*\.yaml)$", rf"recipe={ROOT}/\1", word) for word in words]


def points_of(sweep: Sweep) -> Variants:
    space = make_space(load_tuning(sweep.tuning), sweep)
    return {point.label: point.changes for point in space.points}


def own_words(source: Path) -> set[str]:
    """Fields of the settings that a command's file declares for itself; read without importing it (torch takes 8 s)."""
    classes = [node for node in ast.parse(TEXTS[source]).body if isinstance(node, ast.ClassDef)]
    settings = [
        node for node in classes if any(isinstance(base, ast.Name) and base.id == "Settings" for base in node.bases)
    ]
    fields = [field for node in settings for field in node.body if isinstance(field, ast.AnnAssign)]
    return {field.target.id for field in fields if isinstance(field.target, ast.Name)}


def test_every_dotted_key_that_a_document_names_exists() -> None:
    named = [(path, key) for path in DOCUMENTS for key in KEY.findall(TEXTS[path])]
    assert named
    assert [f"{path}: {key}" for path, key in named if not is_key(key.split("."), Recipe)] == []


def is_key(parts: Sequence[str], group: type[BaseModel]) -> bool:
    """Whether the parts lead from a group of settings to one of its values; below a mapping any name does."""
    if parts[0] not in group.model_fields:
        return False
    annotation = group.model_fields[parts[0]].annotation
    if len(parts) == 1:
        return True
    below = next((kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)), None)
    return below is not None and (not issubclass(below, BaseModel) or is_key(parts[1:], below))
