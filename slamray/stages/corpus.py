"""Stage `corpus`: every document of the sources, normalised, cut into sentences, split by id."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from slamray.config.corpora import TEXT_SUFFIXES, CorpusSettings
from slamray.config.listing import find_files
from slamray.config.tree import Recipe
from slamray.data.text import SPLITS, TextDocument, read_documents, to_document
from slamray.stage.folder import Folder
from slamray.stage.parts import PartWriter, in_lists, read_parts
from slamray.stage.records import from_table, schema_of, to_table
from slamray.stage.stage import Inputs, Stage
from slamray.stage.tables import check_bad_share, write_quarantine
from slamray.stage.work import Machine

RUNS = ".runs"  # in the stage's scratch folder: sorted stretches of documents that are not merged yet
RUN_DOCUMENTS = 16_384  # held in memory at once; 50,000 took 0.3 GB more (docs/results/scale.md)
RUN_GROUP_ROWS = 64  # what is held of each run that is merged; 256 took 1 MB of a run in place of 0.4
OPEN_RUNS = 256  # merged at once: so many files are open; chosen, not tuned
MERGED_DOCUMENTS = 4096  # made at once by merging; chosen, not tuned
COLUMNS = schema_of(TextDocument)


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
    return Stage("corpus", run, {"corpus": recipe.corpus}, version=3)


def text_stage(recipe: Recipe, documents: Stage) -> Stage:
    """Of the text that a model of text and speech reads: a corpus of its own, or the stories' documents."""
    text = recipe.joint.text
    return documents if text is None else Stage("text_corpus", run, {"corpus": text}, version=2)


def text_lm_stage(recipe: Recipe, documents: Stage) -> Stage:
    """Of the text that a small text LM reads: a corpus of its own, or the stories' documents."""
    text = recipe.assets.text_lm.text
    return documents if text is None else Stage("text_lm_corpus", run, {"corpus": text}, version=3)


def run(inputs: Inputs, out: Folder, machine: Machine, corpus: CorpusSettings) -> CorpusFacts:
    """Read all sources; good rows to a table for each split by order of id, bad ones to quarantine with the reason.

    Documents are sorted by merging: memory holds one stretch of them, however many there are.
    """
    bad: list[dict[str, str]] = []
    scratch = Folder(out.scratch())
    scratch.remove(RUNS)
    for number, documents in enumerate(in_lists(_good(corpus, bad), RUN_DOCUMENTS)):
        documents.sort(key=lambda document: document.doc_id)  # stable: of equal texts the first one read stays first
        run = to_table(documents, TextDocument)
        scratch.write_table(f"{RUNS}/{number:06d}.parquet", run, group_rows=RUN_GROUP_ROWS)
    write_quarantine(out, bad)
    found = _Counter()
    with ExitStack() as open_parts:
        parts = {split: open_parts.enter_context(PartWriter(out, split, COLUMNS)) for split in SPLITS}
        for some in _in_order(scratch):
            distinct = found.distinct(some)
            for split, part in parts.items():
                part.add(distinct.filter(pc.field("split") == split))
        check_bad_share(bad, found.read + len(bad), corpus.max_bad_share, "corpus.max_bad_share")
    scratch.remove(RUNS)
    splits = {split: part.rows for split, part in parts.items()}
    return CorpusFacts(sum(splits.values()), found.words, found.duplicates, len(bad), **splits)


class _Counter:
    """Leaves out documents whose text was there before, and counts."""

    def __init__(self) -> None:
        self.read = self.words = self.duplicates = 0
        self._last = ""

    def distinct(self, in_order: pa.Table) -> pa.Table:
        """Those of the next documents that are not the same as the one before."""
        ids = in_order["doc_id"].to_pylist()
        new = [one != before for before, one in zip([self._last, *ids], ids, strict=False)]
        found = in_order.filter(pa.array(new, pa.bool_()))
        sentences = pc.list_flatten(found["sentences"])
        spaces = pc.sum(pc.count_substring(sentences, " ")).as_py() or 0
        self._last = ids[-1]
        self.read += len(ids)
        self.words += spaces + len(sentences)
        self.duplicates += len(ids) - len(found)
        return found


def _in_order(scratch: Folder) -> Iterator[pa.Table]:
    """The documents of all runs by their ids, some thousand at a time; of equal ones the first that was read first."""
    names = scratch.names(f"{RUNS}/*.parquet")
    while len(names) > OPEN_RUNS:
        names = [_longer_run(scratch, some) for some in in_lists(names, OPEN_RUNS)]
    return _merged(scratch, names)


def _longer_run(scratch: Folder, names: Sequence[str]) -> str:
    """Merge runs that follow each other to one, which takes the place of the first."""
    path = scratch.fetch(names[0])
    beside = path.with_suffix(".merged")
    with pq.ParquetWriter(beside, COLUMNS, compression="zstd") as writer:
        for some in _merged(scratch, names):
            writer.write_table(some, row_group_size=RUN_GROUP_ROWS)
    for name in names:
        scratch.remove(name)
    beside.replace(path)
    return names[0]


def _merged(scratch: Folder, names: Sequence[str]) -> Iterator[pa.Table]:
    """Memory holds the ids, 8 bytes each, and of each run what is read at a time."""
    ids = [_numbers(scratch.read_table(name, ["doc_id"])["doc_id"]) for name in names]
    run_D = np.repeat(np.arange(len(names), dtype=np.int32), [len(own) for own in ids])
    order_D = np.argsort(np.concatenate([np.zeros(0, ">u8"), *ids]), kind="stable")
    readers = [_Reader(scratch, name) for name in names]
    for first in range(0, len(order_D), MERGED_DOCUMENTS):
        run_M = run_D[order_D[first : first + MERGED_DOCUMENTS]]
        counts = np.bincount(run_M, minlength=len(names)).tolist()
        rows = [reader.take(count) for reader, count in zip(readers, counts, strict=True)]
        place_M = np.empty(len(run_M), np.int64)
        place_M[np.argsort(run_M, kind="stable")] = np.arange(len(run_M))
        yield pa.concat_tables(rows).take(pa.array(place_M))


def _numbers(ids: pa.ChunkedArray) -> np.ndarray:
    """Ids of 16 hexadecimal digits as numbers of the same order."""
    return np.frombuffer(bytes.fromhex("".join(ids.to_pylist())), ">u8")


class _Reader:
    """Reads a run from its first document to its last."""

    def __init__(self, scratch: Folder, name: str) -> None:
        # or the whole run is read before its first batch: 15 MB of each
        self._batches = pq.ParquetFile(scratch.fetch(name), pre_buffer=False).iter_batches(RUN_GROUP_ROWS)
        self._waiting = COLUMNS.empty_table()

    def take(self, count: int) -> pa.Table:
        """The next documents."""
        while len(self._waiting) < count:
            self._waiting = pa.concat_tables([self._waiting, pa.Table.from_batches([next(self._batches)])])
        found, self._waiting = self._waiting.slice(0, count), self._waiting.slice(count)
        return found


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


def read(folder: Folder, split: str, at_most: int = 0) -> Iterator[TextDocument]:
    """Documents of one split, by order of id (a random draw, for ids are hashes); 0 reads all."""
    documents = (document for table in read_parts(folder, split) for document in from_table(table, TextDocument))
    return itertools.islice(documents, at_most or None)
