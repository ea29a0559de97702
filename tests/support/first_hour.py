"""docs/start.md as its reader has it: the commands that are typed, what is shown below them, and the folder `my/`."""

from __future__ import annotations

import json
import re
from itertools import islice
from pathlib import Path

import soundfile

from slamray.config.base import ASSETS, asset_path
from slamray.data.text import read_documents
from slamray.speech.audio import RATE_HZ

PAGE = Path(__file__).parents[2] / "docs" / "start.md"


def shown() -> list[tuple[str, list[str]]]:
    """Every command of the page that is typed, and the lines that are shown below it."""
    blocks = re.findall(r"^```console\n\$ (.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return [(block.splitlines()[0], block.splitlines()[1:]) for block in blocks]


def is_printed(line: str, printed: str) -> bool:
    """Whether a line that is shown is there; `...` stands for what differs, and blanks for blanks."""
    parts = (re.escape(part).replace(r"\.\.\.", ".*?") for part in line.split())
    return re.search(r"\s+".join(parts), printed) is not None


def make_my(folder: Path, seconds: int) -> None:
    """`my/` in a folder: 120 stories as JSON lines, and three recordings of so many seconds."""
    (folder / "my" / "recordings").mkdir(parents=True)
    stories = islice(read_documents(asset_path(f"{ASSETS}stories.jsonl.gz"), "text"), 120)
    (folder / "my" / "stories.jsonl").write_text("".join(json.dumps({"text": one.text}) + "\n" for one in stories))
    for number in range(3):
        sound = [0.1 * ((n * (number + 3)) % 50 - 25) / 25 for n in range(seconds * RATE_HZ)]
        soundfile.write(folder / "my" / "recordings" / f"{number}.flac", sound, RATE_HZ)
