"""Units by a text-to-token model: the same alone and in any company, as transformers' own generation, and bounded."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
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


def test_what_a_span_says_and_its_very_logits_do_not_depend_on_the_spans_beside_it(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[tuple[int, int], bytes]] = []
    draw = text_to_units._Speaking._draw

    def noted(
        self: text_to_units._Speaking, logits_BU: torch.Tensor, number_B: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        for row, request in enumerate(self._request_B.tolist()):
            if request >= 0 and number_B[row] >= 0:
                key = (self._requests[request].seed, int(number_B[row]))
                assert key not in seen[-1], "a unit is drawn once"
                seen[-1][key] = logits_BU[row].numpy().tobytes()
        return draw(self, logits_BU, number_B)

    monkeypatch.setattr(text_to_units._Speaking, "_draw", noted)
    asked, sampling = [*requests(34, 16), *requests(36, 100)[34:]], TextToTokenSampling()
    found: list[dict[int, tuple[bytes, str]]] = []
    # Alone, and in the company of longer spans, which attention sees more keys for; 36 rows are made up to 64.
    for batch, some in ((1, asked[:5]), (5, asked[4::-1]), (32, asked), (36, asked)):
        seen.append({})
        said = speak_texts(model, some, VOCABULARY, sampling, batch)
        found.append({one.seed: (own.units.tobytes(), own.why) for one, own in zip(some, said, strict=True)})
    for units, logits in zip(found, seen, strict=True):
        assert all(found[-1][seed] == own for seed, own in units.items())
        assert all(seen[-1][key] == own for key, own in logits.items())
    assert [len(units) for units in found] == [5, 5, 36, 36] and len(seen[0]) > 40 and len(seen[-1]) > 400


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


def test_a_model_that_ends_is_not_asked_for_more() -> None:
    class Ends(torch.nn.Module):
        """After `<speech>` it says unit 3, unit 4 and the end."""

        config = Qwen2Config(num_hidden_layers=0, attn_implementation="sdpa")
        calls = 0

        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(VOCABULARY.size, VOCABULARY.size, bias=False)
            torch.nn.init.eye_(self.head.weight)

        @property
        def base_model(self) -> torch.nn.Module:
            return self

        def get_output_embeddings(self) -> torch.nn.Linear:
            return self.head

        def forward(self, input_ids: torch.Tensor, **_: object) -> object:
            after = {SPEECH: 303, 303: 304, 304: S}
            said = torch.zeros(len(input_ids), 1, VOCABULARY.size)
            for row, last in enumerate(input_ids[:, 0].tolist()):
                said[row, 0, after.get(last, TEXT)] = 100.0
            self.calls += 1
            return type("Out", (), {"last_hidden_state": said})

    says = Ends()
    asked = [Request([S, TEXT, 5, SPEECH], 20, 0), Request([S, TEXT, SPEECH], 20, 1)]
    for one in speak_texts(says, asked, VOCABULARY, TextToTokenSampling(), 2):  # type: ignore[arg-type]
        assert isinstance(one, Spoken) and (one.units.tolist(), one.why) == ([3, 4], "end")
    assert says.calls == 4 + 2, "the ids of the longest prompt, and its two units"
    assert speak_texts(says, [], VOCABULARY, TextToTokenSampling(), 2) == []  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("units", "loop"),
    [([1, 2] * 6, True), ([1, 2] * 5, False), ([9, 8, 7] + [1, 2, 3] * 6, True), ([1, 2, 3, 4] * 6, True),
     ([1, 2, 3, 4, 5] * 6, False), ([1, 2] * 5 + [1, 3], False), ([], False)],
)  # fmt: skip
def test_a_loop_is_a_short_stretch_that_comes_six_times_in_a_row(units: list[int], loop: bool) -> None:
    before = [-1 - place for place in range(text_to_units.TAIL)]  # what stands before the first unit
    tail_RT = np.array([[*before, *units][-text_to_units.TAIL :]])
    assert is_loop(tail_RT).tolist() == [loop]
