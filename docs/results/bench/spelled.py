"""Makes a copy of a run in which speech is spelled: units without noise, one letter each (docs/results/joint.md).

    python docs/results/bench/spelled.py ROOT OUT

ROOT holds stages `corpus`, `text_corpus`, `units` and `items` of a run; OUT gets them with each word as its letters,
two frames a letter and a blank of one frame after each word. The run's own words with root=OUT make all the rest.
"""

from __future__ import annotations

import itertools
import shutil
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

LETTER_FRAMES = 2
BLANK = 26  # the unit after a word; a to z are 0 to 25


def main() -> None:
    """Copy the stages, then rewrite their tables of units."""
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    for name in ("corpus", "text_corpus", "units", "items"):
        shutil.copytree(source / name, out / name)
    for path in (*out.glob("units/*/units/*.parquet"), *out.glob("items/*/units/*.parquet")):
        table = pq.read_table(path)
        rows = [spelled(row) for row in table.to_pylist()]
        pq.write_table(pa.Table.from_pylist(rows, table.schema), path)
        print(f"{path}: {sum(len(row['units']) for row in rows)} units in {len(rows)} utterances")


def spelled(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a table of units with its words' letters as units; the same words, at other places."""
    frames: list[int] = []
    words, sentences = [], []
    left = iter(row["words"])
    for sentence in row["sentences"]:
        begin = len(frames)
        for word in itertools.islice(left, len(sentence["text"].split())):
            first = len(frames)
            letters = [ord(letter) - ord("a") for letter in word["text"].lower() if "a" <= letter <= "z"]
            frames += [unit for unit in letters for _ in range(LETTER_FRAMES)] or [BLANK]
            words.append(word | {"start_frame": first, "end_frame": len(frames)})
            frames.append(BLANK)
        sentences.append(sentence | {"start_frame": begin, "end_frame": len(frames)})
    assert len(words) == len(row["words"]), f"{row['utterance_id']}: its words are not those of its sentences"
    runs = [(unit, len(list(run))) for unit, run in itertools.groupby(frames)]
    return row | {
        "units": [unit for unit, _ in runs],
        "durations": [length for _, length in runs],
        "words": words,
        "sentences": sentences,
    }


if __name__ == "__main__":
    main()
