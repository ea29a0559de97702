"""Stage `recordings`: spoken documents kept with their audio and phones, for training an encoder or a vocoder.

The only stage that stores audio: masked prediction reads it many times. 115 MB an hour.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from slamray.config.assets import EncoderTrainingSettings
from slamray.config.compute import Compute
from slamray.config.speech import TtsSettings
from slamray.data.items import Utterance
from slamray.stage import store, tables
from slamray.stage.stage import Asking, Folders
from slamray.stage.work import Pool, Row, Stream
from slamray.stages import corpus

SHARD_DOCUMENTS = 8  # unit of work, about 13 MB of audio; chosen, not tuned
SCHEMA = pa.schema([("doc_id", pa.string()), ("audio", pa.binary()), ("phones", pa.string())])


def _recording(**args: Any) -> Callable[[Row], Row]:
    return Record(**args)


class Record:
    """Kernel: speak a shard and store its audio (16 kHz, 16 bit) and phones (JSON spans) in one file."""

    def __init__(self, tts: dict[str, Any]) -> None:
        from slamray.stages.speech_kernels import Speak

        self._speak = Speak(tts, phones=True)

    def __call__(self, row: Row) -> Row:
        spoken = self._speak(row)
        rows = [
            {"doc_id": about["utterance_id"], "audio": audio, "phones": json.dumps(about["phones"])}
            for audio, about in zip(spoken["audio"], json.loads(spoken["about"]), strict=True)
            if not about["reason"]
        ]
        tables.write_table(Path(row["path"]), pa.Table.from_pylist(rows, SCHEMA))
        return {"seconds": sum(len(r["audio"]) for r in rows) / 2 / 16_000}


def run(folders: Folders, out: Path, config: EncoderTrainingSettings, tts: TtsSettings, compute: Compute) -> Asking:
    """Speak training documents, and evaluation documents to measure on."""
    todo = []
    total = 0
    for split, count in (("train", config.train_documents), ("evaluation", config.evaluation_documents)):
        documents = corpus.read(folders["corpus"], split, count)
        for start in range(0, len(documents), SHARD_DOCUMENTS):
            path = out / split / f"shard-{start // SHARD_DOCUMENTS:06d}.parquet"
            shard = [
                asdict(Utterance(d["doc_id"], tuple(d["sentences"]), None)) for d in documents[start:][:SHARD_DOCUMENTS]
            ]
            total += 1
            if not path.exists():
                todo.append({"shard": total, "path": str(path), "utterances": json.dumps(shard)})
    if todo:
        store.require_space(out, 15_000_000 * len(todo), "stage recordings")
        pool = Pool(_recording, {"tts": tts.model_dump()}, compute.tts_actors)
        yield Stream("recordings", todo, [pool], total, "shards")
    return {split: {"documents": sum(1 for _ in read(out, split))} for split in ("train", "evaluation")}


def read(folder: Path, split: str) -> Iterator[tuple[str, np.ndarray, list[dict[str, Any]]]]:
    """(doc_id, int16 audio at 16 kHz, phone spans in seconds) of each recording, by order of id."""
    for path in sorted((folder / split).glob("*.parquet")):
        for row in pq.read_table(path).to_pylist():
            yield row["doc_id"], np.frombuffer(row["audio"], np.int16), json.loads(row["phones"])
