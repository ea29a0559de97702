"""Units for a text from a text-to-token model by vLLM, on a GPU: the requests and answers of text_to_units.py.

An extra, `pip install "slamray[vllm]"`, in an environment of its own: vLLM brings a torch of its own choice. Written
against vllm-project/vllm at 00388f6. Its draws are seeded by span, but not the same as ours, and vLLM does not promise
that a batch changes none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from slamray.config.joint import ENGINE, OWN_ENGINE, TextToTokenSampling
from slamray.errors import BadInput
from slamray.model.text_to_units import TAIL, Request, Spoken, is_loop
from slamray.tokens.vocabulary import Vocabulary


class VllmSpeaker:
    """A text-to-token model's folder, opened by vLLM; it batches by itself."""

    def __init__(self, folder: Path, vocabulary: Vocabulary, sampling: TextToTokenSampling) -> None:
        self._vllm = _library()
        self._vocabulary, self._sampling = vocabulary, sampling
        self._model = self._vllm.LLM(model=str(folder), skip_tokenizer_init=True, dtype="bfloat16")

    def __call__(self, requests: Sequence[Request]) -> list[Spoken]:
        """Units of each text, in their order."""
        if not requests:
            return []
        vocabulary, sampling = self._vocabulary, self._sampling
        params = [
            self._vllm.SamplingParams(
                temperature=sampling.temperature,
                top_k=sampling.top_k,
                seed=request.seed,
                max_tokens=request.most_units,
                min_tokens=1,  # nothing is no speech
                stop_token_ids=[vocabulary.bos],
                allowed_token_ids=[*vocabulary.unit_ids, vocabulary.bos],
                detokenize=False,
            )
            for request in requests
        ]
        prompts = [{"prompt_token_ids": [int(one) for one in request.prompt_ids]} for request in requests]
        answers = self._model.generate(prompts, params, use_tqdm=False)
        return [as_spoken(answer.outputs[0].token_ids, vocabulary) for answer in answers]


def as_spoken(ids: Sequence[int], vocabulary: Vocabulary) -> Spoken:
    """What was drawn, as units. One drawn again at once, which vLLM cannot be told to leave, is said once."""
    ended = bool(ids) and ids[-1] == vocabulary.bos
    units = np.array([one - vocabulary.first_unit for one in ids if one in vocabulary.unit_ids], np.int64)
    units = units[np.diff(units, prepend=-1) != 0]
    tail = np.concatenate([-1 - np.arange(TAIL), units])[-TAIL:]
    why = "end" if ended else "loop" if is_loop(tail[None])[0] else "length"
    return Spoken(units.astype(np.uint16), why)


def _library() -> ModuleType:
    try:
        import vllm
    except ImportError as error:
        raise BadInput(f"{ENGINE}=vllm: vLLM cannot be imported ({error}); {OWN_ENGINE}") from error
    found: ModuleType = vllm
    return found
