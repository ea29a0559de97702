"""A piece of text and its place in the sound: what voices, recordings and units have in common."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """Of a sentence, a word or a phone."""

    text: str
    start_seconds: float
    end_seconds: float
