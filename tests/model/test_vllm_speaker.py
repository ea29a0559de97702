"""Text to units by vLLM: what it is asked, and what is made of its answers. vLLM itself is not here."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from slamray.config.joint import TextToTokenSampling
from slamray.config.load import load_recipe
from slamray.errors import BadInput
from slamray.model.text_to_units import Request
from slamray.model.vllm_speaker import VllmSpeaker, as_spoken
from slamray.recipe.check import check
from slamray.recipe.slam import build
from slamray.stage.stage import order
from slamray.tokens.vocabulary import Vocabulary

TEXT = Vocabulary.of_text(100, 0, 1, "x")
VOCABULARY = Vocabulary.joint(TEXT, Vocabulary.of_units(20, "y"))  # units are the ids 100 to 119
WORDS = ["recipe=interleaved_laptop", "joint.text_to_token.engine=vllm"]


@dataclass
class SamplingParams:
    """The fields of vLLM's own that are given (vllm/sampling_params.py at 00388f6), by its names and defaults."""

    temperature: float = 1.0
    top_k: int = 0
    seed: int | None = None
    max_tokens: int | None = 16
    min_tokens: int = 0
    stop_token_ids: list[int] | None = None
    allowed_token_ids: list[int] | None = None
    detokenize: bool = True


@dataclass
class Output:
    token_ids: list[int]


@dataclass
class Answer:
    outputs: list[Output]


@dataclass
class LLM:
    """Says units from the seed on, and the end after three; the last text goes on and on."""

    model: str
    skip_tokenizer_init: bool
    dtype: str
    asked: list[Any] = field(default_factory=list)

    def generate(self, prompts: list[dict[str, Any]], params: list[SamplingParams], use_tqdm: bool) -> list[Answer]:
        self.asked += zip(prompts, params, strict=True)
        said = [[100 + one.seed % 20, 101, 102, 1] for one in params[:-1] if one.seed is not None]
        return [Answer([Output(ids)]) for ids in [*said, [100, 101] * (params[-1].max_tokens or 0)]]


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("vllm")
    module.LLM, module.SamplingParams = LLM, SamplingParams  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)


def test_each_text_is_asked_for_with_its_own_seed_and_length_and_for_units_alone(vllm: None, tmp_path: Path) -> None:
    speaker = VllmSpeaker(tmp_path, VOCABULARY, TextToTokenSampling(temperature=0.5, top_k=7))
    spoken = speaker([Request([1, 121, 5, 120], 9, 3), Request([1, 121, 6, 7, 120], 30, 4)])
    assert [(list(one.units[:3]), one.why) for one in spoken] == [([3, 1, 2], "end"), ([0, 1, 0], "loop")]
    (first, asked), (second, other) = speaker._model.asked
    assert first == {"prompt_token_ids": [1, 121, 5, 120]} and second == {"prompt_token_ids": [1, 121, 6, 7, 120]}
    assert asked == SamplingParams(0.5, 7, 3, 9, 1, [1], [*range(100, 120), 1], False)
    assert (other.seed, other.max_tokens) == (4, 30)
    assert speaker([]) == []


def test_units_are_deduplicated_and_what_did_not_end_says_why() -> None:
    assert as_spoken([100, 100, 105, 105, 100, 1], VOCABULARY).units.tolist() == [0, 5, 0]
    assert as_spoken([100, 105], VOCABULARY).why == "length"
    assert as_spoken([], VOCABULARY).why == "length"


def test_without_a_gpu_or_without_vllm_it_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(
        BadInput, match=r"joint\.text_to_token\.engine=vllm: vLLM runs on GPUs and compute\.device is cpu"
    ):
        check(load_recipe([*WORDS, "profile=laptop", f"root={tmp_path}"]))
    with pytest.raises(BadInput, match=r'vLLM is not installed here; pip install "slamray\[vllm\]", or say joint'):
        check(load_recipe([*WORDS, "profile=a5000", f"root={tmp_path}"]))
    with pytest.raises(BadInput, match=r"vLLM cannot be imported \(No module named .vllm.\)"):  # where an actor runs
        VllmSpeaker(tmp_path, VOCABULARY, TextToTokenSampling())


def test_the_engine_is_part_of_what_was_spoken_and_of_what_reads_it_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("slamray.stages.spoken_text.find_spec", lambda name: name)  # as if vLLM were here
    made = {}
    for engine in ("own", "vllm"):
        words = [WORDS[0], f"joint.text_to_token.engine={engine}", "profile=laptop", "compute.device=cuda"]
        stages = order(build(load_recipe([*words, f"root={tmp_path}"])))
        made[engine] = {stage.name: stage.fingerprint for stage in stages}
    changed = {name for name, fingerprint in made["own"].items() if made["vllm"][name] != fingerprint}
    assert {"spoken_text", "packed", "pretrained"} <= changed
    assert not changed & {"text_to_token", "documents", "untrained", "items", "preferences"}
