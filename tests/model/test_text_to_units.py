"""Units by a text-to-token model: the same alone and in any company, as transformers' own generation, and bounded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from transformers import LogitsProcessor, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from slamray.config.joint import TextToTokenSampling
from slamray.model import text_to_units
from slamray.model.text_to_units import Request, Spoken, is_loop, speak_texts
from slamray.tokens.vocabulary import Vocabulary

VOCABULARY = Vocabulary.joint(Vocabulary.of_text(300, 0, 1, "t"), Vocabulary.of_units(100, "u"))
S, SPEECH, TEXT = 1, VOCABULARY.speech_tag, VOCABULARY.text_tag


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    """Of the width of the demo's model, so that its matrix products are of that size."""
    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=256, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=704,
        vocab_size=VOCABULARY.size, tie_word_embeddings=True, initializer_range=0.1,
    )  # fmt: skip
    return Qwen2ForCausalLM(config).eval()


def requests(count: int, most: int = 40) -> list[Request]:
    """Prompts of 3 to 40 tokens of text."""
    rng = np.random.default_rng(0)
    texts = [rng.integers(2, 300, rng.integers(0, 38)).tolist() for _ in range(count)]
    return [Request([S, TEXT, *text, SPEECH], most, seed) for seed, text in enumerate(texts)]


def test_what_a_row_says_and_its_very_logits_do_not_depend_on_the_rows_beside_it(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[tuple[int, ...], bytes]] = []
    draw = text_to_units._Batch._draw

    def noted(self: text_to_units._Batch, logits_BV: torch.Tensor, alive: Sequence[int]) -> list[int]:
        for row, place in enumerate(alive):
            if place < self._asked and not self._why[place]:
                said = (len(self._said[place]), *self._draws[place][:2].view(np.int64).tolist())
                seen[-1][said] = logits_BV[row].numpy().tobytes()
        return draw(self, logits_BV, alive)

    monkeypatch.setattr(text_to_units._Batch, "_draw", noted)
    asked, sampling = requests(40), TextToTokenSampling()
    found: list[list[tuple[bytes, str]]] = []
    for batch in (1, 5, 8, 32, 40):
        seen.append({})
        found.append([(one.units.tobytes(), one.why) for one in speak_texts(model, asked, VOCABULARY, sampling, batch)])
    assert all(other == found[0] for other in found[1:])
    assert all(other == seen[0] for other in seen[1:]) and len(seen[0]) > 500
    backwards = speak_texts(model, asked[::-1], VOCABULARY, sampling, 7)[::-1]
    assert [(one.units.tobytes(), one.why) for one in backwards] == found[0]


class OnlyNewUnits(LogitsProcessor):
    """By transformers' means: units alone, or the end; not the unit before, and not the end at once."""

    def __init__(self, prompt: int) -> None:
        self._prompt = prompt

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        mask = torch.ones_like(scores, dtype=torch.bool)
        mask[:, 300:400] = False
        mask[:, S] = input_ids.shape[1] == self._prompt
        mask[0, input_ids[0, -1]] = True
        return scores.masked_fill(mask, -torch.inf)  # type: ignore[return-value]


def test_the_likeliest_units_are_those_of_transformers_own_generation(model: PreTrainedModel) -> None:
    asked = requests(12, 30)
    ours = speak_texts(model, asked, VOCABULARY, TextToTokenSampling(top_k=1), 12)
    for request, said in zip(asked, ours, strict=True):
        ids = torch.tensor([list(request.prompt_ids)])
        own = model.generate(  # type: ignore[operator]
            ids, max_new_tokens=30, do_sample=False, eos_token_id=S, pad_token_id=0, repetition_penalty=1.0,
            logits_processor=[OnlyNewUnits(ids.shape[1])],
        )[0, ids.shape[1] :]  # fmt: skip
        units = VOCABULARY.to_units(own.numpy()).tolist()
        assert said.units.tolist() == units[: len(said.units)] and (said.why == "loop" or len(said.units) == len(units))


def test_units_are_deduplicated_bounded_and_seeded(model: PreTrainedModel) -> None:
    asked = [Request([S, TEXT, 5, SPEECH], 25, seed) for seed in range(20)]
    found = speak_texts(model, asked, VOCABULARY, TextToTokenSampling(), 20)
    assert all(0 < len(one.units) <= 25 and (np.diff(one.units.astype(int)) != 0).all() for one in found)
    assert {one.why for one in found} <= {"end", "length", "loop"}
    assert all(len(one.units) == 25 for one in found if one.why == "length")
    assert len({one.units.tobytes() for one in found}) > 15


def test_a_model_that_ends_is_not_asked_for_more(model: PreTrainedModel) -> None:
    class Ends(torch.nn.Module):
        """Says unit 3, unit 4 and the end."""

        config = model.config
        calls = 0

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, input_ids: torch.Tensor, **_: object) -> object:
            script = [303, 304, S]
            logits = torch.zeros(len(input_ids), 1, VOCABULARY.size)
            logits[:, 0, script[self.calls]] = 100.0
            self.calls += 1
            return type("Out", (), {"logits": logits})

    (one, other) = speak_texts(Ends(), requests(2, 20)[:1] * 2, VOCABULARY, TextToTokenSampling(), 2)  # type: ignore[arg-type]
    assert isinstance(one, Spoken) and (one.units.tolist(), one.why) == ([3, 4], "end") == (other.units.tolist(), "end")


@pytest.mark.parametrize(
    ("units", "loop"),
    [([1, 2] * 6, True), ([1, 2] * 5, False), ([9, 8, 7] + [1, 2, 3] * 6, True), ([1, 2, 3, 4] * 6, True),
     ([1, 2, 3, 4, 5] * 6, False), ([1, 2] * 5 + [1, 3], False), ([], False)],
)  # fmt: skip
def test_a_loop_is_a_short_stretch_that_comes_six_times_in_a_row(units: list[int], loop: bool) -> None:
    assert is_loop(units) == loop
