"""Documents of text and speech from what the corpus and the units hold: nothing lost, whoever makes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from slamray.config.base import ASSETS
from slamray.config.joint import InterleaveSettings
from slamray.config.model import BaseSettings
from slamray.data.text import TextDocument
from slamray.errors import BadInput
from slamray.model.text_tokeniser import TextTokeniser
from slamray.stage.folder import Folder
from slamray.stage.parts import parts_of, write_parts
from slamray.stages import joint_documents
from slamray.stages.joint_documents import AUDIO, TEXT, PartOfDocuments
from slamray.stages.joint_kernel import MakeDocuments, spoken_text
from slamray.stages.shards import SCHEMA
from slamray.tokens.interleave import Span
from slamray.tokens.vocabulary import Vocabulary

BASE = BaseSettings(base=ASSETS + "story-lm")
RULES: tuple[Any, ...] = (
    ["text", "speech", "interleaved", "asr", "tts"], InterleaveSettings(share=0.5, span_pieces=2), (2, 3), BASE,
)  # fmt: skip
WORDS = ["Tim", "ran", "to", "the", "park", ".", "He", "saw", "Sue", "!"]


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary.joint(TextTokeniser(BASE.base).vocabulary, Vocabulary.of_units(500, "u" * 64))


def span(text: str, start: int, end: int) -> dict[str, Any]:
    return {"text": text, "start_frame": start, "end_frame": end}


def row_of(key: str, split: str = "train") -> dict[str, Any]:
    """`Tim ran to the park . He saw Sue !`: words of 10 frames with 2 units each, a silence of 4 frames and a unit."""
    words = [word for word in WORDS if word.isalpha()]
    starts = [10 * n + (4 if n >= 5 else 0) for n in range(len(words))]
    return {
        "utterance_id": key,
        "split": split,
        "units": [*range(10), 400, *range(10, 16)],
        "durations": [5] * 10 + [4] + [5] * 6,
        "sentences": [span("Tim ran to the park .", 0, 54), span("He saw Sue !", 54, 84)],
        "words": [span(word, start, start + 9) for word, start in zip(words, starts, strict=True)],
        "speaker": "x",
        "seconds": 3.4,
    }


def test_words_get_their_units_and_a_lone_sign_stays_with_the_word_before_it() -> None:
    spoken = spoken_text(row_of("a"))
    assert spoken is not None
    assert list(spoken.pieces) == ["Tim", " ran", " to", " the", " park .", " He", " saw", " Sue !"]
    assert [spoken.units_of(Span(n, n + 1)).tolist() for n in (0, 4, 5, 7)] == [[0, 1], [8, 9, 400], [10, 11], [14, 15]]


def test_a_sentence_that_was_read_otherwise_than_it_is_written_is_one_piece() -> None:
    row = row_of("a")
    row["sentences"][0]["text"] = "Tim paid $9.99 ."
    spoken = spoken_text(row)
    assert spoken is not None and list(spoken.pieces) == ["Tim paid $9.99 .", " He", " saw", " Sue !"]
    assert spoken.units_of(Span(0, 1)).tolist() == [*range(10), 400]
    row["words"] = []  # as of a recording whose words nobody has aligned
    spoken = spoken_text(row)
    assert spoken is not None and list(spoken.pieces) == ["Tim paid $9.99 .", " He saw Sue !"]
    row["sentences"] = []
    assert spoken_text(row) is None


def make(tmp_path: Path, vocabulary: Vocabulary, split: str = "train") -> tuple[Folder, Folder]:
    """Both kinds of parts through the kernel; the stage's folder, and another one made in the other order."""
    source = Folder(tmp_path / "source")
    document = TextDocument("d1", ("Tim ran to the park .", "He saw Sue !"), "x", "train")
    write_parts(source, "train", [document], TextDocument)
    rows = [row_of("a"), row_of("b"), row_of("v", "validation")]
    source.write_table("units/part-00000.parquet", pa.Table.from_pylist(rows, SCHEMA))
    made = []
    for name in ("one", "other"):
        out = Folder(tmp_path / name)
        parts = [
            PartOfDocuments(part.path, part.rows, kind, split, 0.0, str(out), f"{split}/{kind}/part-00000.parquet")
            for kind, table in ((TEXT, "train"), (AUDIO, "units"))
            for part in parts_of(source, table)
        ]
        kernel = MakeDocuments(*RULES, vocabulary)
        for part in parts if name == "one" else parts[::-1]:
            kernel(part)
        made.append(out)
    return made[0], made[1]


def test_every_kind_comes_from_its_part_and_the_bytes_do_not_depend_on_the_order(
    tmp_path: Path, vocabulary: Vocabulary
) -> None:
    out, other = make(tmp_path, vocabulary)
    files = out.names("train/*/part-*.parquet")
    assert len(files) == 2 and all(out.read(name) == other.read(name) for name in files)
    tokeniser, text = TextTokeniser(BASE.base), "Tim ran to the park . He saw Sue !"
    found = {kind: list(joint_documents.read(out, "train", kind)) for kind in ("text", "speech", "interleaved", "asr")}
    (written,) = found["text"]
    assert written.mask is None and tokeniser.decode(written.ids[2:-1].tolist()) == text
    (speech,) = found["speech"]
    assert (
        speech.lengths_D.tolist() == [20, 20] and (vocabulary.to_units(speech.ids) == [*row_of("a")["units"]] * 2).all()
    )
    (mixed,) = found["interleaved"]
    ids = mixed.ids[: mixed.lengths_D[0]]
    said = {int(unit) for unit in vocabulary.to_units(ids)}
    read = tokeniser.decode([int(token) for token in ids if 2 <= token < vocabulary.n_text])
    spoken = spoken_text(row_of("a"))
    assert spoken is not None
    for place, piece in enumerate(spoken.pieces):
        own = {int(unit) for unit in spoken.units_of(Span(place, place + 1))}
        assert (own <= said) != (piece.strip() in read), "a piece is heard or read, not both"
    (pairs,) = found["asr"]
    assert pairs.mask is not None and 0 < pairs.mask.sum() < len(pairs.ids)


def test_rows_of_another_split_stay_out(tmp_path: Path, vocabulary: Vocabulary) -> None:
    out, _ = make(tmp_path, vocabulary, "validation")
    (speech,) = joint_documents.read(out, "validation", "speech")
    assert len(speech.lengths_D) == 1


def test_a_tokeniser_that_changed_is_refused_before_any_document(vocabulary: Vocabulary) -> None:
    other = Vocabulary.joint(Vocabulary.of_text(4096, 0, 1, "x" * 64), Vocabulary.of_units(500, "u" * 64))
    with pytest.raises(BadInput, match=r"model.base=assets:story-lm .* have different vocabularies: the text are"):
        MakeDocuments(*RULES, other)
    assert np.array_equal(vocabulary.to_units(vocabulary.to_tokens(np.arange(500))), np.arange(500))
