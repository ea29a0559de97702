"""Continue prompts with the paper's sampling (docs/paper.md 1.5), in units, in text or in both; count what went wrong.

A model of text and speech says what it is asked for: the ids of the other modality are never drawn.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedModel

from slamray.config.evaluation import SamplingSettings
from slamray.model.saved_vocabulary import model_vocabulary
from slamray.tokens.autobleu import auto_bleu
from slamray.tokens.vocabulary import Vocabulary

Drawn = Literal["speech", "text", "both"]  # which ids a model of text and speech may say


@dataclass(frozen=True)
class Prompt:
    """The beginning of a recording: its units, deduplicated."""

    prompt_id: str
    units: np.ndarray


@dataclass(frozen=True)
class Continuation:
    """What a model said after a prompt, without the prompt; `ended` if it closed the sequence itself."""

    prompt_id: str
    prompt: np.ndarray
    units: np.ndarray
    ended: bool


@dataclass(frozen=True)
class SaidIds:
    """Ids (T,) that a model said after a prompt, without the last <S>; `ended` if it said that itself."""

    ids: np.ndarray
    ended: bool


def cut_prompt(prompt_id: str, units: np.ndarray, durations: np.ndarray, seconds: float, rate_hz: float) -> Prompt:
    """The units that begin within the first `seconds`, given their durations in frames at rate_hz."""
    begins = np.cumsum(durations) - durations
    return Prompt(prompt_id, np.asarray(units)[begins < seconds * rate_hz])


def choose_prompts(prompt_ids: Iterable[str], n: int, seed: int) -> list[str]:
    """At most n ids, drawn by seed from all in order, so that no order of files can change the set; sorted."""
    ordered = sorted(prompt_ids)
    return sorted(random.Random(f"prompts/{seed}").sample(ordered, min(n, len(ordered))))


def continue_units(model: PreTrainedModel, prompts: Sequence[Prompt], config: SamplingSettings) -> list[Continuation]:
    """Sample one continuation of each prompt, in the order given.

    The draws depend on the seed, the order and config.batch (one random stream for each batch), all three identity;
    the random state of the caller is left as it was. PAD is never drawn. As in transformers, the repetition penalty
    counts the prompt's units too.
    """
    vocabulary = model_vocabulary(model.config.to_dict(), "the model")
    settings = generation_config(config, vocabulary)
    made: list[Continuation] = []
    for start in range(0, len(prompts), config.batch):
        batch = prompts[start : start + config.batch]
        asked = [[*vocabulary.before_units, *vocabulary.to_tokens(prompt.units).tolist()] for prompt in batch]
        seed = config.seed * 1_000_003 + start  # a prime, so that no two seeds share streams
        for prompt, said in zip(batch, continue_ids(model, asked, settings, vocabulary, seed), strict=True):
            made.append(Continuation(prompt.prompt_id, prompt.units, vocabulary.to_units(said.ids), said.ended))
    return made


def continue_ids(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    settings: GenerationConfig,
    vocabulary: Vocabulary,
    seed: int,
) -> list[SaidIds]:
    """Continue each prompt, a batch of them together; what is drawn depends on the seed and on the whole batch.

    The random state of the caller is left as it was.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.inference_mode():
        torch.manual_seed(seed)
        tokens_BT, seen_BT = _left_padded(prompts, vocabulary)
        out_BT = model.generate(  # type: ignore[operator]
            tokens_BT.to(device), attention_mask=seen_BT.to(device), generation_config=settings
        )
    model.train(was_training)
    made = []
    for row in out_BT[:, tokens_BT.shape[1] :].cpu().numpy():
        ends = np.flatnonzero(row == vocabulary.bos)
        made.append(SaidIds(row[: ends[0]] if len(ends) else row, bool(len(ends))))
    return made


def generation_config(config: SamplingSettings, vocabulary: Vocabulary, drawn: Drawn = "speech") -> GenerationConfig:
    """The paper's sampling (docs/paper.md 1.5) as transformers takes it; <S> ends a sequence.

    Only units are drawn and <S>, or text tokens and <S>, or all that is no padding.
    """
    return GenerationConfig(
        do_sample=True,
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=1.0,
        repetition_penalty=config.repetition_penalty,
        max_new_tokens=config.max_new_tokens,
        bos_token_id=vocabulary.bos,
        eos_token_id=vocabulary.bos,
        pad_token_id=vocabulary.pad,
        suppress_tokens=_never_drawn(vocabulary, drawn) or None,
    )


def greedy_config(most_tokens: int, vocabulary: Vocabulary, drawn: Drawn) -> GenerationConfig:
    """The likeliest token each time, of the ids that may be drawn."""
    return GenerationConfig(
        do_sample=False,
        max_new_tokens=most_tokens,
        bos_token_id=vocabulary.bos,
        eos_token_id=vocabulary.bos,
        pad_token_id=vocabulary.pad,
        suppress_tokens=_never_drawn(vocabulary, drawn) or None,
    )


def _never_drawn(vocabulary: Vocabulary, drawn: Drawn) -> list[int]:
    if not vocabulary.is_joint or drawn == "both":
        return [vocabulary.pad] if vocabulary.pad != vocabulary.bos else []
    kept = vocabulary.unit_ids if drawn == "speech" else vocabulary.text_ids
    never = [token for token in range(vocabulary.size) if token not in kept and token != vocabulary.bos]
    return never if vocabulary.pad == vocabulary.bos or vocabulary.pad in never else [vocabulary.pad, *never]


def describe(continuations: Sequence[Continuation], n: int = 2) -> dict[str, Any]:
    """continuations, empty, ended, mean_units, and auto_bleu: the mean over the continuations that are not empty.

    auto_bleu (0..1) is of units, not words: it tells two checkpoints apart, and is not the paper's, which is of a
    transcript. None if every continuation is empty, rather than a number that stands for nothing.
    """
    said = [continuation for continuation in continuations if len(continuation.units)]
    scores = [auto_bleu(continuation.units.tolist(), n) for continuation in said]
    return {
        "continuations": len(continuations),
        "empty": len(continuations) - len(said),
        "ended": sum(continuation.ended for continuation in continuations),
        "mean_units": float(np.mean([len(c.units) for c in continuations])) if continuations else 0.0,
        "auto_bleu": float(np.mean(scores)) if scores else None,
    }


def _left_padded(prompts: Sequence[Sequence[int]], vocabulary: Vocabulary) -> tuple[torch.Tensor, torch.Tensor]:
    """(token ids, attention mask), both int64 (B, T), padded on the left so that all continue at T."""
    width = max(len(prompt) for prompt in prompts)
    tokens_BT = torch.full((len(prompts), width), vocabulary.pad)
    seen_BT = torch.zeros_like(tokens_BT)
    for row, prompt in enumerate(prompts):
        tokens_BT[row, width - len(prompt) :] = torch.tensor(list(prompt))
        seen_BT[row, width - len(prompt) :] = 1
    return tokens_BT, seen_BT
