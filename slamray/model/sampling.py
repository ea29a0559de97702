"""Continue spoken prompts in units, with the paper's sampling (docs/paper.md 1.5), and count what went wrong."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedModel

from slamray.config.evaluation import SamplingSettings
from slamray.model.saved_vocabulary import model_vocabulary
from slamray.tokens.autobleu import auto_bleu
from slamray.tokens.vocabulary import Vocabulary


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
    device = next(model.parameters()).device
    vocabulary = model_vocabulary(model.config.to_dict(), "the model")
    settings = generation_config(config, vocabulary)
    made: list[Continuation] = []
    was_training = model.training
    model.eval()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.inference_mode():
        for start in range(0, len(prompts), config.batch):
            torch.manual_seed(config.seed * 1_000_003 + start)  # a prime, so that no two seeds share streams
            batch = prompts[start : start + config.batch]
            tokens_BT, seen_BT = _left_padded(batch, vocabulary)
            out_BT = model.generate(  # type: ignore[operator]
                tokens_BT.to(device), attention_mask=seen_BT.to(device), generation_config=settings
            )
            for prompt, row in zip(batch, out_BT[:, tokens_BT.shape[1] :].cpu().numpy(), strict=True):
                ends = np.flatnonzero(row == vocabulary.bos)
                said = vocabulary.to_units(row[: ends[0]] if len(ends) else row)
                made.append(Continuation(prompt.prompt_id, prompt.units, said, bool(len(ends))))
    model.train(was_training)
    return made


def generation_config(config: SamplingSettings, vocabulary: Vocabulary) -> GenerationConfig:
    """The paper's sampling (docs/paper.md 1.5) as transformers takes it; <S> ends a sequence.

    Only units are drawn, and <S>.
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
        suppress_tokens=_never_drawn(vocabulary),
    )


def _never_drawn(vocabulary: Vocabulary) -> list[int]:
    if not vocabulary.is_joint:
        return [vocabulary.pad]
    drawn = vocabulary.unit_ids
    return [token for token in range(vocabulary.size) if token not in drawn and token != vocabulary.bos]


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


def _left_padded(prompts: Sequence[Prompt], vocabulary: Vocabulary) -> tuple[torch.Tensor, torch.Tensor]:
    """(token ids, attention mask), both int64 (B, T): `<S> units`, padded on the left so that all continue at T."""
    begin = vocabulary.before_units
    width = len(begin) + max(len(prompt.units) for prompt in prompts)
    tokens_BT = torch.full((len(prompts), width), vocabulary.pad)
    seen_BT = torch.zeros_like(tokens_BT)
    for row, prompt in enumerate(prompts):
        first = width - len(begin) - len(prompt.units)
        tokens_BT[row, first : first + len(begin)] = torch.tensor(begin)
        tokens_BT[row, first + len(begin) :] = torch.as_tensor(vocabulary.to_tokens(prompt.units).astype(np.int64))
        seen_BT[row, first:] = 1
    return tokens_BT, seen_BT
