"""Recognition and synthesis in word error rate: a model that was taught two sentences, beside the voice itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.machine import InProcess
from transformers import Qwen2Config, Qwen2ForCausalLM

from slamray.config.base import ASSETS, Located, asset_path
from slamray.config.evaluation import ScoringSettings
from slamray.config.joint import TextToTokenSampling
from slamray.config.load import load_recipe
from slamray.config.model import BaseSettings
from slamray.config.speech import SpeakingSettings
from slamray.data.text import EVALUATION, TextDocument
from slamray.errors import BadInput
from slamray.evaluate.wer import Recogniser
from slamray.model.saved_vocabulary import set_vocabulary
from slamray.model.text_tokeniser import TextTokeniser
from slamray.model.unit_lm import save_unit_lm
from slamray.recipe.slam import build
from slamray.speech.audio import RATE_HZ, resample
from slamray.speech.decoders.table import load_decoder
from slamray.speech.encoders.table import check_encoder
from slamray.stage.folder import Folder
from slamray.stage.parts import write_parts
from slamray.stages import tasks, text_to_token
from slamray.stages.checkpoints import MODEL
from slamray.tokens.vocabulary import Vocabulary

BASE = BaseSettings(base=ASSETS + "story-lm")
LIKELIEST = TextToTokenSampling(top_k=1)
TEXTS = ("The little dog ran to the big house.", "She found a red ball in the garden.")
SPEAKING = SpeakingSettings()


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary.joint(TextTokeniser(BASE.base).vocabulary, check_encoder(SPEAKING.encoder).vocabulary)


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> tuple[Folder, tasks.SentenceFacts]:
    """Two sentences of two stories, by the voice, the encoder and the decoder that ship with the package."""
    folder = tmp_path_factory.mktemp("sentences")
    documents = [TextDocument(f"{n:016x}", ("Oh no!", text), "", EVALUATION) for n, text in enumerate(TEXTS)]
    write_parts(Folder(folder / "corpus"), EVALUATION, documents, TextDocument)
    out = Folder(folder / "out")
    facts = tasks.run_sentences({"corpus": Folder(folder / "corpus")}, out, InProcess(), 5, SPEAKING, ScoringSettings())
    out.write_json("manifest.json", {"facts": {"rates": {name: vars(rate) for name, rate in facts.rates.items()}}})
    return out, facts


@pytest.fixture(scope="module")
def taught(
    sentences: tuple[Folder, tasks.SentenceFacts], vocabulary: Vocabulary, tmp_path_factory: pytest.TempPathFactory
) -> Folder:
    """A small model that writes one sentence right and one with a wrong word, and says both in the real units."""
    encode = TextTokeniser(BASE.base)
    documents = []
    for one in tasks.read(sentences[0]):
        units = vocabulary.to_tokens(np.array(one.units)).tolist()
        written = encode(one.text.replace("red", "big"))
        heard = [vocabulary.bos, vocabulary.speech_tag, *units, vocabulary.text_tag]
        read = [vocabulary.bos, vocabulary.text_tag, *encode(one.text), vocabulary.speech_tag]
        documents += [(heard, [*written, vocabulary.bos]), (read, [*units, vocabulary.bos])]
    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=192,
        vocab_size=vocabulary.size, tie_word_embeddings=True,
    )  # fmt: skip
    set_vocabulary(config, vocabulary)
    model = Qwen2ForCausalLM(config)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(150):
        for prompt, answer in documents:
            labels = torch.tensor([[-100] * len(prompt) + answer])
            model(input_ids=torch.tensor([prompt + answer]), labels=labels).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    folder = Folder(tmp_path_factory.mktemp("taught"))
    save_unit_lm(model, Path(str(folder / MODEL)))
    return folder


def test_the_voice_is_understood_better_than_chance_and_its_units_are_no_better(
    sentences: tuple[Folder, tasks.SentenceFacts],
) -> None:
    out, facts = sentences
    assert {one.text for one in tasks.read(out)} == set(TEXTS)  # "Oh no!" is too short
    words = sum(len(text.split()) for text in TEXTS)
    assert {(rate.words, rate.sentences, rate.ended) for rate in facts.rates.values()} == {(words, 2, None)}
    assert facts.rates["voice"].rate < 0.5 and facts.rates["voice"].rate <= facts.rates["real_units"].rate


def test_what_is_heard_does_not_depend_on_what_was_heard_before(
    sentences: tuple[Folder, tasks.SentenceFacts],
) -> None:
    one, other = tasks.read(sentences[0])
    decoder = load_decoder(Path(asset_path(ScoringSettings().vocoder)))
    sounds = [resample(decoder(np.array(s.units, np.uint16)), decoder.rate_hz, RATE_HZ) for s in (one, other)]
    recognise = Recogniser()
    backwards = [recognise(sound) for sound in sounds[::-1]][::-1]
    assert backwards == [one.real_units, other.real_units]  # which were heard after the voice
    assert all(backwards)


def test_recognition_and_synthesis_have_the_errors_that_the_model_was_taught(
    sentences: tuple[Folder, tasks.SentenceFacts], taught: Folder, tmp_path: Path, vocabulary: Vocabulary
) -> None:
    out, known = sentences
    facts = tasks.run_tasks(
        {tasks.SENTENCES: out, "pretrained": taught}, Folder(tmp_path), InProcess(), "pretrained", ScoringSettings(),
        LIKELIEST, vocabulary, Located(lambda: None, BASE),
    )  # fmt: skip
    words = sum(len(text.split()) for text in TEXTS)
    assert facts.rates["asr"] == tasks.ErrorRate(1 / words, words, 2, 2)
    assert (facts.rates["tts"].rate, facts.rates["tts"].ended) == (known.rates["real_units"].rate, 2)
    assert {one.got for one in tasks.read_said(Folder(tmp_path)) if one.task == "asr"} == {
        TEXTS[0], TEXTS[1].replace("red", "big"),
    }  # fmt: skip


def test_units_of_the_text_to_token_model_that_are_the_real_ones_have_no_edits(
    sentences: tuple[Folder, tasks.SentenceFacts], taught: Folder, tmp_path: Path, vocabulary: Vocabulary
) -> None:
    out, known = sentences
    facts = tasks.run_quality(
        {tasks.SENTENCES: out, text_to_token.NAME: taught}, Folder(tmp_path), InProcess(), ScoringSettings(), LIKELIEST,
        vocabulary, Located(lambda: None, BASE),
    )  # fmt: skip
    assert (facts.unit_error_rate, facts.units_per_real_unit) == (0, 1)
    assert facts.rates["text_to_token"].rate == facts.rates["real_units"].rate == known.rates["real_units"].rate


def test_a_model_of_units_alone_is_not_asked() -> None:
    with pytest.raises(BadInput, match=r"evaluate.task_sentences=3: a model of units alone neither reads nor writes"):
        build(load_recipe(["profile=laptop", "evaluate.task_sentences=3"]))
