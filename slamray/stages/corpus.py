"""Stage `corpus`: every document of the sources, normalised, cut into sentences, split by id."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass

import pyarrow as pa

from slamray.config.corpora import TEXT_SUFFIXES, CorpusSettings
from slamray.config.outside import find_files
from slamray.config.tree import Recipe
from slamray.data.text import TextDocument, read_documents, to_document
from slamray.stage.folder import Folder
from slamray.stage.stage import Inputs, Stage
from slamray.stage.tables import check_bad_share, write_quarantine
from slamray.stage.work import Machine

DOCUMENTS = "documents.parquet"
SCHEMA = pa.schema(
    [("doc_id", pa.string()), ("sentences", pa.list_(pa.string())), ("source", pa.string()), ("split", pa.string())]
)


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
    return Stage("corpus", run, {"corpus": recipe.corpus})


def run(inputs: Inputs, out: Folder, machine: Machine, corpus: CorpusSettings) -> CorpusFacts:
    """Read all sources; good rows to documents.parquet by order of id, bad ones to quarantine with place and reason."""
    kept: dict[str, TextDocument] = {}
    bad: list[dict[str, str]] = []
    duplicates = total = 0
    for file in find_files(corpus.paths, "corpus.paths", TEXT_SUFFIXES):
        for raw in read_documents(file.path, corpus.text_column):
            total += 1
            document = to_document(
                raw, corpus.min_words, corpus.max_words, corpus.validation_share, corpus.evaluation_share
            )
            if isinstance(document, str):
                bad.append({"id": raw.place, "reason": document})
            elif document.doc_id in kept:
                duplicates += 1
            else:
                kept[document.doc_id] = document
    write_quarantine(out, bad)
    check_bad_share(bad, total, corpus.max_bad_share, "corpus.max_bad_share")
    documents = [kept[doc_id] for doc_id in sorted(kept)]
    out.write_table(DOCUMENTS, pa.Table.from_pylist([asdict(document) for document in documents], SCHEMA))
    words = sum(len(document.text.split()) for document in documents)
    splits = Counter(document.split for document in documents)
    return CorpusFacts(
        len(documents), words, duplicates, len(bad), splits["train"], splits["validation"], splits["evaluation"]
    )


def read(folder: Folder, split: str, at_most: int = 0) -> list[TextDocument]:
    """Documents of one split, by order of id (a random draw, for ids are hashes); 0 reads all."""
    rows = folder.read_table(DOCUMENTS, filters=[("split", "=", split)])
    rows = rows.slice(0, at_most) if at_most else rows
    return [
        TextDocument(row["doc_id"], tuple(row["sentences"]), row["source"], row["split"]) for row in rows.to_pylist()
    ]
