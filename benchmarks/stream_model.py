"""A model of a stage that speaks, on any number of nodes: a discrete-event simulation that knows nothing but numbers.

A driver hands out blocks of shards one after another, first to actors that have none, then to those that have one. An
actor makes the shards of its block in turn, and then writes them through a store that all share. When the shards of a
part are there, it is merged; merges follow one another. A node that goes takes its actors: shards that they had made
stay, the rest of their blocks is handed out again. All times are seconds.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import floor

import numpy as np

IN_FLIGHT = 2  # blocks that an actor has at most: Ray Data's own number (2.60)


@dataclass(frozen=True)
class Cluster:
    """start: from a node's being there to its actors' being ready; notice: until a node's end is known.

    create: between two actors that are asked for at the beginning.
    """

    nodes: int
    actors: int  # of a node
    start: float = 0.0
    notice: float = 0.0
    create: float = 0.0


@dataclass(frozen=True)
class Work:
    """block_dispatch, shard_dispatch: of the driver's time, for a block and for each shard in it.

    store: of the store's time, for each shard; merge: of the driver's one merge at a time, for each part.
    """

    shards: int
    shard: float
    block_shards: int = 1
    block_dispatch: float = 0.0
    shard_dispatch: float = 0.0
    store: float = 0.0
    part_shards: int = 1024
    merge: float = 0.0


@dataclass(frozen=True)
class Strike:
    """A node goes at a time, and another takes its place after a while; None: none does."""

    at: float
    node: int
    back: float | None


@dataclass(frozen=True)
class Outcome:
    """seconds: until the last merge. made: shards, those made twice counted twice; busy: share of the driver's time."""

    seconds: float
    made: int
    driver_busy: float
    lost: float  # of actors' time, on shards that a strike cut short


def strikes(nodes: int, mean: float, back: float, seed: int) -> Iterator[Strike]:
    """Without end: each node goes once in `mean` seconds, at any time alike, and is replaced."""
    rng = np.random.default_rng(seed)
    at = 0.0
    while True:
        at += float(rng.exponential(mean / nodes))
        yield Strike(at, int(rng.integers(nodes)), back)


@dataclass(eq=False)
class _Block:
    """Shards first to stop - 1."""

    first: int
    stop: int


@dataclass(eq=False)
class _Actor:
    node: int
    lives: int = -1  # -1: not there; else how often it has started
    blocks: deque[_Block] = field(default_factory=deque)  # the first is being made
    began: float = 0.0


def simulate(cluster: Cluster, work: Work, struck: Iterable[Strike] = ()) -> Outcome:
    """Run the model to its end. struck: in the order of time."""
    return _Simulation(cluster, work, iter(struck)).run()


