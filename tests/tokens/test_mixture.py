"""Mixtures: shares are of tokens, every row of a source comes before any again, and a step needs no memory."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from slamray.config.model import PackSettings
from slamray.errors import BadInput
from slamray.stage.folder import Folder
from slamray.stages.packed import check_mixture, write_mixture
from slamray.tokens.documents import Document, join, unit_document
from slamray.tokens.packing import join_packings, pack, pack_apart
from slamray.tokens.rows import RowStore, Source
from slamray.tokens.sampler import MixedSource, mixed_rows, rows_per_round
from slamray.tokens.vocabulary import Vocabulary

SOURCES = (MixedSource("a", 0, 40, 9), MixedSource("b", 40, 7, 21), MixedSource("c", 47, 100, 30))
VOCABULARY = Vocabulary.of_units(500)


def documents(seed: int, count: int, longest: int) -> list[Document]:
    rng = np.random.default_rng(seed)
    return [unit_document(rng.integers(0, 500, rng.integers(1, longest)), VOCABULARY) for _ in range(count)]


def given(sources: dict[str, list[Document]]) -> dict[str, Source]:
    """Each source's documents, seven at a time."""
    sevens = {name: [join(own[first : first + 7]) for first in range(0, len(own), 7)] for name, own in sources.items()}
    return {name: partial(list, some) for name, some in sevens.items()}


def mixed(mixture: dict[str, float], context: int) -> PackSettings:
    return PackSettings(context=context, mixture=mixture)


def read(steps: int, rows_per_step: int, seed: int = 0) -> np.ndarray:
    return np.concatenate([mixed_rows(seed, step, SOURCES, rows_per_step) for step in range(steps)])


def test_a_round_holds_what_each_source_is_to_give() -> None:
    rows = read(steps=60 * 8, rows_per_step=8)  # 64 rounds of 60 rows
    for number in range(64):
        here = rows[number * 60 : (number + 1) * 60]
        counts = [int(((source.first <= here) & (here < source.first + source.rows)).sum()) for source in SOURCES]
        assert counts == [source.per_round for source in SOURCES]


