"""A copy of the package to which the examples of docs/extend.md are applied as a reader would apply them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

ROOT = Path(__file__).parents[2]
_EXAMPLE = re.compile(r"^`(slamray/[\w/.]+)`:\n\n```(python|diff)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def follow(page: Path, section: str, folder: Path) -> Path:
    """Copy slamray into the folder and apply the section's examples: whole files, and changes of existing ones."""
    ignored = shutil.ignore_patterns("__pycache__", "assets")
    shutil.copytree(ROOT / "slamray", folder / "slamray", ignore=ignored, dirs_exist_ok=True)
    (folder / "slamray" / "assets").symlink_to(ROOT / "slamray" / "assets")
    (text,) = (part for part in re.split("^## ", page.read_text(), flags=re.MULTILINE) if part.startswith(section))
    examples = _EXAMPLE.findall(text)
    assert examples, f"{page}: section {section} shows no file"
    for name, kind, content in examples:
        path = folder / name
        if kind == "python":
            assert not path.exists(), f"{name} is there already"
            path.write_text(content)
        else:
            path.write_text(changed(path.read_text(), content, name))
    return folder


def changed(text: str, change: str, name: str) -> str:
    """The text after a change in the form of a diff: lines to keep, to remove (-) and to add (+)."""
    lines = change.splitlines()
    assert {line[:1] for line in lines} <= set(" +-"), f"{name}: every line of a change begins with a blank, + or -"
    before = "".join(line[1:] + "\n" for line in lines if line[0] != "+")
    after = "".join(line[1:] + "\n" for line in lines if line[0] != "-")
    assert text.count(before) == 1, f"{name} holds {text.count(before)} times:\n{before}"
    return text.replace(before, after)
