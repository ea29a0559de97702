"""Metric `text_continuations`: what a model of text and speech writes after prompts that it heard or read.

What it says after prompts that it heard is `unit_auto_bleu`'s; what it says after some that it read is kept as sound.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedModel

from slamray.config.evaluation import ScoringSettings
from slamray.evaluate.generative_perplexity import mean_auto_bleu
from slamray.evaluate.metrics import READ, Material
from slamray.model.sampling import continue_ids, generation_config

MOST_TOKENS = 40  # that are written: a sentence or three; chosen, not tuned
PROMPT_TOKENS = 16  # of a text that is read; chosen, not tuned


@dataclass(frozen=True)
class Written:
    """heard: the id of the prompt's utterance, where it was heard. read: its text, where it was read."""

    heard: str
    read: str
    said: str


@dataclass(frozen=True)
class TextContinuations:
    """auto_bleu: mean over what holds a word, of words; None where nothing does. ended: by the model itself."""

    continuations: int
    ended: int
    mean_tokens: float
    auto_bleu: float | None
    samples: Sequence[Written]


def measure_text_continuations(
    model: PreTrainedModel, material: Material, scoring: ScoringSettings
) -> TextContinuations:
    """Of `sampling.prompts` prompts that are heard and as many that are read; text tokens alone are drawn."""
    vocabulary, sampling, decode = material.vocabulary, scoring.sampling, material.decode
    heard = material.prompts(sampling.prompts, sampling.seed)
    texts = [ids[:PROMPT_TOKENS] for ids in itertools.islice(material.texts(), sampling.prompts)]
    begin = [vocabulary.bos, vocabulary.text_tag]
    asked = [
        *([*vocabulary.before_units, *vocabulary.to_tokens(one.units).tolist(), vocabulary.text_tag] for one in heard),
        *([*begin, *ids] for ids in texts),
    ]
    if not asked:
        return TextContinuations(0, 0, 0.0, None, ())
    settings = generation_config(sampling.model_copy(update={"max_new_tokens": MOST_TOKENS}), vocabulary, "text")
    said = continue_ids(model, asked, settings, vocabulary, sampling.seed)
    written = [decode(one.ids.tolist()).strip() for one in said]
    prompts = [*((one.prompt_id, "") for one in heard), *(("", decode(ids)) for ids in texts)]
    to_speak = [[*begin, *ids, vocabulary.speech_tag] for ids in texts[: scoring.audio_samples]]
    if to_speak:
        spoken = continue_ids(model, to_speak, generation_config(sampling, vocabulary), vocabulary, sampling.seed)
        for number, one in enumerate(spoken):
            if len(one.ids):
                material.keep_sound(f"{READ}{number}", vocabulary.to_units(one.ids))
    return TextContinuations(
        len(said),
        sum(one.ended for one in said),
        float(np.mean([len(one.ids) for one in said])),
        mean_auto_bleu(written),
        [Written(*prompt, text) for prompt, text in zip(prompts, written, strict=True)],
    )
