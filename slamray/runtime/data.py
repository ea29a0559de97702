"""Send rows through pools of actors with Ray Data (the one `map_batches` site), or call one function."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset

from slamray.errors import BadInput
from slamray.stage.records import arrow_type, from_table, to_table
from slamray.stage.work import Pool

REFUSED = "refused"  # column of a BadInput's message: a row that holds one stands for it
SENDER = "sender"  # column of who sent a row: a number below that of the senders
ROW = "row"  # column of the record


BLOCKS = 4096  # of one stream, at most: the driver keeps a reference to each, some kB (chosen, not tuned)
ACTOR_BLOCKS = 4  # for each actor, if those are more: with fewer, many wait at the end (docs/results/simulation.md)


class _Actor:
    """Adapts a kernel to Ray Data, which gives it a block of rows and takes them one at a time, as they are made."""

    def __init__(self, pool: Pool) -> None:
        self._kernel, self._takes, self._gives = pool.load()

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        return (self._one(table.slice(place, 1)) for place in range(len(table)))

    def _one(self, envelope: pa.Table) -> pa.Table:
        """BadInput travels as a row, through later pools untouched: Ray keeps only the text of an exception's cause."""
        sender, refused = envelope[SENDER][0].as_py(), envelope[REFUSED][0].as_py()
        if refused:
            return _refusal(sender, self._gives, refused)
        record = pa.Table.from_struct_array(envelope[ROW].combine_chunks())
        row: Any = from_table(record, self._takes)[0]
        try:
            return _envelope(sender, [self._kernel(row)], self._gives)
        except BadInput as error:
            return _refusal(sender, self._gives, str(error))


def _envelope(sender: int, rows: Sequence[Any], kind: type) -> pa.Table:
    columns = {SENDER: [sender] * len(rows), REFUSED: [""] * len(rows)}
    return pa.table({**columns, ROW: to_table(rows, kind).to_struct_array()})


def _refusal(sender: int, kind: type, refused: str) -> pa.Table:
    return pa.table({SENDER: [sender], REFUSED: [refused], ROW: pa.nulls(1, arrow_type(kind))})


def most_blocks(actors: int) -> int:
    """Blocks of one stream through pools of at most so many actors."""
    return max(BLOCKS, ACTOR_BLOCKS * actors)


def _blocks(senders: Sequence[Sequence[Any]], actors: int) -> Iterator[pa.Table]:
    """What Ray hands out at a time: one row of a short stream, some of a long one, whose rows are made bit by bit."""
    rows = -(-sum(len(own) for own in senders) // most_blocks(actors))
    for number, own in enumerate(senders):
        for first in range(0, len(own), rows):
            yield _envelope(number, own[first : first + rows], type(own[first]))


def stream(senders: Sequence[Sequence[Any]], pools: Sequence[Pool]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Send every record of every sender through the pools in turn; yield the sender of each, and what came of it.

    Rows are taken in order, and end in no fixed one. A worker that dies is replaced and its rows are done again, so
    kernels must be safe to repeat: write files atomically, return values that depend on the row alone. An exception in
    a kernel ends the stream.
    """
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    rows = sum(len(own) for own in senders)
    blocks = _blocks(senders, max(pool.actors for pool in pools))
    held: list[Any] = [ray.put(block) for block in blocks]  # by Ray's store: one at a time is in this process
    dataset: Dataset = ray.data.from_arrow_refs(held)
    for pool in pools:
        dataset = dataset.map_batches(
            _Actor,
            fn_constructor_args=(pool,),
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=min(pool.actors, rows)),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus,
        )
    for row in dataset.iter_rows():
        if row[REFUSED]:
            raise BadInput(row[REFUSED])
        yield row[SENDER], row[ROW]


def call(name: str, function: Callable[[], Any], gpus: float = 0, cpus: float = 1) -> Any:
    """Run one function as a Ray task on one core; in a trial of a sweep too, whose own place has none.

    Where there are GPUs its process is not used again: CUDA looks for them once, and who asks for one next would not
    find it where none was visible to the first.
    """
    once = 1 if ray.cluster_resources().get("GPU") else 0  # 0: any number of calls
    task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_calls=once)(_call)
    named = task.options(name=name, scheduling_strategy="DEFAULT")
    return ray.get(named.remote(function))


def _call(function: Callable[[], Any]) -> Any:
    return function()