class _Simulation:
    def __init__(self, cluster: Cluster, work: Work, struck: Iterator[Strike]) -> None:
        self.cluster, self.work, self.struck = cluster, work, struck
        self.events: list[tuple[float, int, str, tuple[object, ...]]] = []
        self.order = itertools.count()
        self.pending = deque(
            _Block(first, min(first + work.block_shards, work.shards))
            for first in range(0, work.shards, work.block_shards)
        )
        self.actors = [_Actor(node) for node in range(cluster.nodes) for _ in range(cluster.actors)]
        self.lives = [0] * cluster.nodes
        self.there = [True] * cluster.nodes
        self.idle: deque[tuple[_Actor, int]] = deque()  # with no block, and with which life they asked
        self.ahead: deque[tuple[_Actor, int]] = deque()  # with one
        parts = -(-work.shards // work.part_shards)
        self.missing = [min(work.part_shards, work.shards - part * work.part_shards) for part in range(parts)]
        self.driver_at = self.driver_busy = self.store_at = self.merge_at = self.lost = 0.0
        self.handing = False
        self.left, self.made = work.shards, 0

    def run(self) -> Outcome:
        for number, actor in enumerate(self.actors):
            ready = self.cluster.start + number * self.cluster.create
            self._at(ready, "ready", actor, 0)
        self._next_strike()
        now = 0.0
        while self.left:
            assert self.events, "no node is left"
            now, _, kind, given = heapq.heappop(self.events)
            getattr(self, f"_{kind}")(now, *given)
            self._hand(now)
        seconds = max(now, self.merge_at)
        return Outcome(seconds, self.made, self.driver_busy / seconds, self.lost)

    def _at(self, time: float, kind: str, *given: object) -> None:
        heapq.heappush(self.events, (time, next(self.order), kind, given))

    def _next_strike(self) -> None:
        strike = next(self.struck, None)
        if strike:
            self._at(strike.at, "strike", strike)

    def _ready(self, now: float, actor: _Actor, life: int) -> None:
        if self.there[actor.node] and self.lives[actor.node] == life:
            actor.lives = life
            self.idle.append((actor, life))
            self.ahead.extend([(actor, life)] * (IN_FLIGHT - 1))

    def _hand(self, now: float) -> None:
        """Let the driver begin to hand out a block, where it has one, an actor for it, and nothing else to do."""
        while self.pending and not self.handing and (self.idle or self.ahead):
            actor, life = self.idle.popleft() if self.idle else self.ahead.popleft()
            if actor.lives != life:
                continue
            block = self.pending.popleft()
            cost = self.work.block_dispatch + self.work.shard_dispatch * (block.stop - block.first)
            self.handing = True
            self.driver_busy += cost
            self._at(now + cost, "handed", actor, life, block)

    def _handed(self, now: float, actor: _Actor, life: int, block: _Block) -> None:
        self.handing = False
        if actor.lives != life:
            self.pending.appendleft(block)
            return
        actor.blocks.append(block)
        if len(actor.blocks) == 1:
            self._begin(now, actor)

    def _begin(self, now: float, actor: _Actor) -> None:
        block = actor.blocks[0]
        actor.began = now
        self._at(now + self.work.shard * (block.stop - block.first), "computed", actor, actor.lives, block)

    def _computed(self, now: float, actor: _Actor, life: int, block: _Block) -> None:
        if actor.lives == life:
            self.store_at = max(self.store_at, now) + self.work.store * (block.stop - block.first)
            self._at(self.store_at, "done", actor, life, block)

    def _done(self, now: float, actor: _Actor, life: int, block: _Block) -> None:
        if actor.lives != life:
            return
        actor.blocks.popleft()
        self._count(now, block.first, block.stop)
        (self.ahead if actor.blocks else self.idle).append((actor, life))
        if actor.blocks:
            self._begin(now, actor)

    def _count(self, now: float, first: int, stop: int) -> None:
        """These shards are there."""
        self.made += stop - first
        self.left -= stop - first
        while first < stop:
            part = first // self.work.part_shards
            end = min(stop, (part + 1) * self.work.part_shards)
            self.missing[part] -= end - first
            if not self.missing[part]:
                self.merge_at = max(self.merge_at, now) + self.work.merge
            first = end

    def _strike(self, now: float, strike: Strike) -> None:
        self._next_strike()
        node = strike.node
        if not self.there[node]:
            return
        self.there[node] = False
        self.lives[node] += 1
        back: list[_Block] = []
        for actor in self.actors[node * self.cluster.actors : (node + 1) * self.cluster.actors]:
            if actor.blocks and actor.lives >= 0:
                back += self._cut(now, actor)
            actor.blocks.clear()
            actor.lives = -1
        self._at(now + self.cluster.notice, "noticed", tuple(back))
        if strike.back is not None:
            self._at(now + strike.back, "back", node)

    def _cut(self, now: float, actor: _Actor) -> list[_Block]:
        """What is left of an actor's blocks when it dies. A block that waits for the store counts as written."""
        first, *others = actor.blocks
        finished = min(first.stop - first.first, floor((now - actor.began) / self.work.shard + 1e-9))
        self._count(now, first.first, first.first + finished)
        self.lost += max(0.0, now - actor.began - finished * self.work.shard)
        rest = _Block(first.first + finished, first.stop)
        return [rest, *others] if rest.first < rest.stop else others

    def _noticed(self, now: float, blocks: tuple[_Block, ...]) -> None:
        self.pending.extendleft(reversed(blocks))

    def _back(self, now: float, node: int) -> None:
        self.there[node] = True
        for actor in self.actors[node * self.cluster.actors : (node + 1) * self.cluster.actors]:
            self._at(now + self.cluster.start, "ready", actor, self.lives[node])
