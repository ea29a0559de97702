"""Text to units over shards: the same bytes whoever makes them, in whatever batches, and what does not end is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.machine import InProcess
from transformers import Qwen2Config, Qwen2ForCausalLM

from slamray.config.base import ASSETS, Located
from slamray.config.compute import Compute
from slamray.config.joint import InterleaveSettings, TextToTokenSampling
from slamray.config.model import BaseSettings
from slamray.data.text import TRAIN, VALIDATION, TextDocument
from slamray.errors import BadInput
from slamray.model.saved_vocabulary import set_vocabulary
from slamray.model.text_tokeniser import TextTokeniser
from slamray.model.unit_lm import save_unit_lm
from slamray.stage.folder import Folder
from slamray.stage.parts import write_parts
from slamray.stage.tables import read_quarantine
from slamray.stages import joint_documents, spoken_text, text_to_token
from slamray.stages.spoken_text import SpokenTextFacts
from slamray.tokens.vocabulary import Vocabulary

BASE = BaseSettings(base=ASSETS + "story-lm")
POISSON = InterleaveSettings()
ALL = TextToTokenSampling(top_k=1000, most_units_per_piece=10)  # so that a model that knows nothing ends now and then


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary.joint(TextTokeniser(BASE.base).vocabulary, Vocabulary.of_units(40, "u" * 64))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, vocabulary: Vocabulary) -> dict[str, Folder]:
    folder = tmp_path_factory.mktemp("spoken")
    corpus = Folder(folder / "corpus")
    for split, count in ((TRAIN, 80), (VALIDATION, 5)):
        texts = [f"Story {split} {n} . " + "Tim and Sue ran to the big red house . " * 3 for n in range(count)]
        rows = [TextDocument(f"{n:016x}", (text.strip(),), "x", split) for n, text in enumerate(texts)]
        write_parts(corpus, split, rows, TextDocument)
    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, intermediate_size=64,
        vocab_size=vocabulary.size, tie_word_embeddings=True,
    )  # fmt: skip
    set_vocabulary(config, vocabulary)
    save_unit_lm(Qwen2ForCausalLM(config), folder / "model" / "model")
    return {"corpus": corpus, text_to_token.NAME: Folder(folder / "model")}


def made(
    inputs: dict[str, Folder],
    out: Path,
    vocabulary: Vocabulary,
    batch: int,
    sampling: TextToTokenSampling = ALL,
    rules: InterleaveSettings = POISSON,
) -> tuple[Folder, SpokenTextFacts]:
    compute = Compute(speak_text_batch=batch)
    base = Located(lambda: None, BASE)
    machine = InProcess(compute)
    facts = spoken_text.run(inputs, Folder(out), machine, rules, sampling, "own", base, vocabulary, 0, 0)
    return Folder(out), facts


def test_the_bytes_do_not_depend_on_batches_or_on_what_an_earlier_try_had_left(
    inputs: dict[str, Folder], tmp_path: Path, vocabulary: Vocabulary
) -> None:
    one, facts = made(inputs, tmp_path / "one", vocabulary, 32)
    other, again = made(inputs, tmp_path / "other", vocabulary, 1)
    files = one.files()
    assert files == other.files() and all(one.read(name) == other.read(name) for name in files)
    assert facts == again and facts.documents + facts.quarantined == 85 and facts.documents > 60 and facts.quarantined
    assert 0 < facts.not_ended < facts.spans and facts.units > facts.spans - facts.not_ended
    for split, count in ((TRAIN, 80), (VALIDATION, 5)):
        found = list(joint_documents.read(one, split, "synthetic"))
        bad = len(read_quarantine(one / split))
        assert sum(len(some.lengths_D) for some in found) + bad == count
        spoken = vocabulary.to_units(found[0].ids)
        assert len(spoken) and found[0].mask is None


def test_a_model_that_never_ends_is_refused_and_every_document_has_its_reason(
    inputs: dict[str, Folder], tmp_path: Path, vocabulary: Vocabulary
) -> None:
    short, one_word = (
        TextToTokenSampling(most_units_per_piece=1),
        InterleaveSettings(method="chunks", speech_chunk=(1, 1)),
    )
    with pytest.raises(BadInput, match=r"joint\.kinds\.synthetic: the text-to-token model ended no span"):
        made(inputs, tmp_path, vocabulary, 32, short, one_word)
    reasons = {row["reason"] for row in read_quarantine(Folder(tmp_path) / TRAIN)}
    assert all("came to an end" in reason for reason in reasons) and reasons
