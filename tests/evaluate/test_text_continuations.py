"""What a model of text and speech writes and says: as many after texts that it read as after sounds that it heard."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from slamray.config.evaluation import SamplingSettings, ScoringSettings
from slamray.evaluate.text_continuations import MOST_TOKENS, PROMPT_TOKENS, measure_text_continuations
from slamray.model.sampling import Prompt
from slamray.tokens.vocabulary import Vocabulary

JOINT = Vocabulary.joint(Vocabulary.of_text(30, 0, 1, "t"), Vocabulary.of_units(5, "u"))


def model() -> PreTrainedModel:
    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, intermediate_size=64,
        vocab_size=JOINT.size, tie_word_embeddings=True,
    )  # fmt: skip
    return Qwen2ForCausalLM(config).eval()


def test_texts_are_written_after_both_and_units_said_after_what_was_read() -> None:
    kept: dict[str, np.ndarray] = {}
    texts = [[2, 3] * 40, [4], [5, 6]]
    material: Any = SimpleNamespace(
        vocabulary=JOINT,
        prompts=lambda n, seed: [Prompt(f"p{number}", np.array([1, 2])) for number in range(n)],
        texts=lambda: iter(texts),
        decode=lambda ids: " ".join(f"w{one}" for one in ids),
        keep_sound=kept.__setitem__,
    )
    scoring = ScoringSettings(sampling=SamplingSettings(prompts=2, max_new_tokens=9), audio_samples=1)
    found = measure_text_continuations(model(), material, scoring)
    assert [(one.heard, len(one.read.split())) for one in found.samples] == [
        ("p0", 0), ("p1", 0), ("", PROMPT_TOKENS), ("", 1),
    ]  # fmt: skip
    assert found.continuations == 4 and 0 < found.mean_tokens <= MOST_TOKENS
    words = {int(word[1:]) for one in found.samples for word in one.said.split()}
    assert words and words <= set(range(1, 30))  # text alone, and no padding
    assert set(kept) == {"read-0"} and kept["read-0"].max() < 5 and len(kept["read-0"]) <= 9
    assert (
        measure_text_continuations(model(), material, ScoringSettings(sampling=SamplingSettings(prompts=0))).samples
        == ()
    )
