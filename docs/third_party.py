"""Write THIRD_PARTY.md: the licence of every locked package and of what ships in slamray/assets.

`python docs/third_party.py`, in an environment of requirements.lock: licences are what packages say of themselves.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageMetadata, PackageNotFoundError, metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCK, PAGE = ROOT / "requirements.lock", ROOT / "THIRD_PARTY.md"
OWN = "Apache-2.0"
# What cards of slamray/assets name as sources, with their licences.
ASSETS = (
    ("stories.jsonl.gz", "sampled from the TinyStories Llama of llama2.c", f"MIT (llama2.c), the stories {OWN}"),
    ("hubert-nano/, story-lm/, vocoder/", "trained from random weights on these stories, as hibari spoke them", OWN),
)
# Packages that say nothing of their licence in their metadata: what the LICENSE file of their source says.
UNSAID = {
    "cuda-toolkit": "names the nvidia packages alone",
    "huey": "MIT",
    "skops": "MIT",
}


def locked(text: str) -> list[tuple[str, str]]:
    """Name and version of each line of a lock."""
    return re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE)


def licence_of(package: PackageMetadata) -> str:
    """The licence expression, or what older metadata has: a classifier, or the first line of a text."""
    if "License-Expression" in package:
        return package["License-Expression"]
    classes = [kind.rpartition(" :: ")[2] for kind in package.get_all("Classifier") or () if kind.startswith("License")]
    named = [kind for kind in classes if kind != "OSI Approved"]
    if named:
        return ", ".join(named)
    text = package["License"].strip() if "License" in package else ""
    return text.splitlines()[0] if text else ""


def page() -> str:
    """The document. LookupError for a package that is not installed, or not as locked, or says nothing."""
    rows = []
    for name, version in locked(LOCK.read_text()):
        try:
            found = metadata(name)
        except PackageNotFoundError:
            raise LookupError(f"{name}: not installed; run make setup") from None
        if found["Version"].partition("+")[0] != version:
            raise LookupError(f"{name}: {found['Version']} is installed, {version} is locked; run make setup")
        licence = licence_of(found) or UNSAID.get(name, "")
        if not licence:
            raise LookupError(f"{name}: its metadata names no licence; look it up and add it to UNSAID")
        rows.append(f"| {name} | {version} | {licence.replace('|', '/')} |")
    assets = [f"| `{name}` | {source} | {licence} |" for name, source, licence in ASSETS]
    return "\n".join(
        [
            "# Third parties",
            "",
            "Made by `make third-party` from `requirements.lock` and what each package says of itself; do not edit.",
            f"slamray itself is {OWN} (`LICENSE`).",
            "",
            "## In the repository and the wheel",
            "",
            "| `slamray/assets/` | from | licence |",
            "|---|---|---|",
            *assets,
            "",
            "## Installed beside it",
            "",
            "| package | version | licence |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    PAGE.write_text(page())
