"""A kernel in place of a voice and an encoder, for benchmarks/scale.py; actors import it by its name."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from slamray.stage.parts import RowReader
from slamray.stages.shards import SCHEMA, Shard, ShardDone, write_shard

SENTENCES, WORDS = 18, 10  # of a story, and of a sentence: TinyStories has some 180 words
UNITS = 500


class Silent:
    """Random units of each request, 900 to 1,400 a story, and its sentences and words in even frames."""

    def __init__(self) -> None:
        self._reader = RowReader()

    def __call__(self, shard: Shard) -> ShardDone:
        if not shard.is_done:
            write_shard(shard, units_of(self._reader.read(shard.requests)), [])
        return ShardDone(shard.number, 0.0)


def units_of(requests: pa.Table) -> pa.Table:
    """As the encoder's table; drawn by the first request's id."""
    ids = requests["doc_id" if "doc_id" in requests.column_names else "utterance_id"]
    sentences = pc.fill_null(requests["sentences"], ["x"]).combine_chunks()
    words = pc.split_pattern(sentences.flatten(), " ")
    words_R = np.add.reduceat(pc.list_value_length(words).to_numpy(), _starts(sentences))
    rng = np.random.default_rng(int(ids[0].as_py()[:8], 16))
    count_R = rng.integers(900, 1400, len(ids)) * words_R // (SENTENCES * WORDS) + 1
    units = np.cumsum(rng.integers(1, UNITS, int(count_R.sum()))) % UNITS  # no unit follows itself
    durations = rng.integers(1, 3, len(units))
    columns = {
        "utterance_id": ids,
        "split": requests["split"] if "split" in requests.column_names else pa.array([""] * len(ids)),
        "units": lists_of(count_R, pa.array(units.astype(np.uint16))),
        "durations": lists_of(count_R, pa.array(durations.astype(np.uint16))),
        "sentences": _spans(sentences.value_lengths().to_numpy(), sentences.flatten(), count_R),
        "words": _spans(words_R, words.flatten(), count_R),
        "speaker": pa.array(["nobody"] * len(ids)),
        "seconds": pa.array((count_R / 20).astype(np.float32)),
    }
    return pa.table(columns).select(SCHEMA.names).cast(SCHEMA)


def _starts(lists: pa.ListArray) -> np.ndarray:
    lengths = lists.value_lengths().to_numpy()
    return np.cumsum(lengths) - lengths


def lists_of(lengths_R: np.ndarray, values: pa.Array) -> pa.ListArray:
    """Values, cut into lists of these lengths."""
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(lengths_R)]).astype(np.int32)), values)


def _spans(lengths_R: np.ndarray, texts: pa.Array, frames_R: np.ndarray) -> pa.ListArray:
    """Each row's texts, over its frames evenly."""
    place = np.arange(len(texts)) - np.repeat(np.cumsum(lengths_R) - lengths_R, lengths_R)
    step = np.repeat(frames_R / lengths_R, lengths_R)
    edges = {"start_frame": place * step, "end_frame": (place + 1) * step}
    frames = [pa.array(edge.astype(np.uint32)) for edge in edges.values()]
    return lists_of(lengths_R, pa.StructArray.from_arrays([texts, *frames], ["text", *edges]))