@pytest.mark.parametrize("steps", [37, 100, 411])
def test_no_row_comes_again_before_all_others_of_its_source_have_come(steps: int) -> None:
    rows = read(steps, rows_per_step=8)
    for source in SOURCES:
        own = rows[(source.first <= rows) & (rows < source.first + source.rows)] - source.first
        # A round is shuffled, so rows at the seam of two of a source's epochs may change places within it.
        counts = np.bincount(own, minlength=source.rows)
        assert counts.max() - counts.min() <= 1 + -(-source.per_round // source.rows)
        whole = (len(own) // (source.rows * source.per_round)) * source.rows * source.per_round
        assert (np.bincount(own[:whole], minlength=source.rows) == whole // source.rows).all()


def test_the_batch_of_a_step_depends_on_seed_and_step_alone() -> None:
    later = mixed_rows(1, 50, SOURCES, 8)
    mixed_rows(2, 3, SOURCES, 8)
    assert (mixed_rows(1, 50, SOURCES, 8) == later).all() and (mixed_rows(2, 50, SOURCES, 8) != later).any()
    # The global batch may be of another size and still be the same stretch of the same sequence.
    np.testing.assert_array_equal(mixed_rows(1, 3, SOURCES, 32), read(16, 8, seed=1)[96:128])


def test_one_source_that_gives_all_its_rows_is_an_epoch() -> None:
    rows = np.concatenate([mixed_rows(0, step, (MixedSource("a", 0, 13, 13),), 13) for step in range(3)])
    assert all(sorted(rows[i : i + 13]) == list(range(13)) for i in (0, 13, 26))


@pytest.mark.parametrize("seed", range(20))
def test_token_shares_of_a_round_are_the_weights_within_a_row(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 7))
    weights = rng.dirichlet(np.ones(n))
    rows = rng.integers(50, 5000, n)
    tokens = (rows * rng.uniform(100, 1024, n)).astype(int)  # rows of different fill: weights are not of rows
    given = rows_per_round(weights.tolist(), tokens.tolist(), rows.tolist())
    assert min(given) >= 1 and sum(given) >= rows.sum() - 1
    per_row = tokens / rows
    exact = weights / per_row / (weights / per_row).sum() * sum(given)
    assert np.abs(np.array(given) - exact).max() <= 1


def test_a_rare_source_is_never_rounded_away() -> None:
    given = rows_per_round([0.999, 0.001], [100_000, 100_000], [100, 100])
    assert given == [999, 1]


def test_sources_packed_apart_are_stretches_of_one_store() -> None:
    first, second = documents(0, 60, 90), documents(1, 40, 300)
    lengths = np.array([len(d) for d in (*first, *second)])
    a, b = pack_apart(lengths, [60, 40], 64, 64)
    alone = pack(lengths[60:], 64)
    np.testing.assert_array_equal(b.row_P - a.rows, alone.row_P)
    np.testing.assert_array_equal(b.source_P - lengths[:60].sum(), alone.source_P)
    joined = join_packings([a, b])
    assert joined.rows == a.rows + b.rows and (np.diff(joined.row_P) >= 0).all()
    taken = np.concatenate([np.arange(s, s + n) for s, n in zip(joined.source_P, joined.length_P, strict=True)])
    assert sorted(taken) == list(range(lengths.sum()))


def test_a_store_with_a_mixture_is_read_by_it(tmp_path: Path) -> None:
    sources = {"stories": documents(0, 300, 40), "librilight": documents(1, 80, 400), "swc": documents(2, 9, 50)}
    facts = write_mixture(
        Folder(tmp_path), given(sources), VOCABULARY, mixed({"stories": 0.4, "librilight": 0.6, "swc": 0.0}, 128)
    )
    store = RowStore(tmp_path)
    assert [source.name for source in store.sources] == ["stories", "librilight"]
    assert facts["tokens"] == sum(len(d) for name in ("stories", "librilight") for d in sources[name])
    rounds = sum(source.per_round for source in store.sources)
    rows = np.concatenate([store.rows_of_step(0, step, rounds) for step in range(40)])
    tokens = [store.tokens_R[rows[rows < store.sources[1].first]].sum(), store.tokens_R[rows].sum()]
    assert tokens[0] / tokens[1] == pytest.approx(0.4, abs=1 / rounds)
    for name, weight in (("stories", 0.4), ("librilight", 0.6)):
        assert facts["sources"][name]["token_share"] == pytest.approx(weight, abs=1 / rounds)
        assert facts["sources"][name]["tokens"] == sum(len(d) for d in sources[name])
    # Rows hold documents of one source alone.
    long = {tuple(d.ids[:8].tolist()) for d in sources["librilight"] if len(d) > 8}
    starts = {tuple(store.tokens_RC[row, :8].tolist()) for row in range(store.sources[1].first)}
    assert not starts & long


def test_a_store_without_a_mixture_is_read_as_before(tmp_path: Path) -> None:
    from slamray.stages.packed import write_documents
    from slamray.tokens.sampler import batch_rows

    write_documents(
        Folder(tmp_path), given({"x": documents(0, 100, 60)})["x"], VOCABULARY, PackSettings(context=64), "train"
    )
    store = RowStore(tmp_path)
    np.testing.assert_array_equal(store.rows_of_step(3, 5, 8), batch_rows(3, 5, store.rows, 8))


def test_the_same_documents_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        both = given({"x": documents(0, 50, 60), "y": documents(1, 50, 60)})
        write_mixture(Folder(tmp_path) / name, both, VOCABULARY, mixed({"x": 0.5, "y": 0.5}, 64))
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        ({"stories": 0.5, "librilite": 0.5}, "no source is called librilite; there are stories librilight"),
        ({"stories": 1.0}, "say the share of librilight too"),
        ({"stories": 0.5, "librilight": 0.6}, "are no shares"),
        ({"stories": -0.5, "librilight": 1.5}, "are no shares"),
    ],
)
def test_a_mixture_that_is_none_is_refused(mixture: dict[str, float], message: str) -> None:
    with pytest.raises(BadInput, match=f"pack.mixture: .*{message}"):
        check_mixture(mixture, ["stories", "librilight"])
    check_mixture({}, ["stories", "librilight"])
    check_mixture({"stories": 0.0, "librilight": 1.0}, ["stories", "librilight"])


def test_a_source_with_a_share_and_no_documents_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"pack.mixture: swc has no training document"):
        both = given({"stories": documents(0, 5, 20), "swc": []})
        write_mixture(Folder(tmp_path), both, VOCABULARY, mixed({"stories": 0.5, "swc": 0.5}, 64))
