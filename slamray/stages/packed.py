"""Stage `packed`: units to fixed rows of tokens, training and validation apart; the mixture of the training rows."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from slamray.config.corpora import RecordedSettings
from slamray.config.model import PackSettings
from slamray.config.tree import Recipe
from slamray.data.ids import split_of
from slamray.data.text import TRAIN, VALIDATION
from slamray.errors import BadInput
from slamray.speech.encoders.table import check_encoder
from slamray.stage.folder import Folder
from slamray.stage.stage import Inputs, Stage
from slamray.stage.tables import unit_parts
from slamray.stage.work import Machine
from slamray.stages import recorded
from slamray.tokens.documents import Documents, unit_documents
from slamray.tokens.packing import Packing, join_packings, pack, pack_apart
from slamray.tokens.rows import MIXTURE, Source, lengths_of, write_rows
from slamray.tokens.sampler import MixedSource, rows_per_round
from slamray.tokens.vocabulary import Vocabulary

STORIES = "stories"  # the spoken documents, as a source of a mixture
SOURCES = {"units": STORIES, "recorded": "recordings"}  # of stages whose name is not their source's


def stage(recipe: Recipe, spoken: Stage, recordings: Sequence[Stage]) -> Stage:
    """From all sources of units."""
    settings = {
        "pack": recipe.pack,
        "recorded_validation_share": recipe.recorded.validation_share,
        "vocabulary": check_encoder(recipe.speech.encoder).vocabulary,
    }
    return Stage("packed", run, settings, (spoken, *recordings))


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
    work = partial(_packed, inputs, out, pack, recorded_validation_share, vocabulary)
    return pack_apart_from_driver(machine, "packed", work)


def pack_apart_from_driver(machine: Machine, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Facts of what is packed in a process of its own, so that the driver holds nothing that grows with the corpus.

    It asks for no core: speech that goes on beside it may hold them all.
    """
    facts: dict[str, Any] = machine.call(name, work, cpus=0)
    return facts


def _packed(
    inputs: Inputs, out: Folder, pack: PackSettings, recorded_validation_share: float, vocabulary: Vocabulary
) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for split in (TRAIN, VALIDATION):
        sources = read_units(inputs, split, recorded_validation_share, vocabulary)
        if split == TRAIN and pack.mixture:
            facts[split] = write_mixture(out / split, sources, vocabulary, pack)
        else:
            advice = _advice(inputs, split)
            facts[split] = write_documents(out / split, partial(_chained, sources), vocabulary, pack, split, advice)
    return facts


def read_units(
    inputs: Inputs, split: str, recorded_validation_share: float, vocabulary: Vocabulary
) -> dict[str, Source]:
    """The documents of a split by source, in the order of its parts: spoken stories, then each corpus of recordings."""
    return {
        SOURCES.get(name, name): partial(_documents, folder, split, recorded_validation_share, vocabulary)
        for name, folder in inputs.items()
    }


def _documents(folder: Folder, split: str, validation_share: float, vocabulary: Vocabulary) -> Iterator[Documents]:
    """One part of units after the other; a recording whose corpus has no splits is of the one that its id says."""
    for table in unit_parts(folder, ["utterance_id", "split", "units"]):
        known = table["split"].to_pylist()
        ids = table["utterance_id"].to_pylist() if "" in known else known
        of_it = [(has or split_of(key, validation_share, 0.0)) == split for key, has in zip(ids, known, strict=True)]
        units = table["units"].filter(pa.array(of_it, pa.bool_())).combine_chunks()
        if len(units):
            lengths_D = units.value_lengths().to_numpy()
            yield unit_documents(units.flatten().to_numpy(), lengths_D, vocabulary)


def _chained(sources: Mapping[str, Source]) -> Iterator[Documents]:
    return itertools.chain.from_iterable(source() for source in sources.values())


def write_documents(
    folder: Folder, documents: Source, vocabulary: Vocabulary, settings: PackSettings, split: str, advice: str = ""
) -> dict[str, Any]:
    """Pack documents; BadInput, which says the advice, when a split is empty."""
    lengths_D = lengths_of(documents)
    if not len(lengths_D):
        raise BadInput(advice or f"no {split} document to pack; bring more of them")
    packing = pack(lengths_D, settings.context, settings.row_tokens)
    return _written(folder, documents, vocabulary, packing)


def _advice(inputs: Inputs, split: str) -> str:
    """What is said where a split has no document, by what the sources hold."""
    counts = {name: sum(len(table) for table in unit_parts(folder, ["split"])) for name, folder in inputs.items()}
    recordings = {name: count for name, count in counts.items() if SOURCES.get(name) != STORIES and count}
    if split == VALIDATION:
        key = "recorded.validation_share" if recordings else "corpus.validation_share"
        return f"no validation document to pack; bring more, or raise {key}"
    if recordings:
        return recorded.no_training(recordings)
    return "no training document to pack; bring more text, or lower corpus.validation_share and corpus.evaluation_share"


def write_mixture(
    folder: Folder,
    sources: Mapping[str, Source],
    vocabulary: Vocabulary,
    settings: PackSettings,
    key: str = "pack.mixture",
) -> dict[str, Any]:
    """Pack each source apart, and lay down how many of its rows a round reads so that its token share is its weight.

    Facts tell of each source its share, its tokens and how often a round reads them (`passes`). BadInput when a source
    with a weight has no documents. key: of the weights, for messages.
    """
    weights = settings.mixture
    names = [name for name, weight in weights.items() if weight > 0]
    lengths = [lengths_of(sources[name]) if name in sources else np.zeros(0, np.int64) for name in names]
    for name, lengths_D in zip(names, lengths, strict=True):
        if not len(lengths_D):
            raise BadInput(f"{key}: {name} has no training document; bring some, or set {name} to 0")
    together = np.concatenate(lengths)
    packings = pack_apart(together, [len(own) for own in lengths], settings.context, settings.row_tokens)
    chosen = {name: sources[name] for name in names}
    facts = _written(folder, partial(_chained, chosen), vocabulary, join_packings(packings))
    rows = [packing.rows for packing in packings]
    tokens = [int(packing.length_P.sum()) for packing in packings]
    per_round = rows_per_round([weights[name] for name in names], tokens, rows)
    firsts = np.cumsum(rows) - rows
    mixed = [MixedSource(*source) for source in zip(names, firsts.tolist(), rows, per_round, strict=True)]
    folder.write_json(MIXTURE, [asdict(source) for source in mixed])
    facts["sources"] = _shares(mixed, tokens, weights)
    return facts


def _written(folder: Folder, documents: Source, vocabulary: Vocabulary, packing: Packing) -> dict[str, Any]:
    """Facts of rows that are written."""
    facts: dict[str, Any] = {}
    folder.write_tree("", lambda path: facts.update(write_rows(path, documents, vocabulary, packing)))
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
