"""Units for a text from a text-to-token model: batched generation in which no row depends on another.

Each place of a batch holds one span: it takes the ids of its prompt one by one, then what it draws by numbers of its
own seed, and gives way to the next span when it has ended. A step is one token of every place, of one shape for all,
so what a span says does not depend on which spans are beside it, or on how many.

Legend: B places of the batch, G key and value heads, K keys, T tokens, D channels, U units and the end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin

from slamray.config.joint import TextToTokenSampling
from slamray.model.attention import as_mask
from slamray.tokens.vocabulary import Vocabulary

# The matrix products of a step have this many rows, or twice as many, and so on: for few rows MKL takes other kernels,
# whose sums round otherwise (for fewer than 16, measured on an Intel Xeon). tests/model/test_text_to_units.py compares.
LEAST_ROWS = 32
KEYS = 64  # attention sees a multiple of so many keys, those that are there first, for the same reason
LOOP_UNITS, LOOP_TIMES = 4, 6  # as many units that come so often in a row are a loop; chosen, not tuned
TAIL = LOOP_UNITS * LOOP_TIMES  # units that are looked at for a loop


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
    if not requests:
        return []
    with torch.inference_mode():
        return _Speaking(model, requests, vocabulary, sampling, batch).run()


class _Layer(CacheLayerMixin):  # type: ignore[misc]  # transformers is untyped here
    """Keys and values (B, G, K, D) of one layer; each place writes where its own span is."""

    is_compileable = False
    is_sliding = False

    def __init__(self, keys: int) -> None:
        super().__init__()
        self.most = self.seen = keys
        self.place_B: torch.Tensor | None = None

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        batch, heads, _, width = key_states.shape
        self.keys = key_states.new_zeros(batch, heads, self.most, width)
        self.values = value_states.new_zeros(batch, heads, self.most, value_states.shape[-1])
        self.row_B = torch.arange(batch, device=key_states.device)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take one token's (B, G, 1, D); all that a step may look at."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        self.keys[self.row_B, :, self.place_B] = key_states[:, :, 0]
        self.values[self.row_B, :, self.place_B] = value_states[:, :, 0]
        return self.keys[:, :, : self.seen], self.values[:, :, : self.seen]

    def keep(self, kept_B: torch.Tensor) -> None:
        """These places alone."""
        assert self.keys is not None and self.values is not None
        self.keys, self.values = self.keys[kept_B], self.values[kept_B]
        self.row_B = self.row_B[: len(kept_B)]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.seen, 0

    def get_seq_length(self) -> int:
        return 0  # positions and the mask are given with each call

    def get_max_length(self) -> int:
        return self.most


class _Speaking:
    """Spans that are spoken together; one that has ended makes room for the next."""

    def __init__(
        self,
        model: PreTrainedModel,
        requests: Sequence[Request],
        vocabulary: Vocabulary,
        sampling: TextToTokenSampling,
        batch: int,
    ) -> None:
        self._model, self._requests, self._sampling = model, requests, sampling
        self._device = next(model.parameters()).device
        self._first_unit, self._n_units = vocabulary.first_unit, vocabulary.n_units
        self._head = _head_of(model, vocabulary)
        # The longest first: then those in flight are of like length, and none of them is waited for at the end.
        order = sorted(range(len(requests)), key=lambda number: -_tokens(requests[number]))
        self._waiting, self._found = deque(order), [Spoken(np.zeros(0, np.uint16), "")] * len(requests)
        keys = _up(_tokens(requests[order[0]]), KEYS)
        self._layers = [_Layer(keys) for _ in range(model.config.num_hidden_layers)]
        self._cache = Cache(layers=[*self._layers])
        used = min(batch, len(requests))
        rows = _rows_for(used)
        self._request_B = np.full(rows, -1)  # which span a place holds; none: -1
        self._prompt_BT = np.zeros((rows, max(len(request.prompt_ids) for request in requests)), np.int64)
        self._length_B = np.ones(rows, np.int64)  # of its prompt
        self._most_B = np.ones(rows, np.int64)  # units
        self._place_B = np.zeros(rows, np.int64)  # tokens that it has taken
        most = max(request.most_units for request in requests)
        self._said_BT = np.zeros((rows, TAIL + most), np.int64)  # after TAIL numbers that are no units
        self._said_BT[:, :TAIL] = -1 - np.arange(TAIL)
        self._draws_BT = np.zeros((rows, most))
        for row in range(used):
            self._take_next(row)

    def run(self) -> list[Spoken]:
        ids_B = self._prompt_BT[:, 0].copy()
        while (self._request_B >= 0).any():
            logits_BU = self._step(ids_B)
            self._place_B += self._request_B >= 0
            number_B = self._place_B - self._length_B  # of the unit that comes now, the first is 0; below: prompt
            units_B = self._draw(logits_BU, number_B)
            self._note(units_B, number_B)
            if (fewer := _rows_for(int((self._request_B >= 0).sum()))) < len(self._request_B):
                units_B = units_B[self._shrink(fewer)]
            ids_B = self._next_ids(units_B)
        return self._found

    def _step(self, ids_B: npt.NDArray[np.int64]) -> torch.Tensor:
        """Logits (B, U) after one more token of every place."""
        place_B1 = torch.from_numpy(self._place_B).to(self._device)[:, None]
        seen = _up(int(self._place_B.max()) + 1, KEYS)
        for layer in self._layers:
            layer.seen, layer.place_B = seen, place_B1[:, 0]
        allowed_BK = torch.arange(seen, device=self._device) <= place_B1
        hidden_BTD = self._model.base_model(
            input_ids=torch.from_numpy(ids_B).to(self._device)[:, None],
            attention_mask=as_mask(allowed_BK[:, None, None], self._model.config._attn_implementation),
            position_ids=place_B1,
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        return self._head(hidden_BTD[:, -1])

    def _draw(self, logits_BU: torch.Tensor, number_B: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The next unit of each place, or n_units for the end.

        The last unit is not drawn again, as units are deduplicated, and the end is not the first: nothing is no speech.
        """
        row_B = np.arange(len(number_B))
        barred_B = np.where(number_B > 0, self._said_BT[row_B, TAIL - 1 + number_B.clip(1)], self._n_units)
        drawn_B = self._draws_BT[row_B, number_B.clip(0)]
        barred_B1, drawn_B1 = (torch.from_numpy(one_B).to(self._device)[:, None] for one_B in (barred_B, drawn_B))
        logits_BU = logits_BU.double().scatter(1, barred_B1, -torch.inf)
        least_B1 = logits_BU.topk(min(self._sampling.top_k, logits_BU.shape[1]), dim=1).values[:, -1:]
        logits_BU = logits_BU.masked_fill(logits_BU < least_B1, -torch.inf)
        heaped_BU = (logits_BU / self._sampling.temperature).softmax(1).cumsum(1)
        chosen_B1 = torch.searchsorted(heaped_BU, drawn_B1).clamp(max=self._n_units)
        chosen_B: npt.NDArray[np.int64] = chosen_B1[:, 0].cpu().numpy()
        return chosen_B

    def _note(self, units_B: npt.NDArray[np.int64], number_B: npt.NDArray[np.int64]) -> None:
        """Keep what was drawn, take leave of spans that are over, and let others in."""
        row_R = np.flatnonzero((self._request_B >= 0) & (number_B >= 0))
        unit_R, number_R = units_B[row_R], number_B[row_R]
        self._said_BT[row_R, TAIL + number_R] = unit_R
        tail_RT = self._said_BT[row_R[:, None], TAIL + number_R[:, None] - np.arange(TAIL)[::-1]]
        ended_R, full_R, loop_R = unit_R == self._n_units, number_R + 1 == self._most_B[row_R], is_loop(tail_RT)
        for place in np.flatnonzero(ended_R | full_R | loop_R):
            row, count = row_R[place], number_R[place] + (not ended_R[place])
            why = "end" if ended_R[place] else "length" if full_R[place] else "loop"
            said = self._said_BT[row, TAIL : TAIL + count].astype(np.uint16)
            self._found[self._request_B[row]] = Spoken(said, why)
            self._take_next(row)

    def _take_next(self, row: int) -> None:
        """The next span to a place, or none."""
        self._request_B[row], self._place_B[row], self._length_B[row] = -1, 0, 1
        if self._waiting:
            number = self._waiting.popleft()
            request = self._requests[number]
            self._request_B[row], self._length_B[row] = number, len(request.prompt_ids)
            self._most_B[row] = request.most_units
            self._prompt_BT[row, : len(request.prompt_ids)] = request.prompt_ids
            self._draws_BT[row, : request.most_units] = np.random.default_rng(request.seed).random(request.most_units)

    def _shrink(self, rows: int) -> npt.NDArray[np.int64]:
        """Fewer places: those that are in use, and as many others as are needed; which they were."""
        kept_B = np.argsort(self._request_B < 0, kind="stable")[:rows]
        for layer in self._layers:
            layer.keep(torch.from_numpy(kept_B).to(self._device))
        for name in ("request_B", "prompt_BT", "length_B", "most_B", "place_B", "said_BT", "draws_BT"):
            setattr(self, f"_{name}", getattr(self, f"_{name}")[kept_B])
        return kept_B

    def _next_ids(self, units_B: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """What each place takes in the next step: the next id of its prompt, or the unit that it has drawn."""
        row_B = np.arange(len(units_B))
        prompt_B = self._prompt_BT[row_B, self._place_B.clip(0, self._prompt_BT.shape[1] - 1)]
        return np.where(self._place_B < self._length_B, prompt_B, self._first_unit + units_B)


def _tokens(request: Request) -> int:
    return len(request.prompt_ids) + request.most_units


def _up(count: int, step: int) -> int:
    return -(-count // step) * step


def _rows_for(count: int) -> int:
    """LEAST_ROWS, or twice that, and so on: the first that holds so many."""
    rows = LEAST_ROWS
    while rows < count:
        rows *= 2
    return rows


def _head_of(model: PreTrainedModel, vocabulary: Vocabulary) -> Callable[[torch.Tensor], torch.Tensor]:
    """Hidden states (B, D) to logits (B, U) of units and the end: the rows of the head that are drawn from."""
    head, units = model.get_output_embeddings(), vocabulary.unit_ids
    rows = [*units, vocabulary.bos]
    bias_U = None if head.bias is None else head.bias[rows]
    return partial(nn.functional.linear, weight=head.weight[rows], bias=bias_U)


def is_loop(tail_RT: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """(R,) whether the last `TAIL` units say the same over and over.

    That is a stretch of 2 to `LOOP_UNITS`, `LOOP_TIMES` in a row.
    """
    found_R = np.zeros(len(tail_RT), np.bool_)
    for length in range(2, LOOP_UNITS + 1):
        own_RT = tail_RT[:, TAIL - length * LOOP_TIMES :]
        found_R |= (own_RT[:, length:] == own_RT[:, :-length]).all(1)
    return found_R
