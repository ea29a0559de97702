"""Stage `documents`: text and speech as documents of a joint vocabulary, in every kind that the recipe reads.

Parts of the corpus's text and of units go to actors, each of which leaves one file a part (the kernel is in
joint_kernel.py). A text is tokenised here, once; no string travels or stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from slamray.config.base import Located, part_of
from slamray.config.joint import InterleaveSettings, Kind
from slamray.config.model import BaseSettings
from slamray.config.tree import Recipe
from slamray.data.text import TRAIN, VALIDATION
from slamray.stage.folder import Folder
from slamray.stage.parts import Part, part_file, parts_of, read_parts
from slamray.stage.stage import Inputs, Stage
from slamray.stage.tables import QUARANTINE, UNITS
from slamray.stage.work import Machine, Pool
from slamray.tokens.documents import Documents
from slamray.tokens.vocabulary import FILE, Vocabulary

TEXTS = ("corpus", "text_corpus")  # stages of text, one of which is an input
TEXT, AUDIO = "text", "audio"  # what a part's documents are made from
SCHEMA = pa.schema(
    [
        ("kind", pa.string()),
        ("doc_id", pa.string()),
        ("ids", pa.list_(pa.uint32())),
        ("mask", pa.list_(pa.bool_())),  # null: every id is a target
    ]
)


@dataclass(frozen=True)
class PartOfDocuments:
    """The first `rows` rows of a Parquet file, of the corpus or of units, and where their documents go.

    file: below the stage's folder `out`, an address. validation_share: of rows that say no split.
    """

    path: str
    rows: int
    source: str
    split: str
    validation_share: float
    out: str
    file: str


@dataclass(frozen=True)
class PartDone:
    """A part whose documents lie in the stage's folder."""

    file: str


@dataclass(frozen=True)
class KindFacts:
    """Of one kind and split."""

    kind: str
    split: str
    documents: int
    tokens: int
    targets: int


def stage(recipe: Recipe, documents: Stage, spoken: Sequence[Stage], vocabulary: Vocabulary) -> Stage:
    """From the text of the corpus, and from what was spoken or recorded."""
    tokeniser = part_of(recipe.model, BaseSettings)
    joint = recipe.joint
    settings = {
        "kinds": [kind for kind in get_args(Kind) if joint.makes(kind) and kind != "synthetic"],
        "interleave": joint.interleave,
        "pair_pieces": joint.pair_pieces,
        "text_documents": joint.text_documents,
        "base": Located(lambda: None, tokeniser),  # what it makes of a text is known by the vocabulary's checksum
        "vocabulary": vocabulary,
        "validation_documents": recipe.speech.validation_documents,
        "recorded_validation_share": recipe.recorded.validation_share,
    }
    return Stage("documents", run, settings, (documents, *spoken))


def run(
    inputs: Inputs,
    out: Folder,
    machine: Machine,
    kinds: Sequence[Kind],
    interleave: InterleaveSettings,
    pair_pieces: tuple[int, int],
    text_documents: int,
    base: Located,
    vocabulary: Vocabulary,
    validation_documents: int,
    recorded_validation_share: float,
) -> dict[str, Any]:
    """A table of documents for each split and source; facts count documents and tokens of each kind."""
    (text,) = (inputs[name] for name in TEXTS if name in inputs)
    audio = {name: folder for name, folder in inputs.items() if name not in TEXTS}
    limits = {TRAIN: text_documents, VALIDATION: validation_documents}
    todo: list[PartOfDocuments] = []
    for split, limit in limits.items():
        texts = parts_of(text, split, limit) if "text" in kinds else []
        todo += _parts(texts, TEXT, "", split, recorded_validation_share, out)
        for name, folder in audio.items():
            todo += _parts(parts_of(folder, UNITS), AUDIO, name, split, recorded_validation_share, out)
    missing = [part for part in todo if not out.exists(part.file)]
    args = {
        "kinds": kinds,
        "interleave": interleave,
        "pair_pieces": pair_pieces,
        "base": base.place,
        "vocabulary": vocabulary,
    }
    pool = Pool("slamray.stages.joint_kernel:MakeDocuments", args, machine.compute.tts_actors)
    machine.rows("documents", missing, [pool], len(todo), "parts")
    out.write_json(FILE, vocabulary.to_json())
    return {"kinds": [asdict(_count(out, split, kind)) for split in limits for kind in kinds]}


def _parts(
    parts: Sequence[Part], source: str, name: str, split: str, validation_share: float, out: Folder
) -> Iterator[PartOfDocuments]:
    table = "-".join(filter(None, (source, name)))
    for number, part in enumerate(parts):
        file = part_file(f"{split}/{table}", number)
        yield PartOfDocuments(part.path, part.rows, source, split, validation_share, str(out), file)


def read(folder: Folder, split: str, kind: str, stage: str = "") -> Iterator[Documents]:
    """The documents of one kind, some at a time, always in the same order; of what one stage has heard, if it is said.

    stage: that spoke or read the sound, `units` or of recordings.
    """
    for table in _tables(folder, split, kind, stage):
        ids, mask = table["ids"].combine_chunks(), table["mask"].combine_chunks()
        if not len(ids):
            continue
        flat = mask.flatten().to_numpy(zero_copy_only=False) if not mask.null_count else None
        yield Documents(ids.flatten().to_numpy(), flat, ids.value_lengths().to_numpy().astype(np.int64))


def _tables(folder: Folder, split: str, kind: str, stage: str) -> Iterator[pa.Table]:
    sources = {name.split("/")[-2] for name in folder.names(f"{split}/*/part-*.parquet")} - {QUARANTINE}
    for source in sorted(sources):
        if stage and source != f"{AUDIO}-{stage}":
            continue
        yield from read_parts(folder, f"{split}/{source}", ["ids", "mask"], pc.field("kind") == kind)


def _count(folder: Folder, split: str, kind: str) -> KindFacts:
    documents = tokens = targets = 0
    for some in read(folder, split, kind):
        documents, tokens = documents + len(some.lengths_D), tokens + len(some.ids)
        learned = len(some.ids) - len(some.lengths_D) if some.mask is None else int(some.mask.sum())
        targets += learned
    return KindFacts(kind, split, documents, tokens, targets)
