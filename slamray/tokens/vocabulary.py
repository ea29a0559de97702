"""The unit vocabulary: ids of padding, of the special and of the units."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# recipe.md 1.2: <PAD>=0, <S>=1 is both the first and the last token of a document, units follow: 500 units -> 502 rows.
PAD = 0
BOS = 1
FIRST_UNIT = 2
Tokens = npt.NDArray[np.unsignedinteger]
Ints = npt.NDArray[np.int64]


def vocab_size(n_units: int) -> int:
    """Rows of the embedding: units and the two specials."""
    return n_units + FIRST_UNIT


def to_tokens(units: npt.NDArray[np.integer]) -> Tokens:
    """Units (T,) to token ids (T,) uint16."""
    assert int(units.max(initial=0)) + FIRST_UNIT < 2**16
    return (units.astype(np.int64) + FIRST_UNIT).astype(np.uint16)
