"""Stage `published`: the recordings of published test sets, each encoded once, and the pairs they make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from slamray.config.base import Located, asset_path
from slamray.config.speech import ListeningSettings
from slamray.config.tree import Recipe
from slamray.data.item_pairs import ItemPair
from slamray.data.published_sets import KINDS, PublishedSet, kind_of, read_set
from slamray.data.recordings import Recording
from slamray.errors import BadInput
from slamray.stage.folder import Folder
from slamray.stage.stage import Inputs, Stage
from slamray.stage.work import Machine
from slamray.stages.speak_and_listen import SpeechFacts, listen

PAIRS = "pairs.parquet"
SHARD_RECORDINGS = 64  # items last seconds, not minutes as documents do; chosen, not tuned
_SIDES = ("prompt", "chosen", "rejected")
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("pair_id", "metric", "part", "item")),
        *((name, pa.list_(pa.string())) for name in _SIDES),
        *((f"{name}_text", pa.string()) for name in _SIDES),
    ]
)


@dataclass(frozen=True)
class PublishedFacts(SpeechFacts):
    """sets: by name, what is in each, and where it is not as published."""

    sets: Mapping[str, Any]


def stages(recipe: Recipe) -> tuple[Stage, ...]:
    """The stage, where `evaluate.sets` names any; BadInput for a kind of set that is not known."""
    if not recipe.evaluate.sets:
        return ()
    for name in recipe.evaluate.sets:
        if KINDS[kind_of(name)].across and not recipe.joint.kinds:
            raise BadInput(f"evaluate.sets.{name}: a model of units alone does not read; use it with joint.kinds")
    sets = Sets(tuple(sorted(recipe.evaluate.sets.items())), recipe.evaluate.scored == "sequence")
    listening = ListeningSettings(
        encoder=recipe.speech.encoder,
        shard_documents=SHARD_RECORDINGS,
        sample_documents=0,
        max_bad_share=recipe.speech.max_bad_share,
    )
    settings = {
        "sets": Located(sets.content, sets),
        "listening": listening,
    }
    return (Stage("published", run, settings, version=2, cost=sets.cost),)


@dataclass(frozen=True)
class Sets:
    """The sets that a recipe names, (name, folder); they are read when something is asked of them, and once."""

    named: tuple[tuple[str, str], ...]
    joined: bool = False  # whether a prompt and its ending are encoded as one sound, too

    @cached_property
    def found(self) -> list[PublishedSet]:
        """BadInput for whatever is wrong with one of them."""
        return [read_set(name, Path(asset_path(folder)), self.joined) for name, folder in self.named]

    def content(self) -> dict[str, Any]:
        return {one.name: dict(one.identity) for one in self.found}

    def cost(self) -> str:
        notes = "".join(f"; {one.name}: {one.facts['note']}" for one in self.found if one.facts["note"])
        return f"encodes {sum(len(one.recordings) for one in self.found):,} recordings{notes}"


def run(inputs: Inputs, out: Folder, machine: Machine, sets: Located, listening: ListeningSettings) -> PublishedFacts:
    """Encode the recordings of all sets; pairs to Parquet."""
    found: list[PublishedSet] = sets.place.found
    heard = [recording for one in found for recording in sorted(one.recordings, key=_place)]
    facts = listen(heard, out, machine, listening, "published", "speech.max_bad_share")
    rows = [asdict(pair) for one in found for pair in one.pairs]
    out.write_table(PAIRS, pa.Table.from_pylist(rows, SCHEMA))
    return PublishedFacts(**asdict(facts), sets={one.name: dict(one.facts) for one in found})


def _place(recording: Recording) -> tuple[str, str, int]:
    """As files hold them, so that one row group of a Parquet file after another is read."""
    return recording.path, recording.column, recording.parquet_row or 0


def read(folder: Folder) -> list[ItemPair]:
    """The pairs as they were read, those of a set together."""
    rows = folder.read_table(PAIRS).to_pylist()
    return [ItemPair(**row | {side: tuple(row[side]) for side in _SIDES}) for row in rows]
