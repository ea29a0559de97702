"""Write docs/trouble.md: every one-line error of slamray, found in its code: `python docs/trouble.py`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "trouble.md"
ERROR = "BadInput"
OF_SETTINGS = "ValueError"  # in slamray/config: pydantic tells it with the key and the value that is refused
REST = "…"  # stands for a text that the code puts together elsewhere
HEAD = """# Trouble

Made by `make trouble` from the code; do not edit. A command that cannot go on prints one line that begins with
`error:`, and ends with status 2. Find it here by its words: what stands in capitals, or as …, is filled in by the
command. A traceback in place of such a line is a defect of slamray, and is worth a report. Status 1 says that
something could not be made while the rest was, 130 and 143 that the run was told to end.

Rows and recordings that cannot be used end nothing: they lie in a stage's `quarantine/` with their reason, and only
too many of them end a run (`max_bad_share`). What libraries have said lies below `logs/` of the root.
"""
ABOUT = {
    "": "Files that are given, and folders that are written",
    "commands": "Words of a command",
    "config": "Settings, and what they name outside",
    "data": "Text, recordings, pairs and test sets",
    "evaluate": "Evaluation",
    "model": "Models",
    "recipe": "Recipes, before any work",
    "report": "Reports and comparisons",
    "runtime": "The cluster, and what dies on it",
    "speech": "Voices, encoders and decoders",
    "stage": "Folders of stages, and stores",
    "stages": "Stages",
    "tokens": "Units and vocabularies",
    "train": "Training",
    "tuning": "Spaces of sweeps",
}


@dataclass(frozen=True)
class Trouble:
    """An error: what it says is wrong, what it says to do, and the function that says it."""

    package: str
    wrong: str
    advice: str
    place: str


def troubles() -> Iterator[Trouble]:
    """Every place that makes an error, by file and line."""
    for path in sorted((ROOT / "slamray").rglob("*.py")):
        name = path.relative_to(ROOT)
        package = name.parts[1] if len(name.parts) > 2 else ""
        kinds = {ERROR, OF_SETTINGS} if package == "config" else {ERROR}
        for function, text in _said(ast.parse(path.read_text()), kinds):
            if not re.search(r"[a-z]{2}", text):  # hands on what another place says
                continue
            wrong, _, advice = text.partition("; ")
            yield Trouble(package, wrong, advice, f"{name}, {function}" if function else str(name))


def _said(tree: ast.Module, kinds: set[str]) -> Iterator[tuple[str, str]]:
    """Function and words of every error that a module makes."""
    owners = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in kinds and node.args:
            around = [one for one in owners if one.lineno <= node.lineno <= (one.end_lineno or 0)]
            inner = max(around, key=lambda one: one.lineno, default=None)
            named = _named(inner) if inner else {}
            text = " ".join(_words(node.args[0], named).split())
            yield (inner.name if inner else ""), text


def _named(function: ast.AST) -> dict[str, ast.expr]:
    """Texts that a function gives a name to once."""
    found: dict[str, list[ast.expr]] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            found.setdefault(node.targets[0].id, []).append(node.value)
    texts = ast.JoinedStr | ast.BinOp | ast.IfExp
    return {
        name: values[0]
        for name, values in found.items()
        if len(values) == 1 and (isinstance(values[0], texts) or _is_text(values[0]))
    }


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _words(node: ast.expr, named: dict[str, ast.expr]) -> str:
    """What an expression says, with capitals for what is filled in."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_words(part, named) for part in parts)
        case ast.FormattedValue(value=inner):
            return _words(inner, named)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _words(left, named) + _words(right, named)
        case ast.Name(id=name) if name in named:
            return _words(named[name], {key: value for key, value in named.items() if key != name})
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name.strip("_").upper()
        case ast.Subscript(slice=ast.Constant(value=str(key))):
            return key.upper()
        case ast.IfExp(body=one, orelse=other):
            both = [text for text in (_words(one, named), _words(other, named)) if text.strip()]
            return " or ".join(both) if len(both) == 2 else REST
        case _:
            return REST


def page() -> str:
    """The document."""
    found: dict[str, dict[Trouble, None]] = {}
    for trouble in troubles():
        found.setdefault(trouble.package, {})[trouble] = None
    parts = [HEAD]
    for package in sorted(found, key=lambda name: ABOUT[name]):
        rows = [f"| {_cell(one.wrong)} | {_cell(one.advice)} | `{one.place}` |" for one in found[package]]
        parts.append(
            "\n".join([f"## {ABOUT[package]}", "", "| error | what to do | said by |", "|---|---|---|", *rows, ""])
        )
    return "\n".join(parts)


def _cell(text: str) -> str:
    return re.sub(r"([|<>*_`\[\]])", r"\\\1", text)


if __name__ == "__main__":
    PAGE.write_text(page())
