"""GenPPL: how plausible a text LM finds what a unit LM said, after a vocoder and a recogniser (docs/paper.md 1.10).

A causal LM judges Whisper's transcripts. The paper's figure is exp(mean over utterances of the mean NLL of a token) of
prompt and continuation together (slamkit generative_metric.py); beside it exp(total NLL / total tokens), and both for
the continuation alone, spoken and transcribed by itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer, WhisperForConditionalGeneration, WhisperProcessor

from slamray.data.item_pairs import ItemPair
from slamray.errors import BadInput
from slamray.given import reason_of
from slamray.model.sampling import Prompt, cut_prompt
from slamray.speech.audio import RATE_HZ
from slamray.speech.encoders.kmeans import deduplicate, expand
from slamray.tokens.autobleu import auto_bleu, word_tokens

WINDOW_SECONDS = 30.0  # what Whisper hears at once; 3 s and 150 units are about 11 s


@dataclass(frozen=True)
class Likelihood:
    """Of a text: the sum of the negative log-likelihoods of its tokens in nats, and how many were scored."""

    nll: float
    tokens: int


class Transcriber:
    """Kernel: audio to text by a Whisper of transformers, greedily; a multilingual one hears the language itself.

    model: folder, or hub id whose commit is `revision`. Half precision on a GPU, as slamkit.
    """

    def __init__(self, model: str, revision: str | None, device: str = "cpu") -> None:
        dtype = torch.float32 if device == "cpu" else torch.float16
        try:
            self._processor: Any = WhisperProcessor.from_pretrained(model, revision=revision or "main")
            loaded: Any = WhisperForConditionalGeneration.from_pretrained(
                model, revision=revision or "main", dtype=dtype
            )
        except Exception as error:  # transformers and its readers of weights raise many kinds
            raise BadInput(f"evaluate.genppl.asr={model}: no Whisper can be loaded ({reason_of(error)})") from error
        self._model = loaded.to(device).eval()
        self._device, self._dtype = device, dtype

    @torch.inference_mode()
    def __call__(self, audios: Sequence[np.ndarray]) -> list[str]:
        """Texts of float32 recordings at 16 kHz, each of at most WINDOW_SECONDS; no samples give no text."""
        texts = [""] * len(audios)
        heard = [number for number, audio in enumerate(audios) if len(audio)]
        if not heard:
            return texts
        sounds = [audios[number] for number in heard]
        inputs = self._processor(sounds, sampling_rate=RATE_HZ, return_tensors="pt", return_attention_mask=True)
        features = inputs.input_features.to(self._device, self._dtype)
        seen = inputs.attention_mask.to(self._device)
        tokens = self._model.generate(features, attention_mask=seen, do_sample=False, num_beams=1)
        for number, text in zip(heard, self._processor.batch_decode(tokens, skip_special_tokens=True), strict=True):
            texts[number] = text.strip()
        return texts


class Judge:
    """Kernel: the likelihood of texts under any causal LM of transformers, each text by itself, in float32.

    The first token counts where the tokeniser sets a begin-of-text before it (Llama's does), as in slamkit; a text that
    leaves nothing to score has 0 tokens.
    """

    def __init__(self, model: str, revision: str | None, device: str = "cpu") -> None:
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(model, revision=revision)
            loaded: Any = AutoModelForCausalLM.from_pretrained(model, revision=revision, dtype=torch.float32)
        except Exception as error:  # as above
            raise BadInput(
                f"evaluate.genppl.judge={model}: no causal LM with a tokeniser can be loaded ({reason_of(error)})"
            ) from error
        self._model = loaded.to(device).eval()
        self._device = device

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> list[Likelihood]:
        return [self._one(text) if text.strip() else Likelihood(0.0, 0) for text in texts]

    def _one(self, text: str) -> Likelihood:
        tokens_T = torch.tensor(self._tokenizer(text)["input_ids"], device=self._device)
        if len(tokens_T) < 2:
            return Likelihood(0.0, 0)
        logits_TV = self._model(tokens_T[None]).logits[0, :-1].float()
        return Likelihood(float(F.cross_entropy(logits_TV, tokens_T[1:], reduction="sum")), len(tokens_T) - 1)


def generative_perplexity(likelihoods: Sequence[Likelihood]) -> dict[str, Any]:
    """utterances, empty (nothing to score), perplexity (the paper's aggregate) and token_perplexity.

    Empty ones are counted and take no part in the means; both figures are None when all are empty.
    """
    scored = [found for found in likelihoods if found.tokens]
    facts: dict[str, Any] = {"utterances": len(likelihoods), "empty": len(likelihoods) - len(scored)}
    if not scored:
        return facts | {"perplexity": None, "token_perplexity": None}
    means = [found.nll / found.tokens for found in scored]
    total = sum(found.nll for found in scored) / sum(found.tokens for found in scored)
    return facts | {"perplexity": math.exp(sum(means) / len(means)), "token_perplexity": math.exp(total)}


def mean_auto_bleu(texts: Sequence[str], n: int = 2) -> float | None:
    """Mean auto-BLEU (0..1) of the texts that hold a word; None when none does."""
    scores = [auto_bleu(tokens, n) for text in texts if (tokens := word_tokens(text))]
    return sum(scores) / len(scores) if scores else None


def correct_prompts(
    pairs: Sequence[ItemPair], spoken: Mapping[str, tuple[np.ndarray, np.ndarray]], seconds: float, rate_hz: float
) -> list[Prompt]:
    """The first `seconds` of every correct item, each once; spoken: (units, durations in frames) by utterance id.

    An item is its prompt and its right ending, one recording or several; items of which one has no sound are left out.
    """
    prompts = []
    for utterances in dict.fromkeys((*pair.prompt, *pair.chosen) for pair in pairs):
        if not all(utterance in spoken for utterance in utterances):
            continue
        frames = np.concatenate([expand(*spoken[utterance]) for utterance in utterances])
        prompts.append(cut_prompt("+".join(utterances), *deduplicate(frames), seconds, rate_hz))
    return [prompt for prompt in prompts if len(prompt.units)]
