"""The code of a page of docs/, so that a test can follow the page."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def code_blocks(page: str, section: str) -> list[tuple[str, str]]:
    """Every block of code below a heading `## section`: where it goes (its first line) and the rest."""
    text = (DOCS / page).read_text()
    (body,) = re.findall(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return re.findall(r"^```(?:python|yaml)\n# (.+?)\n(.*?)^```", body, re.MULTILINE | re.DOTALL)
