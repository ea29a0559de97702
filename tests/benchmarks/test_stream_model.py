"""The simulation of a stage on many nodes, against cases that can be counted by hand."""

from __future__ import annotations

import itertools

import pytest
from stream_model import Cluster, Outcome, Strike, Work, simulate, strikes

# Ten shards of 5 s, a second to hand each out, and a merge of 3 s at the end; actors are ready after 10 s.
WORK = Work(shards=10, shard=5, block_dispatch=1, part_shards=10, merge=3)


def node(count: int = 1, actors: int = 1, **more: float) -> Cluster:
    return Cluster(count, actors, start=10, **more)


def test_one_node_makes_one_shard_after_another() -> None:
    # ready, one hand-out that it waits for (the next are ready before it is), ten shards, the merge
    assert simulate(node(), WORK) == Outcome(10 + 1 + 50 + 3, 10, pytest.approx(10 / 64), 0)


def test_two_nodes_share_the_work() -> None:
    # the second gets its first shard a second later: five each, until 36 and 37
    assert simulate(node(2), WORK).seconds == 37 + 3


def test_two_actors_of_a_node_are_as_good_as_two_nodes_and_are_created_one_after_another() -> None:
    assert simulate(node(1, 2), WORK).seconds == 37 + 3
    assert simulate(node(1, 2, create=4), WORK).seconds == 14 + 1 + 25 + 3  # ready at 10 and at 14


def test_a_driver_that_is_slower_than_the_actors_decides() -> None:
    # 20 actors, a shard of 1 s, two seconds to hand one out: the last is handed out at 10 + 20
    found = simulate(node(20), Work(shards=10, shard=1, block_dispatch=2, part_shards=10))
    assert found.seconds == 10 + 20 + 1 and found.driver_busy == pytest.approx(20 / 31)


def test_the_driver_pays_for_a_block_and_for_each_of_its_shards() -> None:
    # two blocks of five: 2 + 5 x 0.2 = 3 s each; the second waits for the driver and not for its actor
    work = Work(shards=10, shard=5, block_shards=5, block_dispatch=2, shard_dispatch=0.2, part_shards=10)
    assert simulate(node(2), work).seconds == 10 + 3 + 3 + 25


def test_a_store_that_all_share_decides_when_it_is_slower_than_they_are() -> None:
    work = Work(shards=10, shard=1, store=5, part_shards=10)
    assert simulate(node(10), work).seconds == 10 + 1 + 50


def test_parts_are_merged_as_they_are_ready_one_at_a_time() -> None:
    # parts of five are ready at 35 and 60 of one node without a driver's cost; the first merge is still going on at 60
    work = Work(shards=10, shard=5, part_shards=5, merge=30)
    assert simulate(node(), work).seconds == 35 + 30 + 30


def test_a_node_that_goes_and_comes_back_costs_its_shard_and_its_start() -> None:
    # at 23 it is two seconds into its third shard; back at 30, ready at 40, eight shards are left
    found = simulate(node(), WORK, [Strike(23, 0, back=7)])
    assert found.seconds == 40 + 1 + 8 * 5 + 3
    assert found.lost == 2 and found.made == 10


def test_what_a_lost_node_had_goes_to_the_other() -> None:
    # at 23 the second has made two (17, 22), the first two (16, 21): six are left, one of them begun at 21
    assert simulate(node(2), WORK, [Strike(23, 1, back=None)]).seconds == 21 + 6 * 5 + 3


def test_a_loss_that_is_noticed_late_is_made_good_late() -> None:
    # at 23 the second was making one, and the driver keeps the next, which it was about to hand out: the first makes
    # all others by 46, and the lost one from 124 on
    late = simulate(node(2, notice=100), WORK, [Strike(23, 1, back=None)])
    assert late.seconds == 123 + 1 + 5 + 3


def test_the_shards_of_a_block_that_were_made_are_not_made_again() -> None:
    # one block of ten from 11 on; at 38 five are there and two seconds of the sixth; ready again at 48
    work = Work(shards=10, shard=5, block_shards=10, block_dispatch=1, part_shards=10, merge=3)
    found = simulate(node(), work, [Strike(38, 0, back=0)])
    assert found.seconds == 48 + 1 + 5 * 5 + 3 and found.lost == 2


def test_a_cluster_that_goes_for_good_never_ends() -> None:
    with pytest.raises(AssertionError, match="no node is left"):
        simulate(node(), WORK, [Strike(23, 0, back=None)])


def test_strikes_come_as_often_as_they_should() -> None:
    drawn = list(itertools.takewhile(lambda strike: strike.at < 1e6, strikes(nodes=10, mean=1000, back=60, seed=0)))
    assert len(drawn) == pytest.approx(10_000, rel=0.03)  # 10 nodes x 1e6 / 1000; one standard deviation is 1 %
    assert {strike.node for strike in drawn} == set(range(10))


def test_many_nodes_without_failures_come_near_the_ideal() -> None:
    work = Work(shards=100_000, shard=1, block_shards=10, part_shards=1000)
    found = simulate(Cluster(50, 16), work)
    # 10,000 blocks on 800 actors: 13 rounds of 10 s
    assert found.seconds == 130
