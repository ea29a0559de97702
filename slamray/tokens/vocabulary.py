"""The vocabulary: which ids mean text tokens, units and specials, and which tokeniser and centroids gave them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from slamray import store
from slamray.errors import BadInput

Tokens = npt.NDArray[np.unsignedinteger]
Ints = npt.NDArray[np.int64]
Units = npt.NDArray[np.integer]
Kind = Literal["specials", "text", "units"]

# The unit-only vocabulary (docs/paper.md 1.2): 500 units make 502 ids. <S> begins and ends a document.
PAD = 0
BOS = 1
FIRST_UNIT = 2
SPECIALS = ("<PAD>", "<S>")
# The tags of a joint vocabulary, in slamkit's order (tokeniser/interleaving_tokeniser.py at 388b402): each stands
# before a stretch of its modality.
TAGS = ("<speech>", "<text>")

FILE = "vocabulary.json"  # beside packed rows and beside preference pairs


@dataclass(frozen=True)
class Block:
    """Consecutive ids of one kind.

    identity: the names of specials, the checksum of the tokeniser of text tokens, the checksum of the centroids of
    units. Empty where it is not known, as in published checkpoints.
    """

    kind: Kind
    size: int
    identity: str = ""


@dataclass(frozen=True)
class Vocabulary:
    """What each id means: blocks of ids in their order, and the ids that pad and that delimit documents."""

    blocks: tuple[Block, ...]
    pad: int
    bos: int

    @classmethod
    def of_units(cls, n_units: int, identity: str = "") -> Vocabulary:
        """The unit-only vocabulary: <PAD>, <S>, then the units. identity: checksum of the centroids."""
        return cls((Block("specials", FIRST_UNIT, " ".join(SPECIALS)), Block("units", n_units, identity)), PAD, BOS)

    @classmethod
    def of_text(cls, size: int, pad: int, bos: int, identity: str) -> Vocabulary:
        """A text LM's vocabulary, its specials included. identity: checksum of the tokeniser."""
        return cls((Block("text", size, identity),), pad, bos)

    @classmethod
    def joint(cls, text: Vocabulary, units: Vocabulary) -> Vocabulary:
        """Text tokens, then units, then the tags, as slamkit's interleaved models have them; specials are the text's.

        text: a text LM's vocabulary; units: a unit-only one. Qwen2.5's 151,665 text tokens and 500 units make 152,167.
        """
        only = [block for side in (text, units) for block in side.blocks if block.kind in ("text", "units")]
        assert [block.kind for block in only] == ["text", "units"], "one block of text and one of units"
        return cls((*only, Block("specials", len(TAGS), " ".join(TAGS))), text.pad, text.bos)

    @property
    def is_joint(self) -> bool:
        """Whether it holds text and units."""
        return {"text", "units"} <= {block.kind for block in self.blocks}

    @property
    def units_alone(self) -> Vocabulary:
        """The unit-only vocabulary of its units: what a sound is compared by."""
        (units,) = (block for block in self.blocks if block.kind == "units")
        return Vocabulary.of_units(units.size, units.identity)

    @property
    def n_text(self) -> int:
        """How many text tokens there are, the text LM's specials included; their ids are the first."""
        return sum(block.size for block in self.blocks if block.kind == "text")

    @property
    def speech_tag(self) -> int:
        """The id that stands before units in a joint vocabulary."""
        return self._tag(0)

    @property
    def text_tag(self) -> int:
        """The id that stands before text in a joint vocabulary."""
        return self._tag(1)

    @property
    def text_ids(self) -> range:
        """The ids of text tokens, the text LM's specials included."""
        return range(self.n_text)

    @property
    def unit_ids(self) -> range:
        """The ids of units."""
        return range(self.first_unit, self.first_unit + self.n_units)

    @property
    def before_units(self) -> tuple[int, ...]:
        """The ids that begin a document of speech: <S>, and where there is text too the tag of speech."""
        return (self.bos, self.speech_tag) if self.is_joint else (self.bos,)

    def _tag(self, number: int) -> int:
        last = self.blocks[-1]
        assert self.is_joint and last.identity == " ".join(TAGS), f"{self} has no tags"
        return self.size - last.size + number

    @property
    def size(self) -> int:
        """Rows of the embedding."""
        return sum(block.size for block in self.blocks)

    @property
    def n_units(self) -> int:
        """How many units there are; 0 in a text LM's vocabulary."""
        return sum(block.size for block in self.blocks if block.kind == "units")

    @property
    def first_unit(self) -> int:
        """The id of unit 0."""
        kinds = [block.kind for block in self.blocks]
        assert "units" in kinds, "a text vocabulary has no units"
        return sum(block.size for block in self.blocks[: kinds.index("units")])

    @property
    def dtype(self) -> npt.DTypeLike:
        """The narrowest type that holds every id."""
        return np.uint16 if self.size <= 2**16 else np.uint32

    @property
    def checksum(self) -> str:
        """SHA-256 of everything that gives the ids their meaning."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def to_tokens(self, units: Units) -> Tokens:
        """Units (T,) to token ids (T,) of `dtype`."""
        units = np.asarray(units).astype(np.int64)
        assert not len(units) or 0 <= units.min() <= units.max() < self.n_units, f"a unit is not among {self.n_units}"
        return (units + self.first_unit).astype(self.dtype)

    def to_units(self, tokens: npt.NDArray[np.integer]) -> npt.NDArray[np.uint16]:
        """Units (T',) of the token ids (T,) that are units; other tokens are left out."""
        units = np.asarray(tokens).astype(np.int64) - self.first_unit
        return units[(units >= 0) & (units < self.n_units)].astype(np.uint16)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, the checksum among them."""
        blocks = [asdict(block) for block in self.blocks]
        return {"blocks": blocks, "pad": self.pad, "bos": self.bos, "checksum": self.checksum}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any], source: str) -> Vocabulary:
        """The inverse of `to_json`; BadInput that names the source where the checksum does not fit the content."""
        try:
            found = cls(tuple(Block(**block) for block in tree["blocks"]), tree["pad"], tree["bos"])
            intact = found.checksum == tree["checksum"]
        except (KeyError, TypeError) as error:
            raise BadInput(f"{source}: this is no vocabulary ({error})") from error
        if not intact:
            raise BadInput(f"{source}: the vocabulary was changed after it was written: its checksum differs")
        return found

    def __str__(self) -> str:
        """Such as `2 specials, 500 units (f4f057de)`."""
        blocks = [(f"{block.size} {block.kind}", _short(block)) for block in self.blocks]
        return ", ".join(f"{text} ({identity})" if identity else text for text, identity in blocks)


def _short(block: Block) -> str:
    return "" if block.kind == "specials" else block.identity[:8]


def reconcile(one: Vocabulary, other: Vocabulary, one_name: str, other_name: str) -> Vocabulary:
    """The vocabulary that both sides share; BadInput that names both and the first difference.

    An identity that one side does not know is taken from the other.
    """
    if difference := _difference(one, other):
        raise BadInput(
            f"{one_name} ({one}) and {other_name} ({other}) have different vocabularies: {difference}; "
            "use the encoder, k-means and tokeniser that the model was trained with"
        )
    pairs = zip(one.blocks, other.blocks, strict=True)
    return Vocabulary(tuple(a if a.identity else b for a, b in pairs), one.pad, one.bos)


def _difference(one: Vocabulary, other: Vocabulary) -> str:
    """The first difference in words; empty where there is none."""
    kinds = [" ".join(block.kind for block in side.blocks) for side in (one, other)]
    if kinds[0] != kinds[1]:
        return f"the order of ids is {kinds[0]} here, {kinds[1]} there"
    for a, b in zip(one.blocks, other.blocks, strict=True):
        if a.size != b.size:
            return f"{a.size} {a.kind} here, {b.size} there"
        if a.identity and b.identity and a.identity != b.identity:
            return f"the {a.kind} are {a.identity[:16]} here, {b.identity[:16]} there"
    if (one.pad, one.bos) != (other.pad, other.bos):
        return f"<PAD> and <S> are ids {one.pad} and {one.bos} here, {other.pad} and {other.bos} there"
    return ""


def write_vocabulary(folder: Path, vocabulary: Vocabulary) -> None:
    """Write `vocabulary.json` into a folder of rows or pairs."""
    store.write_json(folder / FILE, vocabulary.to_json())


def read_vocabulary(folder: Path) -> Vocabulary | None:
    """What `write_vocabulary` left; None in a folder without one (written before vocabularies were)."""
    path = folder / FILE
    return Vocabulary.from_json(store.read_json(path), str(path)) if path.exists() else None
