"""Finish a stage's run that asks for streams: in this process with no cluster, or on an engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from slamray.stage.stage import Asking, Facts, Send
from slamray.stage.work import Row, Stream


def here(streams: Sequence[Stream]) -> Iterator[int]:
    """Kernels run one pool after another, rows through Arrow as on the cluster."""
    for number, stream in enumerate(streams):
        rows: list[Row] = list(stream.rows)
        for pool in stream.pools:
            kernel = pool.kernel(**pool.args)
            rows = [kernel(row) for row in pa.Table.from_pylist(rows).to_pylist()]
        yield from (number for _ in rows)


def finish(asking: Asking, send: Send = here) -> Facts:
    """The facts that a run ends with."""
    while True:
        try:
            stream = next(asking)
        except StopIteration as end:
            facts: Facts = end.value
            return facts
        for _ in send([stream]):
            pass
