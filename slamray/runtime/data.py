"""Stream shards through pools of actors with Ray Data (the one `map_batches` site), or call one function."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset

from slamray.errors import BadInput
from slamray.stage.work import Metrics, Pool, Row

REFUSED = "refused"  # key of a row that stands for a BadInput
STREAM = "stream"  # key of the number of a row's stream


class _Actor:
    """Adapts a kernel to Ray Data; one row is one block, so that Ray never cuts or joins the rows of a shard."""

    def __init__(self, kernel: Callable[..., Callable[[Row], Row]], args: Mapping[str, Any]) -> None:
        self._kernel = kernel(**args)

    def __call__(self, table: pa.Table) -> pa.Table:
        return pa.Table.from_pylist([self._one(row) for row in table.to_pylist()])

    def _one(self, row: Row) -> Row:
        """BadInput travels as a row, through later pools untouched: Ray keeps only the text of an exception's cause."""
        if REFUSED in row:
            return row
        number = row.pop(STREAM)
        try:
            return self._kernel(row) | {STREAM: number}
        except BadInput as error:
            return {REFUSED: str(error)}


def stream(streams: Sequence[Sequence[Row]], pools: Sequence[Pool]) -> Iterator[int]:
    """Send every row of every stream through the pools in turn; yield the number of its stream as each is done.

    Rows are taken in order, and end in no fixed one. A worker that dies is replaced and its rows are done again, so
    kernels must be safe to repeat: write files atomically, return values that depend on the row alone. An exception in
    a kernel ends the stream.
    """
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    rows = [row | {STREAM: number} for number, own in enumerate(streams) for row in own]
    dataset: Dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    for pool in pools:
        dataset = dataset.map_batches(
            _Actor,
            fn_constructor_args=(pool.kernel, dict(pool.args)),
            batch_size=1,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=min(pool.actors, len(rows))),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus,
        )
    for row in dataset.iter_rows():
        if REFUSED in row:
            raise BadInput(row[REFUSED])
        yield row[STREAM]


def call(name: str, function: Callable[[], Metrics]) -> Metrics:
    """Run one function as a Ray task on one core; in a trial of a sweep too, whose own place has none."""
    task = ray.remote(num_cpus=1)(_call).options(name=name, scheduling_strategy="DEFAULT")
    result: Metrics = ray.get(task.remote(function))
    return result


def _call(function: Callable[[], Metrics]) -> Metrics:
    return function()
