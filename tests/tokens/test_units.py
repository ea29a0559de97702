"""Packing and sampling: every token once, every row once an epoch, the same batches for any number of workers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from slamray.errors import BadInput
from slamray.tokens.documents import Document, unit_document
from slamray.tokens.packing import pack
from slamray.tokens.rows import IGNORE, RowStore, write_rows
from slamray.tokens.sampler import add_hashes, batch_rows, rank_micro_batches, sample_hash
from slamray.tokens.vocabulary import BOS, PAD, Vocabulary

VOCABULARY = Vocabulary.of_units(500)


def _documents(seed: int, count: int = 200, longest: int = 150) -> list[Document]:
    rng = np.random.default_rng(seed)
    return [unit_document(rng.integers(0, 500, rng.integers(1, longest)), VOCABULARY) for _ in range(count)]


def _write(folder: Path, documents: list[Document], context: int) -> dict[str, float]:
    return write_rows(folder, documents, VOCABULARY, context)


def test_five_hundred_units_make_the_papers_502_rows() -> None:
    assert VOCABULARY.size == 502
    assert unit_document(np.array([0, 499]), VOCABULARY).ids.tolist() == [1, 2, 501, 1]


@pytest.mark.parametrize("context", [16, 50, 64, 300])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_token_of_the_input_is_in_exactly_one_place(tmp_path: Path, context: int, seed: int) -> None:
    documents = _documents(seed)
    lengths = np.array([len(d) for d in documents])
    packing = pack(lengths, context)
    sources = np.concatenate([np.arange(s, s + n) for s, n in zip(packing.source_P, packing.length_P, strict=True)])
    assert sorted(sources) == list(range(lengths.sum()))
    assert packing.length_P.max() <= context
    places = np.concatenate(
        [
            r * context + np.arange(c, c + n)
            for r, c, n in zip(packing.row_P, packing.column_P, packing.length_P, strict=True)
        ]
    )
    assert len(set(places.tolist())) == lengths.sum()
    assert places.max() < packing.rows * context


def test_rows_hold_the_documents_pieces_unbroken(tmp_path: Path) -> None:
    context = 64
    documents = _documents(3)
    _write(tmp_path, documents, context)
    rows = RowStore(tmp_path)
    found = []
    for row in range(rows.rows):
        column = 0
        for length in rows.lengths_P[rows.offsets[row] : rows.offsets[row + 1]]:
            found.append(tuple(rows.tokens_RC[row, column : column + length].tolist()))
            column += length
        assert (rows.tokens_RC[row, column:] == PAD).all()
    expected = [tuple(d.ids[at : at + context].tolist()) for d in documents for at in range(0, len(d), context)]
    assert sorted(found) == sorted(expected)


def test_packing_is_the_textbook_best_fit_longest_first() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 101, 300)
    free: list[int] = []  # by hand: the fullest row that still fits, else a new one
    for length in sorted(lengths.tolist(), reverse=True):
        fitting = [place for place in free if place >= length]
        if fitting:
            free.remove(min(fitting))
        free.append((min(fitting) if fitting else 100) - length)
    packing = pack(lengths, 100)
    used = np.bincount(packing.row_P, weights=packing.length_P)
    assert sorted(100 - used) == sorted(free)


def test_long_rows_leave_less_padding_with_the_same_pieces() -> None:
    lengths = np.random.default_rng(0).normal(700, 200, 4000).clip(60).astype(int)  # about those of spoken TinyStories
    short, long = pack(lengths, 1024), pack(lengths, 1024, 8 * 1024)
    padding = [1 - lengths.sum() / (packing.rows * packing.row_tokens) for packing in (short, long)]
    assert padding[0] > 0.15 and padding[1] < 0.02
    assert sorted(zip(short.source_P, short.length_P, strict=True)) == sorted(
        zip(long.source_P, long.length_P, strict=True)
    )
    assert (long.column_P + long.length_P).max() <= 8 * 1024


def test_packing_wastes_little_on_documents_of_story_length(tmp_path: Path) -> None:
    facts = _write(tmp_path, _documents(0, count=500, longest=900), 512)
    assert facts["padding_share"] < 0.01


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        _write(tmp_path / name, _documents(5), 64)
    for file in ("tokens.npy", "lengths.npy", "offsets.npy"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_targets_are_the_next_token_of_the_same_piece_and_counted_beforehand(tmp_path: Path) -> None:
    documents = [Document(np.array(ids, np.uint16)) for ids in ([1, 5, 6, 1], [1, 7, 1])]
    facts = _write(tmp_path, documents, 10)
    rows = RowStore(tmp_path)
    batch = rows.batch(np.array([0]))
    assert batch.inputs.tolist() == [[1, 5, 6, 1, 1, 7, 1, PAD, PAD, PAD]]
    assert batch.targets.tolist() == [[5, 6, 1, IGNORE, 7, 1, IGNORE, IGNORE, IGNORE, IGNORE]]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 0, 1, 2, 3, 4, 5]]
    assert rows.targets_R.tolist() == [5] and facts["targets"] == 5 and rows.tokens_R.tolist() == [7]


def test_target_counts_hold_for_every_row(tmp_path: Path) -> None:
    _write(tmp_path, _documents(7), 50)
    rows = RowStore(tmp_path)
    targets = rows.batch(np.arange(rows.rows)).targets
    assert ((targets != IGNORE).sum(axis=1) == rows.targets_R).all()
    assert PAD not in targets
    assert (targets == BOS).sum() == 200 - sum(len(d) % 50 == 1 for d in _documents(7))


def test_an_epoch_reads_every_row_once_and_the_next_in_another_order() -> None:
    read = np.concatenate(
        [batch_rows(seed=4, step=step, n_rows=37, rows_per_step=8) for step in range(37 * 2 // 8 + 1)]
    )
    assert sorted(read[:37]) == list(range(37))
    assert sorted(read[37:74]) == list(range(37))
    assert read[:37].tolist() != read[37:74].tolist()


def test_the_batch_of_a_step_depends_on_seed_and_step_alone() -> None:
    later = batch_rows(seed=1, step=50, n_rows=100, rows_per_step=8)
    batch_rows(seed=2, step=3, n_rows=100, rows_per_step=8)
    assert (batch_rows(seed=1, step=50, n_rows=100, rows_per_step=8) == later).all()
    assert (batch_rows(seed=2, step=50, n_rows=100, rows_per_step=8) != later).any()


def test_a_batch_larger_than_the_data_repeats_it_in_full() -> None:
    assert np.bincount(batch_rows(seed=0, step=0, n_rows=4, rows_per_step=12)).tolist() == [3, 3, 3, 3]


@pytest.mark.parametrize("world", [1, 2, 4])
def test_workers_share_one_global_batch(world: int) -> None:
    rows = batch_rows(seed=0, step=9, n_rows=1000, rows_per_step=32)
    dealt = [list(rank_micro_batches(rows, rank, world, 4)) for rank in range(world)]
    parts = [np.concatenate([micro for micro, _ in own]) for own in dealt]
    assert {len(part) for part in parts} == {32 // world}
    assert sorted(np.concatenate(parts)) == sorted(rows)
    assert {weight for own in dealt for _, weight in own} == {1.0}
    hashes = [sample_hash(9, micro) for own in dealt for micro, _ in own]
    assert add_hashes(*hashes) == add_hashes(sample_hash(9, np.sort(rows)))


@pytest.mark.parametrize(("world", "rounds"), [(3, 3), (5, 2), (16, 1)])
def test_where_micro_batches_cannot_be_dealt_evenly_the_rest_repeat_one_that_counts_nothing(
    world: int, rounds: int
) -> None:
    rows = np.arange(32)  # eight micro-batches of four
    dealt = [list(rank_micro_batches(rows, rank, world, 4)) for rank in range(world)]
    assert {len(own) for own in dealt} == {rounds}
    assert sorted(np.concatenate([micro for own in dealt for micro, weight in own if weight])) == rows.tolist()


def test_the_hash_of_samples_is_splitmix64_and_knows_how_often_and_at_which_step() -> None:
    # The first output of splitmix64 with seed 0 (Java's SplittableRandom, Vigna's splitmix64.c): 0xE220A8397B1DCDAF
    assert sample_hash(0, np.array([0])) == 0xE220A8397B1DCDAF
    once, twice = sample_hash(0, np.array([3, 5])), sample_hash(0, np.array([3, 5, 5]))
    assert len({once, twice, sample_hash(1, np.array([3, 5]))}) == 3


def test_a_folder_without_rows_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="packed rows"):
        RowStore(tmp_path / "nothing")
