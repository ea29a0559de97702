"""Units for a text from a text-to-token model: batched generation in which no row depends on another.

Rows of a batch have prompts of one padded length, and each draws by numbers of its own seed, so what a row says does
not depend on which rows are beside it, or on how many.

Legend: B rows, T tokens, U units and the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import DynamicCache, PreTrainedModel

from slamray.config.joint import TextToTokenSampling
from slamray.tokens.vocabulary import Vocabulary

BUCKET = 16  # prompts are padded to multiples of it; chosen, not tuned
# The matrix products of a batch have this many rows, or twice as many, and so on: for few rows MKL takes other kernels,
# whose sums round otherwise (for fewer than 16, measured on an Intel Xeon). tests/model/test_text_to_units.py compares.
LEAST_ROWS = 32
LOOP_UNITS, LOOP_TIMES = 4, 6  # as many units that come so often in a row are a loop; chosen, not tuned


@dataclass(frozen=True)
class Request:
    """A text to be spoken: the ids of its prompt, at most how many units, and what its draws are seeded by."""

    prompt_ids: Sequence[int]
    most_units: int
    seed: int


@dataclass(frozen=True)
class Spoken:
    """Units (T,) uint16, deduplicated; why they ended: `end`, or in vain `length` or `loop`."""

    units: npt.NDArray[np.uint16]
    why: str


def speak_texts(
    model: PreTrainedModel,
    requests: Sequence[Request],
    vocabulary: Vocabulary,
    sampling: TextToTokenSampling,
    batch: int,
) -> list[Spoken]:
    """Units of each text, in their order. batch: rows at once; it changes no unit on a CPU."""
    found: list[Spoken | None] = [None] * len(requests)
    with torch.inference_mode():
        for places in _batches(requests, batch):
            said = _Batch(model, [requests[place] for place in places], vocabulary, sampling).run()
            for place, one in zip(places, said, strict=True):
                found[place] = one
    return [one for one in found if one is not None]


def _batches(requests: Sequence[Request], batch: int) -> Iterator[list[int]]:
    """Places of requests of one padded length, those of like length together."""
    by_width: dict[int, list[int]] = {}
    for place, request in enumerate(requests):
        by_width.setdefault(_padded(len(request.prompt_ids)), []).append(place)
    for width in sorted(by_width):
        places = sorted(by_width[width], key=lambda place: requests[place].most_units)
        yield from (places[first : first + batch] for first in range(0, len(places), batch))


def _padded(length: int) -> int:
    """At least one place of padding: transformers drops a mask that hides nothing, and another kernel adds up then."""
    return (length // BUCKET + 1) * BUCKET


def _rows_for(count: int) -> int:
    """LEAST_ROWS, or twice that, and so on: the first that holds so many."""
    rows = LEAST_ROWS
    while rows < count:
        rows *= 2
    return rows


class _Batch:
    """Rows that are generated together; a row that has ended makes room."""

    def __init__(
        self,
        model: PreTrainedModel,
        requests: Sequence[Request],
        vocabulary: Vocabulary,
        sampling: TextToTokenSampling,
    ) -> None:
        self._model, self._vocabulary, self._sampling = model, vocabulary, sampling
        self._device = next(model.parameters()).device
        # The last ones are beside the others, so that there are enough.
        rows = [*requests, *[requests[0]] * (_rows_for(len(requests)) - len(requests))]
        self._limits = [request.most_units for request in rows]
        self._draws = [np.random.default_rng(request.seed).random(request.most_units) for request in rows]
        self._said: list[list[int]] = [[] for _ in rows]
        self._why = [""] * len(rows)
        self._asked = len(requests)
        width = _padded(len(requests[0].prompt_ids))
        ids_BT = torch.full((len(rows), width), vocabulary.pad)
        seen_BT = torch.zeros_like(ids_BT)
        for row, request in enumerate(rows):
            ids_BT[row, width - len(request.prompt_ids) :] = torch.tensor(list(request.prompt_ids))
            seen_BT[row, width - len(request.prompt_ids) :] = 1
        self._ids_BT, self._seen_BT = ids_BT.to(self._device), seen_BT.to(self._device)

    def run(self) -> list[Spoken]:
        cache: Any = DynamicCache(config=self._model.config)
        alive = list(range(len(self._said)))
        ids_BT, seen_BT = self._ids_BT, self._seen_BT
        place_BT = (seen_BT.cumsum(1) - 1).clamp(min=0)
        while True:
            logits_BTV = self._model(
                input_ids=ids_BT,
                attention_mask=seen_BT,
                position_ids=place_BT,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits
            drawn = self._draw(logits_BTV[:, -1].float(), alive)
            going = [number for number, row in enumerate(alive) if row < self._asked and not self._why[row]]
            if not going:
                break
            if (fewer := _rows_for(len(going))) < len(alive):  # those that have ended make room
                ended = [number for number in range(len(alive)) if number not in going]
                places = [*going, *ended[: fewer - len(going)]]
                kept = torch.tensor(places, device=self._device)
                cache.batch_select_indices(kept)
                alive, drawn = [alive[number] for number in places], [drawn[number] for number in places]
                seen_BT, place_BT = seen_BT[kept], place_BT[kept]
            ids_BT = torch.tensor(drawn, device=self._device)[:, None]
            seen_BT = torch.cat([seen_BT, torch.ones_like(ids_BT)], 1)
            place_BT = place_BT[:, -1:] + 1
        return [
            Spoken(np.array(units, np.uint16), why)
            for units, why in zip(self._said[: self._asked], self._why[: self._asked], strict=True)
        ]

    def _draw(self, logits_BV: torch.Tensor, alive: Sequence[int]) -> list[int]:
        """The next id of each row. The last unit is not drawn again: units are deduplicated."""
        vocabulary, sampling = self._vocabulary, self._sampling
        units = vocabulary.unit_ids
        logits_BU = torch.cat([logits_BV[:, units.start : units.stop], logits_BV[:, vocabulary.bos, None]], 1).double()
        last_B = torch.tensor([self._said[row][-1] if self._said[row] else -1 for row in alive], device=self._device)
        begun_B = last_B >= 0
        logits_BU[begun_B, last_B[begun_B]] = -torch.inf
        logits_BU[~begun_B, -1] = -torch.inf  # nothing is no speech
        least_B1 = logits_BU.topk(min(sampling.top_k, logits_BU.shape[1]), dim=1).values[:, -1:]
        logits_BU = logits_BU.masked_fill(logits_BU < least_B1, -torch.inf)
        heaped_BU = (logits_BU / sampling.temperature).softmax(1).cumsum(1).cpu()
        numbers = [self._draws[row][len(self._said[row])] if not self._why[row] else 0.0 for row in alive]
        chosen_B = torch.searchsorted(heaped_BU, torch.tensor(numbers, dtype=torch.float64)[:, None])[:, 0]
        ids = []
        for row, choice in zip(alive, chosen_B.clamp(max=heaped_BU.shape[1] - 1).tolist(), strict=True):
            if not self._why[row]:
                self._add(row, choice)
            ids.append(vocabulary.bos if choice == vocabulary.n_units else vocabulary.first_unit + choice)
        return ids

    def _add(self, row: int, choice: int) -> None:
        said = self._said[row]
        if choice == self._vocabulary.n_units:
            self._why[row] = "end"
            return
        said.append(choice)
        if len(said) == self._limits[row]:
            self._why[row] = "length"
        elif is_loop(said):
            self._why[row] = "loop"


def is_loop(units: Sequence[int]) -> bool:
    """Whether the last units say the same over and over: a stretch of 2 to `LOOP_UNITS`, `LOOP_TIMES` in a row."""
    for length in range(2, LOOP_UNITS + 1):
        tail = units[-length * LOOP_TIMES :]
        if len(tail) == length * LOOP_TIMES and all(a == b for a, b in zip(tail, tail[length:], strict=False)):
            return True
    return False
