"""Text to units by a text-to-token model of random weights: how fast, and whether a batch changes what is said."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from gpu_parts.bench import Bench, Measured
from gpu_parts.training import UNITS, random_lengths
from slamray.config.joint import TextToTokenSampling
from slamray.model.families import family_config
from slamray.model.text_to_units import Request, Spoken, speak_texts
from slamray.model.unit_lm import unit_lm_config
from slamray.tokens.vocabulary import Vocabulary

GOAL = 25_000.0  # units a second of 2411.17607's text-to-token model on one H800 (docs/paper.md 2.2)


def spoken_text(bench: Bench) -> None:
    """Units a second of the stage's kernel, at each size of batch, and the share that a batch of 1 says alike.

    Random weights end no span by themselves but by chance, one unit in 501, so a span is nearly as long as it may be.
    """
    sizes, sampling = bench.sizes, TextToTokenSampling()
    text = Vocabulary.of_text(sizes.text_tokens, 0, 1, "random")
    vocabulary = Vocabulary.joint(text, UNITS)
    torch.manual_seed(0)
    dtype = torch.bfloat16 if bench.device.kind == "cuda" else torch.float32  # as in the stage
    with torch.device(bench.device.kind):
        config = unit_lm_config(family_config(sizes.family), vocabulary)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    requests = _requests(bench, vocabulary)
    few = requests[: sizes.compared_spans]
    alone = [speak_texts(model, [request], vocabulary, sampling, 1)[0] for request in few]
    for batch in sizes.span_batches:
        what = f"spoken text, batches of {batch}"
        if not bench.room(what):
            continue
        with bench.attempt(what):
            speak = partial(speak_texts, model, requests, vocabulary, sampling, batch)
            said = speak()
            took = bench.device.seconds(speak, 1, 2)
            units = sum(len(one.units) for one in said)
            speed = Measured.of([units / seconds for seconds in took])
            on_a_cpu = bench.device.kind == "cpu"  # there a batch changes no unit; a GPU's sums depend on its shape
            same = alike(alone, said)
            bench.tell(
                what,
                "units/s",
                speed,
                gates={"units": same == 1.0} if on_a_cpu else {},
                goals={"25,000 units/s": (speed.value, GOAL)},
                units_as_in_a_batch_of_1=same,
                spans_as_in_a_batch_of_1=float(np.mean([one == 1.0 for one in map(alike_span, alone, said)])),
                units=units,
                prompt_tokens=sum(len(request.prompt_ids) for request in requests),
                ended=sum(one.why == "end" for one in said),
            )


def alike(alone: Sequence[Spoken], said: Sequence[Spoken]) -> float:
    """The share of units that are equal as far as a span is the same from its beginning."""
    shares = [alike_span(one, other) * len(one.units) for one, other in zip(alone, said, strict=False)]
    return sum(shares) / sum(len(one.units) for one in alone)


def alike_span(alone: Spoken, said: Spoken) -> float:
    """How much of a span is said before the first unit that differs."""
    shorter = min(len(alone.units), len(said.units))
    differs = np.flatnonzero(alone.units[:shorter] != said.units[:shorter])
    return float(differs[0] if len(differs) else shorter) / max(len(alone.units), 1)


def _requests(bench: Bench, vocabulary: Vocabulary) -> list[Request]:
    """Spans as long as the stage cuts them, of random text."""
    sizes, rng = bench.sizes, np.random.default_rng(4)
    texts = random_lengths(rng, sizes.span_text_tokens, sizes.spans)
    units = random_lengths(rng, sizes.span_units, sizes.spans)
    return [
        Request(
            [vocabulary.bos, vocabulary.text_tag, *rng.integers(2, sizes.text_tokens, length), vocabulary.speech_tag],
            most,
            seed,
        )
        for seed, (length, most) in enumerate(zip(texts, units, strict=True))
    ]
