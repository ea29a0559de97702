"""Stage `corpus`: every document of the sources, normalised, cut into sentences, split by id."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from heapq import merge

import pyarrow as pa
import pyarrow.parquet as pq

from slamray.config.corpora import TEXT_SUFFIXES, CorpusSettings
from slamray.config.outside import find_files
from slamray.config.tree import Recipe
from slamray.data.text import SPLITS, TextDocument, read_documents, to_document
from slamray.stage.folder import Folder
from slamray.stage.parts import GROUP_ROWS, PartWriter, in_lists, read_parts
from slamray.stage.records import from_table, to_table
from slamray.stage.stage import Inputs, Stage
from slamray.stage.tables import check_bad_share, write_quarantine
from slamray.stage.work import Machine

RUNS = ".runs"  # in the stage's scratch folder: sorted stretches of documents that are not merged yet
RUN_DOCUMENTS = 100_000  # held in memory at once, 200 MB of stories; chosen, not tuned


@dataclass(frozen=True)
class CorpusFacts:
    """Documents of each split, and rows that are none."""

    documents: int
    words: int
    duplicates: int
    quarantined: int
    train: int
    validation: int
    evaluation: int


def stage(recipe: Recipe) -> Stage:
    """From what lies outside the run; it has no inputs."""
    return Stage("corpus", run, {"corpus": recipe.corpus}, version=2)


def run(inputs: Inputs, out: Folder, machine: Machine, corpus: CorpusSettings) -> CorpusFacts:
    """Read all sources; good rows to a table for each split by order of id, bad ones to quarantine with the reason.

    Documents are sorted by merging: memory holds one stretch of them, however many there are.
    """
    bad: list[dict[str, str]] = []
    scratch = Folder(out.scratch())
    scratch.remove(RUNS)
    for number, documents in enumerate(in_lists(_good(corpus, bad), RUN_DOCUMENTS)):
        documents.sort(key=lambda document: document.doc_id)  # stable: of equal texts the first one read stays first
        scratch.write_table(f"{RUNS}/{number:05d}.parquet", to_table(documents, TextDocument), group_rows=GROUP_ROWS)
    write_quarantine(out, bad)
    runs = scratch.names(f"{RUNS}/*.parquet")
    found = _Counter()
    with ExitStack() as open_parts:
        parts = {split: open_parts.enter_context(PartWriter(out, split, TextDocument)) for split in SPLITS}
        for document in found.distinct(merge(*(_read(scratch, name) for name in runs), key=lambda d: d.doc_id)):
            parts[document.split].add(document)
        check_bad_share(bad, found.read + len(bad), corpus.max_bad_share, "corpus.max_bad_share")
    scratch.remove(RUNS)
    splits = {split: part.rows for split, part in parts.items()}
    return CorpusFacts(sum(splits.values()), found.words, found.duplicates, len(bad), **splits)


class _Counter:
    """Leaves out documents whose text was there before, and counts."""

    def __init__(self) -> None:
        self.read = self.words = self.duplicates = 0

    def distinct(self, in_order: Iterable[TextDocument]) -> Iterator[TextDocument]:
        last = ""
        for document in in_order:
            self.read += 1
            if document.doc_id == last:
                self.duplicates += 1
                continue
            last = document.doc_id
            self.words += sum(sentence.count(" ") + 1 for sentence in document.sentences)
            yield document


def _good(corpus: CorpusSettings, bad: list[dict[str, str]]) -> Iterator[TextDocument]:
    """The documents of all sources as they come; rows that are none are added to `bad`."""
    for file in find_files(corpus.paths, "corpus.paths", TEXT_SUFFIXES):
        for raw in read_documents(file.path, corpus.text_column):
            document = to_document(
                raw, corpus.min_words, corpus.max_words, corpus.validation_share, corpus.evaluation_share
            )
            if isinstance(document, str):
                bad.append({"id": raw.place, "reason": document})
            else:
                yield document


def _read(scratch: Folder, name: str) -> Iterator[TextDocument]:
    with pq.ParquetFile(scratch.fetch(name)) as file:
        for batch in file.iter_batches(GROUP_ROWS):
            yield from from_table(pa.Table.from_batches([batch]), TextDocument)


def read(folder: Folder, split: str, at_most: int = 0) -> Iterator[TextDocument]:
    """Documents of one split, by order of id (a random draw, for ids are hashes); 0 reads all."""
    documents = (document for table in read_parts(folder, split) for document in from_table(table, TextDocument))
    return itertools.islice(documents, at_most or None)
