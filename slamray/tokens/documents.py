"""A document: token ids, and a loss mask that says which of them a model is trained to predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from slamray.tokens.vocabulary import Tokens, Units, Vocabulary

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Document:
    """Token ids (T,) uint16 or uint32, and a loss mask (T,) bool: True where the id is a target.

    mask None: every id is a target. The first id of a sequence is never one, for nothing predicts it.
    """

    ids: Tokens
    mask: Mask | None = None

    def __post_init__(self) -> None:
        assert self.mask is None or self.mask.shape == self.ids.shape, "a mask has a value for each id"

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def targets(self) -> Mask:
        """(T,) bool: the mask with its first place False."""
        found = np.ones(len(self), np.bool_) if self.mask is None else self.mask.copy()
        found[:1] = False
        return found


def join_units(parts: Sequence[Units]) -> Units:
    """Units of utterances that were encoded one by one, as one sequence: deduplicated across the joins too.

    The same sound goes on over a join (mostly silence), so its unit stands once, as it would in continuous speech.
    """
    units = np.concatenate([np.asarray(part) for part in parts]) if parts else np.zeros(0, np.uint16)
    return units[np.insert(units[1:] != units[:-1], 0, True)] if len(units) else units


def delimit(ids: Tokens, vocabulary: Vocabulary) -> Document:
    """`<S> t1 .. tT <S>`, every id a target: once for a whole document, before it is cut (docs/paper.md 1.2)."""
    special = np.array([vocabulary.bos], dtype=ids.dtype)
    return Document(np.concatenate([special, ids, special]))


def unit_document(units: Units, vocabulary: Vocabulary) -> Document:
    """`<S> u1 .. uT <S>` of units; in a joint vocabulary `<S> <speech> u1 .. uT <S>`."""
    begin = np.array(vocabulary.before_units, vocabulary.dtype)
    return Document(np.concatenate([begin, vocabulary.to_tokens(units), begin[:1]]))


@dataclass(frozen=True)
class Documents:
    """Some documents end to end: ids (T,), a loss mask (T,) or None as of one document, tokens of each (D,) int64."""

    ids: Tokens
    mask: Mask | None
    lengths_D: npt.NDArray[np.int64]


def join(documents: Sequence[Document]) -> Documents:
    """Documents end to end; the mask is None where none of them masks out an id that something predicts."""
    ids = np.concatenate([document.ids for document in documents])
    lengths_D = np.array([len(document) for document in documents], np.int64)
    if all(document.mask is None or document.mask[1:].all() for document in documents):
        return Documents(ids, None, lengths_D)
    masks = [np.ones(len(d), np.bool_) if d.mask is None else d.mask for d in documents]
    return Documents(ids, np.concatenate(masks), lengths_D)


def unit_documents(units: Units, lengths_D: npt.NDArray[np.integer], vocabulary: Vocabulary) -> Documents:
    """The documents of utterances whose units (T,) lie end to end, so many of each: `unit_document` of all at once.

    Of a vocabulary of units alone.
    """
    assert not vocabulary.is_joint, "stages/joint_kernel.py makes documents of text and speech"
    tokens_D = np.asarray(lengths_D).astype(np.int64) + 2
    ends_D = np.cumsum(tokens_D)
    ids = np.full(len(units) + 2 * len(tokens_D), vocabulary.bos, vocabulary.dtype)
    inside = np.ones(len(ids), np.bool_)
    inside[ends_D - 1] = inside[ends_D - tokens_D] = False
    ids[inside] = vocabulary.to_tokens(units)
    return Documents(ids, None, tokens_D)
