"""The code of a page of docs/, so that a test can follow the page."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def code_blocks(page: str, section: str) -> list[tuple[str, str]]:
    """Blocks of code below a heading `## section`: the file that the line before one names, if any, and the code."""
    text = (DOCS / page).read_text()
    (body,) = re.findall(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    blocks = re.findall(r"^([^\n]+):\n\n```(?:python|yaml)\n(.*?)^```", body, re.MULTILINE | re.DOTALL)
    return [((re.findall(r"`([\w/.]+)`", title) or [""])[-1], code) for title, code in blocks]
