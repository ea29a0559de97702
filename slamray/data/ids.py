"""Ids and draws that depend on content alone, so that neither order nor number of workers changes them."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def content_id(*parts: Any) -> str:
    """First 16 hex digits of the SHA-256 of the parts as JSON."""
    return text_id(json.dumps(parts, ensure_ascii=True))


def text_id(text: str) -> str:
    """First 16 hex digits of the SHA-256 of a text: a normalised document, or a recording's name."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def row_seed(seed: int, row_id: str) -> int:
    """A seed for one row, 32 bits."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{row_id}".encode()).digest()[:4], "big")


def split_of(row_id: str, validation_share: float, evaluation_share: float) -> str:
    """train, validation or evaluation, by the id alone: adding documents never moves one from one split to another.

    The last eight digits decide: a corpus may have been cut by its first digits (that of the assets was), and a share
    of what was cut away would be no share.
    """
    position = int(row_id[-8:], 16) / 2**32
    if position < evaluation_share:
        return "evaluation"
    return "validation" if position < evaluation_share + validation_share else "train"
