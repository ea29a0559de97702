"""Stage `corpus`: every document of the sources, normalised, cut into sentences, split by id."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from slamray.config.base import asset_path
from slamray.config.corpora import CorpusSettings
from slamray.data import text as corpus
from slamray.stage import tables
from slamray.stage.stage import Facts, Folders, check_bad_share

DOCUMENTS = "documents.parquet"
SCHEMA = pa.schema(
    [("doc_id", pa.string()), ("sentences", pa.list_(pa.string())), ("source", pa.string()), ("split", pa.string())]
)


def sources(config: CorpusSettings) -> list[dict[str, Any]]:
    """The listing that enters the fingerprint: names and sizes, never the places where they lie."""
    found = corpus.list_sources(tuple(asset_path(path) for path in config.paths))
    return [{"name": path.rsplit("/", 1)[-1], "bytes": size} for path, size in found]


def run(folders: Folders, out: Path, config: CorpusSettings) -> Facts:
    """Read all sources; good rows to documents.parquet by order of id, bad ones to quarantine with place and reason."""
    kept: dict[str, corpus.Document] = {}
    bad: list[dict[str, str]] = []
    duplicates = total = 0
    for path, _ in corpus.list_sources(tuple(asset_path(path) for path in config.paths)):
        for raw in corpus.read_documents(path, config.text_column):
            total += 1
            document = corpus.to_document(
                raw, config.min_words, config.max_words, config.validation_share, config.evaluation_share
            )
            if isinstance(document, str):
                bad.append({"id": raw.place, "reason": document})
            elif document.doc_id in kept:
                duplicates += 1
            else:
                kept[document.doc_id] = document
    tables.write_quarantine(out, bad)
    first = f"{bad[0]['id']}: {bad[0]['reason']}" if bad else ""
    check_bad_share(len(bad), total, config.max_bad_share, "corpus.max_bad_share", first)
    documents = [kept[doc_id] for doc_id in sorted(kept)]
    rows = [{"doc_id": d.doc_id, "sentences": d.sentences, "source": d.source, "split": d.split} for d in documents]
    tables.write_table(out / DOCUMENTS, pa.Table.from_pylist(rows, SCHEMA))
    splits = Counter(d.split for d in documents)
    return {
        "documents": len(documents), "words": sum(len(d.text.split()) for d in documents), "duplicates": duplicates,
        "quarantined": len(bad), **{split: splits[split] for split in corpus.SPLITS},
    }  # fmt: skip


def read(folder: Path, split: str, at_most: int = 0) -> list[dict[str, Any]]:
    """Documents of one split, by order of id (a random draw, for ids are hashes); 0 reads all."""
    table = pq.read_table(folder / DOCUMENTS, filters=[("split", "=", split)])
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows[:at_most] if at_most else rows
