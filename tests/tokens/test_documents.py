"""Loss masks: they stay with their tokens through packing, and rows without one are the bytes they always were."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from slamray.tokens.documents import Document, delimit, join, unit_document, unit_documents
from slamray.tokens.rows import IGNORE, RowStore, write_rows
from slamray.tokens.vocabulary import Vocabulary

WIDE = Vocabulary.of_units(100_000)
FILES = {"packing.json", "tokens.npy", "lengths.npy", "offsets.npy", "vocabulary.json"}


def masked_documents(seed: int, count: int = 60, longest: int = 90) -> list[Document]:
    """Documents of ids that stand once in all of them, so that a token is known wherever it lies; half have a mask."""
    rng = np.random.default_rng(seed)
    ids = 2 + rng.permutation(count * longest).astype(np.uint32)
    documents = []
    for number, length in enumerate(rng.integers(1, longest, count)):
        mask = rng.random(length) < rng.random() if number % 2 else None
        documents.append(Document(ids[number * longest : number * longest + length], mask))
    return documents


@pytest.mark.parametrize("context", [16, 33, 128])
@pytest.mark.parametrize("seed", range(5))
def test_masks_stay_with_their_tokens_and_no_token_is_lost(tmp_path: Path, seed: int, context: int) -> None:
    documents = masked_documents(seed)
    facts = write_rows(tmp_path, documents, WIDE, context)
    store = RowStore(tmp_path)
    wanted: dict[int, bool] = {}  # by hand: an id is a target where its mask says so and no piece begins with it
    for document in documents:
        mask = np.ones(len(document), np.bool_) if document.mask is None else document.mask
        for place, (token, counts) in enumerate(zip(document.ids.tolist(), mask.tolist(), strict=True)):
            wanted[token] = counts and place % context > 0

    batch = store.batch(np.arange(store.rows))
    seen = batch.inputs[batch.inputs > 0]
    assert sorted(seen.tolist()) == sorted(wanted)
    targets = batch.targets[batch.targets != IGNORE]
    assert sorted(targets.tolist()) == sorted(token for token, counts in wanted.items() if counts)
    rows, places = np.nonzero(batch.targets != IGNORE)
    assert (batch.targets[rows, places] == batch.inputs[rows, places + 1]).all()
    assert (batch.positions[rows, places + 1] == batch.positions[rows, places] + 1).all()  # inside one piece
    assert store.targets_R.tolist() == (batch.targets != IGNORE).sum(axis=1).tolist()
    assert facts["targets"] == len(targets) and facts["tokens"] == len(wanted)
    assert store.tokens_RC.dtype == np.uint32


@pytest.mark.parametrize("seed", range(3))
def test_pieces_come_with_the_mask_of_their_tokens(tmp_path: Path, seed: int) -> None:
    documents = masked_documents(seed)
    write_rows(tmp_path, documents, WIDE, 20)
    expected = {}
    for document in documents:
        for start in range(0, len(document), 20):
            mask = None if document.mask is None else document.mask[start : start + 20]
            piece = Document(document.ids[start : start + 20], mask)
            expected[tuple(piece.ids.tolist())] = piece.targets.tolist()
    found = {tuple(piece.ids.tolist()): piece.targets.tolist() for piece in RowStore(tmp_path).pieces()}
    assert found == expected


def test_a_mask_is_stored_only_where_it_masks_something_out(tmp_path: Path) -> None:
    ids = np.array([1, 5, 6, 1], np.uint16)
    vocabulary = Vocabulary.of_units(5)
    write_rows(tmp_path / "none", [Document(ids)] * 3, vocabulary, 16)
    # The first id of a document is no target whatever its mask says.
    whole = [Document(ids, np.array([first, True, True, True])) for first in (True, False, True)]
    write_rows(tmp_path / "all", whole, vocabulary, 16)
    write_rows(tmp_path / "some", [*whole[:2], Document(ids, np.array([True, False, True, True]))], vocabulary, 16)
    for name in ("none", "all"):
        assert {path.name for path in (tmp_path / name).iterdir()} == FILES
    for file in FILES:
        assert (tmp_path / "none" / file).read_bytes() == (tmp_path / "all" / file).read_bytes()
    assert {path.name for path in (tmp_path / "some").iterdir()} == FILES | {"mask.npy", "targets.npy"}
    assert RowStore(tmp_path / "some").targets_R.tolist() == [8]


def test_documents_of_units_are_the_bytes_they_were_before_there_were_masks(tmp_path: Path) -> None:
    """Checksums taken from the code that knew units alone, on the same documents."""
    rng = np.random.default_rng(0)
    drawn = [rng.integers(0, 500, length) for length in rng.integers(1, 400, 300)]
    units = [row[np.insert(row[1:] != row[:-1], 0, True)] for row in drawn]
    vocabulary = Vocabulary.of_units(500)
    write_rows(tmp_path, [unit_document(row, vocabulary) for row in units], vocabulary, 128)
    before = {
        "tokens.npy": "2f9acdc6b1d0de048bdad8310ebdfd044710f7c5624af8d761d602b758e25f7e",
        "lengths.npy": "116368950a4459ae9fe4032a0cb2734fa6fe763d8def382c1551db9452c08c93",
        "offsets.npy": "75a077a61302d26e055df8bf1b8ca3bfb1928725751542edfa4531756a7b453a",
    }
    assert {name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in before} == before


def test_rows_say_which_vocabulary_they_are_written_in(tmp_path: Path) -> None:
    write_rows(tmp_path, masked_documents(0), WIDE, 16)
    assert RowStore(tmp_path).vocabulary == WIDE


def test_a_document_is_delimited_by_the_special_of_its_vocabulary() -> None:
    text = Vocabulary.of_text(100, pad=9, bos=7, identity="t")
    document = delimit(np.array([3, 4], np.uint16), text)
    assert document.ids.tolist() == [7, 3, 4, 7] and document.ids.dtype == np.uint16
    assert document.targets.tolist() == [False, True, True, True]


def test_a_mask_of_another_length_is_a_programmers_error() -> None:
    with pytest.raises(AssertionError, match="a value for each id"):
        Document(np.array([1, 2], np.uint16), np.array([True]))


def test_the_documents_of_many_utterances_are_those_of_each() -> None:
    rng, vocabulary = np.random.default_rng(0), Vocabulary.of_units(500)
    units = [rng.integers(0, 500, n).astype(np.uint16) for n in (3, 0, 7, 1)]
    together = unit_documents(np.concatenate(units), np.array([len(own) for own in units]), vocabulary)
    each = join([unit_document(own, vocabulary) for own in units])
    assert together.ids.tolist() == each.ids.tolist() and together.ids.dtype == each.ids.dtype
    assert together.lengths_D.tolist() == each.lengths_D.tolist() == [5, 2, 9, 3]


@pytest.mark.parametrize("size", [1, 7, 59])
def test_documents_that_come_some_at_a_time_are_packed_into_the_same_bytes(tmp_path: Path, size: int) -> None:
    documents = masked_documents(0)
    whole = write_rows(tmp_path / "whole", documents, WIDE, 20)
    some = [join(documents[first : first + size]) for first in range(0, len(documents), size)]
    assert write_rows(tmp_path / "some", lambda: some, WIDE, 20) == whole
    for name in ("tokens.npy", "mask.npy", "targets.npy", "lengths.npy", "offsets.npy"):
        assert (tmp_path / "some" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_masks_are_joined_where_one_document_has_one() -> None:
    ids = np.array([1, 2], np.uint16)
    assert join([Document(ids), Document(ids)]).mask is None
    joined = join([Document(ids), Document(ids, np.array([True, False]))])
    assert joined.mask is not None and joined.mask.tolist() == [True, True, True, False]
