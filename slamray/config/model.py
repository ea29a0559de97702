"""Settings of packed rows and of the unit LM."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from slamray.config.base import Settings
from slamray.config.outside import Revision, model_field


class PackSettings(Settings):
    """How documents are packed into rows of a fixed length."""

    context: int = Field(1024, ge=16, le=131072, description="most tokens of a piece of a document (Table 4)")
    contexts_per_row: int = Field(
        1,
        ge=1,
        description="a packed row is this many contexts long, of pieces of at most one: long rows leave less padding",
    )
    mixture: dict[str, float] = Field(
        {},
        description="share of the training tokens of each source (stories, recordings, or a corpus named under "
        "recorded); empty: every token once in an epoch",
    )

    @property
    def row_tokens(self) -> int:
        """Tokens of a packed row, padding included."""
        return self.context * self.contexts_per_row


class BaseSettings(Settings):
    """The text LM."""

    base: Annotated[str, model_field("model.base")] = Field(
        "Qwen/Qwen2.5-0.5B",
        description="text LM to start from: hub id or folder (Table 4), or without TWIST shape:NAME of families.py",
    )
    revision: Revision = Field(None, description="commit of the hub id; null: as the first run finds it")


class ModelSettings(BaseSettings):
    """The text LM and how it becomes a unit LM (docs/paper.md 1.3)."""

    twist: bool = Field(
        True, description="start from the text LM's weights; false: keep its shape and draw all weights anew"
    )
    embedding: Literal["first_rows", "mean", "normal"] = Field(
        "first_rows",
        description="where unit embeddings start: first rows of the text embedding (slamkit), its mean, or fresh",
    )
    rope_theta: float | None = Field(
        10_000.0, gt=0, description="RoPE base; null keeps the text LM's (docs/paper.md 1.5: 10 000)"
    )
