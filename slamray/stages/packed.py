"""Stage `packed`: units to fixed rows of tokens, training and validation apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from slamray.config import PackConfig
from slamray.errors import BadInput
from slamray.stage import Facts, Folders
from slamray.stages import units
from slamray.units import Tokens, to_document, to_tokens, write_rows

TRAIN, VALIDATION = "train", "validation"


def run(folders: Folders, out: Path, config: PackConfig, recorded_validation_share: float) -> Facts:
    """Pack each split's documents, in the order of their ids; facts count rows, tokens and targets."""
    return {
        split: write_documents(
            out / split,
            [to_document(to_tokens(row)) for _, row in units.read(folders, split, recorded_validation_share)],
            config.context,
            split,
        )
        for split in (TRAIN, VALIDATION)
    }


def write_documents(folder: Path, documents: Sequence[Tokens], context: int, split: str) -> dict[str, float]:
    """Pack documents of token ids; BadInput when a split is empty."""
    if not documents:
        raise BadInput(f"no {split} document to pack; bring more text or raise corpus.validation_share")
    return write_rows(folder, np.concatenate(documents), np.array([len(d) for d in documents]), context)
