"""A kernel in place of a voice and an encoder, for benchmarks/scale.py; actors import it by its name."""

from __future__ import annotations

from typing import Any

import numpy as np

from slamray.stage.parts import RowReader
from slamray.stages.shards import Shard, ShardDone, write_shard

SENTENCES, WORDS = 18, 10  # of a story, and of a sentence: TinyStories has some 180 words
UNITS = 500


class Silent:
    """Random units of each request, and its words in even frames."""

    def __init__(self) -> None:
        self._reader = RowReader()

    def __call__(self, shard: Shard) -> ShardDone:
        if not shard.is_done:
            rows = [_units(row) for row in self._reader.read(shard.requests).to_pylist()]
            write_shard(shard, rows, [])
        return ShardDone(shard.number, 0.0)


def _units(request: dict[str, Any]) -> dict[str, Any]:
    name = request.get("doc_id") or request["utterance_id"]
    rng = np.random.default_rng(int(name[:8], 16))
    sentences = request["sentences"] or ["x"]
    words = [word for sentence in sentences for word in sentence.split()]
    count = int(rng.integers(900, 1400)) * len(words) // (SENTENCES * WORDS) + 1
    frames = np.linspace(0, count, len(words) + 1).astype(int).tolist()
    spans = [
        {"text": word, "start_frame": frames[place], "end_frame": frames[place + 1]} for place, word in enumerate(words)
    ]
    steps = rng.integers(1, UNITS, count)  # no unit follows itself
    return {
        "utterance_id": name,
        "split": request.get("split", ""),
        "units": (np.cumsum(steps) % UNITS).astype(np.uint16),
        "durations": rng.integers(1, 3, count).astype(np.uint16),
        "sentences": [{"text": s, "start_frame": 0, "end_frame": 1} for s in sentences],
        "words": spans,
        "speaker": "nobody",
        "seconds": count / 20,
    }
