"""Units of utterances to documents of tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from slamray.tokens.vocabulary import BOS, Tokens


def join_units(parts: Sequence[npt.NDArray[np.integer]]) -> npt.NDArray[np.integer]:
    """Units of utterances that were encoded one by one, as one sequence: deduplicated across the joins too.

    The same sound goes on over a join (mostly silence), so its unit stands once, as it would in continuous speech.
    """
    units = np.concatenate([np.asarray(part) for part in parts]) if parts else np.zeros(0, np.uint16)
    return units[np.insert(units[1:] != units[:-1], 0, True)] if len(units) else units


def to_document(tokens: Tokens) -> Tokens:
    """`<S> t1 .. tT <S>`, once for a whole document, before it is cut (recipe.md 1.2)."""
    special = np.array([BOS], dtype=tokens.dtype)
    return np.concatenate([special, tokens, special])
