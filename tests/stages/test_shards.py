"""Shards become parts in their order, whoever made them and whenever a run was killed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from support.machine import InProcess

from slamray.config.speech import ListeningSettings
from slamray.data.recordings import Recording
from slamray.errors import BadInput
from slamray.stage import tables
from slamray.stage.folder import Folder
from slamray.stage.parts import RowReader, Stretches, parts_of
from slamray.stage.work import SHARDS, Pool
from slamray.stages import shards, speak_and_listen
from slamray.stages.shards import Plan, Shard, ShardDone, Todo, write_shard

RECORDINGS = [Recording(f"{n:04d}", f"{n}.wav", split="train" if n % 3 else "") for n in range(23)]


def row(name: str, split: str) -> dict[str, Any]:
    count = int(name) % 5 + 1
    return {
        "utterance_id": name, "split": split, "units": range(count), "durations": [2] * count, "sentences": [],
        "words": [], "speaker": "", "seconds": count / 10,
    }  # fmt: skip


@dataclass
class Made:
    """Kernel that makes units of recordings, a few of which are bad; it may end the run at a shard."""

    die_at: int = -1

    def __call__(self, shard: Shard) -> ShardDone:
        if shard.number == self.die_at:
            raise KeyboardInterrupt
        assert not shard.is_done
        found = RowReader().read(shard.requests).to_pylist()
        good = [row(one["utterance_id"], one["split"]) for one in found if int(one["utterance_id"]) % 10 != 7]
        bad = [{"id": one["utterance_id"], "reason": "bad"} for one in found if int(one["utterance_id"]) % 10 == 7]
        write_shard(shard, pa.Table.from_pylist(good, shards.SCHEMA), bad)
        return ShardDone(shard.number, 1.0)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Made:
    made = Made()
    monkeypatch.setattr(speak_and_listen, "_pools", lambda *args: [Pool(lambda: made, {}, 1)])
    monkeypatch.setattr(shards, "PART_ROWS", 8)  # four shards of two
    return made


class OneKernel(InProcess):
    """Its kernels are functions of one shard; the order is the last first."""

    def rows(self, name: str, rows: Any, pools: Any, total: int, unit: str, done: Any = lambda row: None) -> None:
        work = pools[0].kernel()
        for one in reversed(rows):
            done({"number": work(one).number})


def listen(out: Folder, max_bad: float = 0.2) -> speak_and_listen.SpeechFacts:
    listening = ListeningSettings(shard_documents=2, max_bad_share=max_bad)
    return speak_and_listen.listen(RECORDINGS, out, OneKernel(), listening, "test", "recorded.max_bad_share")


def files(folder: Folder) -> dict[str, bytes]:
    return {str(p.relative_to(folder.fetch())): p.read_bytes() for p in folder.fetch().rglob("*") if p.is_file()}


def test_parts_hold_the_rows_in_the_order_of_the_requests_and_say_what_is_in_them(tmp_path: Path, kernel: Made) -> None:
    out = Folder(tmp_path)
    facts = listen(out)
    table = tables.read_units(out)
    good = [one for one in RECORDINGS if int(one.utterance_id) % 10 != 7]
    assert table["utterance_id"].to_pylist() == [one.utterance_id for one in good]
    assert table["split"].to_pylist() == [one.split for one in good]
    units = sum(int(one.utterance_id) % 5 + 1 for one in good)
    assert (facts.utterances, facts.quarantined, facts.units, facts.frames) == (21, 2, units, 2 * units)
    assert facts.audio_seconds == pytest.approx(units / 10) and facts.units_per_second == pytest.approx(10)
    assert [one["id"] for one in tables.read_quarantine(out)] == ["0007", "0017"]
    assert out.names("units/*") == [f"units/part-0000{n}.parquet" for n in range(3)]
    assert not out.exists(SHARDS)


def test_a_run_that_was_killed_at_any_shard_goes_on_to_the_same_files(tmp_path: Path, kernel: Made) -> None:
    listen(Folder(tmp_path / "whole"))
    for place in range(12):
        kernel.die_at, out = place, Folder(tmp_path / str(place))
        with pytest.raises(KeyboardInterrupt):
            listen(out)
        kernel.die_at = -1
        listen(out)  # the kernel asserts that no shard is made twice
        assert files(out) == files(Folder(tmp_path / "whole"))


def test_a_run_that_was_killed_while_it_merged_goes_on_to_the_same_files(
    tmp_path: Path, kernel: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    listen(Folder(tmp_path / "whole"))
    remove = Folder.remove
    for place in range(20):  # removals of shards, and of the folder
        out, left = Folder(tmp_path / str(place)), iter(range(place))

        def dying(self: Folder, name: str, left: Any = left) -> None:
            if next(left, None) is None:
                raise OSError("killed")
            remove(self, name)

        with monkeypatch.context() as patch:
            patch.setattr(Folder, "remove", dying)
            try:
                listen(out)
            except OSError:
                listen_again = True
            else:
                listen_again = False
        assert listen_again == (place < 13)  # twelve shards and their folder
        listen(out)
        assert files(out) == files(Folder(tmp_path / "whole"))


def test_too_many_bad_recordings_are_counted_over_all_parts(tmp_path: Path, kernel: Made) -> None:
    with pytest.raises(BadInput, match=r"recorded.max_bad_share: 2 of 23 rows are bad.*first: 0007: bad"):
        listen(Folder(tmp_path), max_bad=0.05)


def test_shards_are_made_when_they_are_asked_for(tmp_path: Path, kernel: Made) -> None:
    out = Folder(tmp_path)
    listen(out)
    plan = Plan(Stretches(parts_of(out, "requests"), 2), out, 2, samples=3)
    todo = Todo(plan, np.arange(12))
    assert len(todo) == 12 and [shard.number for shard in todo[3:5]] == [3, 4]
    assert [shard.samples for shard in todo] == [2, 1, *[0] * 10]
    assert (todo[11].requests.start, todo[11].requests.stop) == (22, 23)
    assert plan.missing() == {}
