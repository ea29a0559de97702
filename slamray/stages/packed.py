"""Stage `packed`: units to fixed rows of tokens, training and validation apart; the mixture of the training rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from slamray.config.corpora import RecordedSettings
from slamray.config.model import PackSettings
from slamray.config.tree import Recipe
from slamray.errors import BadInput
from slamray.speech.encoders.table import check_encoder
from slamray.stage.folder import Folder
from slamray.stage.stage import Inputs, Stage
from slamray.stage.work import Machine
from slamray.stages import corpus, recorded, units
from slamray.tokens.documents import Document, unit_document
from slamray.tokens.packing import join_packings, pack, pack_apart
from slamray.tokens.rows import MIXTURE, write_rows
from slamray.tokens.sampler import MixedSource, rows_per_round
from slamray.tokens.vocabulary import Vocabulary

TRAIN, VALIDATION = "train", "validation"
STORIES = "stories"  # the spoken documents, as a source of a mixture
SOURCES = {"recorded": "recordings"}  # of stages whose name is not their source's


def stage(recipe: Recipe, spoken: Stage, documents: Stage, recordings: Sequence[Stage]) -> Stage:
    """From all sources of units. documents: say which split each spoken one is of."""
    settings = {
        "pack": recipe.pack,
        "recorded_validation_share": recipe.recorded.validation_share,
        "vocabulary": check_encoder(recipe.speech.encoder).vocabulary,
    }
    return Stage("packed", run, settings, (spoken, documents, *recordings))


def run(
    inputs: Inputs,
    out: Folder,
    machine: Machine,
    pack: PackSettings,
    recorded_validation_share: float,
    vocabulary: Vocabulary,
) -> dict[str, Any]:
    """Pack each split's documents, in the order of their ids; facts count rows, tokens and targets of each split.

    With a mixture each source has training rows of its own, and the sampler reads them by their weights. Validation
    holds every source as it comes.
    """
    facts: dict[str, Any] = {}
    for split in (TRAIN, VALIDATION):
        found = read_units(inputs, split, recorded_validation_share)
        documents = {name: [unit_document(row, vocabulary) for row in rows] for name, rows in found.items()}
        if split == TRAIN and pack.mixture:
            facts[split] = write_mixture(out / split, documents, vocabulary, pack)
        else:
            together = [document for own in documents.values() for document in own]
            facts[split] = write_documents(out / split, together, vocabulary, pack, split)
    return facts


def read_units(inputs: Inputs, split: str, recorded_validation_share: float) -> dict[str, list[np.ndarray]]:
    """Deduplicated units of a split by source, by order of id: spoken stories, then each corpus of recordings."""
    wanted = {document.doc_id for document in corpus.read(inputs["corpus"], split)}
    spoken = sorted(units.by_id(inputs["units"]).items())
    found = {STORIES: [row for key, row in spoken if key in wanted]}
    for name, folder in inputs.items():
        if name not in ("units", "corpus"):
            rows = units.by_id(folder)
            splits = recorded.splits(folder, rows, recorded_validation_share)
            found[SOURCES.get(name, name)] = [row for key, row in sorted(rows.items()) if splits[key] == split]
    return found


def write_documents(
    folder: Folder, documents: Sequence[Document], vocabulary: Vocabulary, settings: PackSettings, split: str
) -> dict[str, Any]:
    """Pack documents; BadInput when a split is empty."""
    if not documents:
        raise BadInput(f"no {split} document to pack; bring more text or raise corpus.validation_share")
    lengths = np.array([len(document) for document in documents])
    packing = pack(lengths, settings.context, settings.row_tokens)
    return dict(write_rows(folder.path, documents, vocabulary, packing))


def write_mixture(
    folder: Folder,
    documents: Mapping[str, Sequence[Document]],
    vocabulary: Vocabulary,
    settings: PackSettings,
) -> dict[str, Any]:
    """Pack each source apart, and lay down how many of its rows a round reads so that its token share is its weight.

    Facts tell of each source its share, its tokens and how often a round reads them (`passes`). BadInput when a source
    with a weight has no documents.
    """
    weights = settings.mixture
    names = [name for name, weight in weights.items() if weight > 0]
    for name in names:
        if not documents.get(name):
            raise BadInput(f"pack.mixture: {name} has no training document; bring some, or set {name} to 0")
    together = [document for name in names for document in documents[name]]
    lengths = np.array([len(document) for document in together])
    packings = pack_apart(lengths, [len(documents[name]) for name in names], settings.context, settings.row_tokens)
    facts: dict[str, Any] = write_rows(folder.path, together, vocabulary, join_packings(packings))
    rows = [packing.rows for packing in packings]
    tokens = [int(packing.length_P.sum()) for packing in packings]
    per_round = rows_per_round([weights[name] for name in names], tokens, rows)
    firsts = np.cumsum(rows) - rows
    sources = [MixedSource(*source) for source in zip(names, firsts.tolist(), rows, per_round, strict=True)]
    folder.write_json(MIXTURE, [asdict(source) for source in sources])
    facts["sources"] = _shares(sources, tokens, weights)
    return facts


def _shares(sources: Sequence[MixedSource], tokens: Sequence[int], weights: Mapping[str, float]) -> dict[str, Any]:
    read = [source.per_round / source.rows * count for source, count in zip(sources, tokens, strict=True)]
    return {
        source.name: {
            "weight": weights[source.name],
            "token_share": given / sum(read),
            "tokens": count,
            "rows": source.rows,
            "rows_per_round": source.per_round,
            "passes": source.per_round / source.rows,
        }
        for source, given, count in zip(sources, read, tokens, strict=True)
    }


def source_names(given: RecordedSettings) -> list[str]:
    """The sources that a recipe's mixture may name."""
    plain = [SOURCES[recorded.PLAIN]] if given.paths else []
    return [STORIES, *plain, *recorded.given_corpora(given)]


def check_mixture(mixture: Mapping[str, float], given: Sequence[str]) -> None:
    """BadInput when a mixture names an unknown source, forgets one, or does not sum to one."""
    if not mixture:
        return
    unknown, forgotten = sorted(set(mixture) - set(given)), sorted(set(given) - set(mixture))
    if unknown:
        raise BadInput(f"pack.mixture: no source is called {' '.join(unknown)}; there are {' '.join(given)}")
    if forgotten:
        raise BadInput(f"pack.mixture: say the share of {' '.join(forgotten)} too (0 leaves it out)")
    if min(mixture.values()) < 0 or abs(sum(mixture.values()) - 1) > 1e-6:
        raise BadInput(f"pack.mixture: {dict(mixture)} are no shares: none below 0, and 1 together")
