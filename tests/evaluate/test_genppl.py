"""GenPPL: the arithmetic by hand, the judge by plain cross-entropy, prompts, and all of it on tiny checkpoints."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from support.machine import InProcess
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from slamray.config.evaluation import GenPplSettings, SamplingSettings, ScoringSettings
from slamray.data.item_pairs import ItemPair, ItemSet
from slamray.errors import BadInput
from slamray.evaluate.generative_perplexity import (
    Judge,
    Likelihood,
    Transcriber,
    correct_prompts,
    generative_perplexity,
    mean_auto_bleu,
)
from slamray.stage.folder import Folder
from slamray.stage.work import Machine

BOS_WORD = "<|begin_of_text|>"


@pytest.fixture(scope="module")
def judge_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A randomly initialised Llama and a byte-level tokeniser that begins every text, as Llama's does."""
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("judge")
    vocab = {sign: i for i, sign in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))} | {BOS_WORD: 256}
    bare = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.post_processor = processors.TemplateProcessing(single=f"{BOS_WORD} $A", special_tokens=[(BOS_WORD, 256)])
    PreTrainedTokenizerFast(tokenizer_object=bare, bos_token=BOS_WORD).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=257, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        initializer_range=0.3, bos_token_id=256,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def whisper_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A randomly initialised Whisper with its processor, as save_pretrained leaves them."""
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperProcessor,
        WhisperTokenizer,
    )

    folder = tmp_path_factory.mktemp("whisper")
    end = "<|endoftext|>"
    specials = [end, "<|startoftranscript|>", "<|en|>", "<|translate|>", "<|transcribe|>", "<|notimestamps|>"]
    vocab = {sign: i for i, sign in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocab |= {special: 256 + i for i, special in enumerate(specials)}
    tokenizer = WhisperTokenizer(vocab=vocab, merges=[], unk_token=end, bos_token=end, eos_token=end)
    tokenizer.add_special_tokens({"additional_special_tokens": specials[1:]})
    WhisperProcessor(WhisperFeatureExtractor(feature_size=80), tokenizer).save_pretrained(folder)
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        f"{half}_{name}": n
        for half in ("encoder", "decoder")
        for name, n in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 32))
    }
    model = WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=262,
            d_model=32,
            max_target_positions=24,
            pad_token_id=256,
            bos_token_id=256,
            eos_token_id=256,
            decoder_start_token_id=257,
            init_std=0.5,
            **sizes,
        )
    )
    model.generation_config = GenerationConfig(
        decoder_start_token_id=257, eos_token_id=256, pad_token_id=256, bos_token_id=256, max_length=12,
        is_multilingual=False, no_timestamps_token_id=261, return_timestamps=False,
        suppress_tokens=[i for i in range(256) if chr(i) not in "ABCDEFGH"], begin_suppress_tokens=[256],
    )  # fmt: skip
    model.save_pretrained(folder)
    return folder


def test_perplexities_are_those_computed_by_hand_and_empty_ones_are_counted() -> None:
    # Mean NLLs 2 and 4: exp(3). Totals: (2 * 3 + 4 * 1) / 4 tokens: exp(2.5).
    found = generative_perplexity([Likelihood(6.0, 3), Likelihood(0.0, 0), Likelihood(4.0, 1)])
    assert (found["utterances"], found["empty"]) == (3, 1)
    assert found["perplexity"] == pytest.approx(math.exp(3.0))
    assert found["token_perplexity"] == pytest.approx(math.exp(2.5))


def test_all_empty_gives_no_number_rather_than_one_that_means_nothing() -> None:
    found = generative_perplexity([Likelihood(0.0, 0)])
    assert found == {"utterances": 1, "empty": 1, "perplexity": None, "token_perplexity": None}


def test_auto_bleu_is_the_mean_over_texts_with_words() -> None:
    assert mean_auto_bleu(["a b a b", "", "c d e"]) == pytest.approx((2 / 3 + 0) / 2)
    assert mean_auto_bleu(["", " "]) is None


def test_the_judge_scores_every_token_after_the_begin_of_text(judge_folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    judge = Judge(str(judge_folder), None)
    texts = ["The cat sat.", "", "a", "  "]
    found = judge(texts)
    assert [likelihood.tokens for likelihood in found] == [12, 0, 1, 0]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(judge_folder), AutoTokenizer.from_pretrained(judge_folder)
    for text, likelihood in zip(texts, found, strict=True):
        if likelihood.tokens:
            ids = tokenizer(text, return_tensors="pt")["input_ids"]
            assert ids[0, 0] == 256
            loss = float(model(ids, labels=ids).loss.detach())  # transformers' own mean over the shifted labels
            assert likelihood.nll / likelihood.tokens == pytest.approx(loss, rel=1e-5)


def test_a_recording_is_transcribed_the_same_alone_and_among_others(whisper_folder: Path) -> None:
    draw = np.random.default_rng(0)
    long, short = (draw.standard_normal(n).astype(np.float32) * 0.1 for n in (40_000, 8_000))
    transcribe = Transcriber(str(whisper_folder), None)
    texts = transcribe([long, np.zeros(0, np.float32), short])
    assert texts[1] == "" and texts[0] and texts[2]
    assert transcribe([short]) == [texts[2]] and transcribe([long]) == [texts[0]]
    assert transcribe([np.zeros(0, np.float32)]) == [""]


def test_a_folder_that_holds_another_model_is_named(judge_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"evaluate\.genppl\.asr=.*no Whisper can be loaded"):
        Transcriber(str(tmp_path), None)
    with pytest.raises(BadInput, match=r"evaluate\.genppl\.judge=.*no causal LM"):
        Judge(str(tmp_path), None)


def pair(name: str, prompt: tuple[str, ...], chosen: tuple[str, ...]) -> ItemPair:
    return ItemPair(name, "cloze", "all", prompt, chosen, ("wrong",), "", "", "")


def test_prompts_are_the_first_seconds_of_each_correct_item_once() -> None:
    def spoken(*units: int, frames: int) -> tuple[np.ndarray, np.ndarray]:
        return np.array(units, np.uint16), np.full(len(units), frames, np.uint16)

    known = {"p": spoken(1, 2, frames=25), "c": spoken(2, 3, frames=20), "wrong": spoken(9, frames=99)}
    pairs = [pair("a", ("p",), ("c",)), pair("again", ("p",), ("c",)), pair("silent", ("p",), ("lost",))]
    (prompt,) = correct_prompts(pairs, known, 3.0, rate_hz=25)
    # 1 for 25 frames, 2 for 25 + 20 across the seam, 3 begins at frame 70 of 75.
    assert prompt.prompt_id == "p+c" and prompt.units.tolist() == [1, 2, 3]
    (prompt,) = correct_prompts(pairs, known, 2.8, rate_hz=25)
    assert prompt.units.tolist() == [1, 2]


@pytest.fixture(params=["in process", pytest.param("on Ray", marks=[pytest.mark.slow, pytest.mark.long])])
def machine(request: pytest.FixtureRequest) -> Machine:
    if request.param == "in process":
        return InProcess()
    (seat,) = request.getfixturevalue("engine").seats(1)
    return seat


def test_genppl_runs_end_to_end_offline_and_a_second_run_does_nothing(
    tmp_path: Path, machine: Machine, tiny_lm: Path, tiny_vocoder: Path, whisper_folder: Path, judge_folder: Path
) -> None:
    from slamray.config.model import ModelSettings
    from slamray.model.unit_lm import build_unit_lm, save_unit_lm
    from slamray.stage import tables
    from slamray.stage.parts import part_file
    from slamray.stages import genppl, items
    from slamray.tokens.vocabulary import Vocabulary

    inputs = {name: Folder(tmp_path / name) for name in ("items", "pretrained")}
    draw = np.random.default_rng(0)
    rows = [
        {"utterance_id": f"u{i}", "units": draw.permutation(20)[:15].tolist(), "durations": [3] * 15} for i in range(8)
    ]
    inputs["items"].write_table(part_file(tables.UNITS, 0), pa.Table.from_pylist(rows))
    pairs = tuple(pair(f"i{i}", (f"u{i}",), (f"u{i + 1}",)) for i in range(0, 8, 2))
    inputs["items"].write_json(items.ITEMS, ItemSet((), pairs).to_json())
    vocabulary = Vocabulary.of_units(20)
    save_unit_lm(build_unit_lm(ModelSettings(base=str(tiny_lm)), vocabulary, 0), inputs["pretrained"].fetch("model"))
    scoring = ScoringSettings(vocoder=str(tiny_vocoder), sampling=SamplingSettings(max_new_tokens=8, batch=2))
    settings = GenPplSettings(
        prompts=3,
        metric="cloze",
        asr=str(whisper_folder),
        asr_revision=None,
        judge=str(judge_folder),
        judge_revision=None,
        audio_samples=1,
    )
    out = Folder(tmp_path / "genppl")
    facts = genppl.run(inputs, out, machine, "pretrained", settings, scoring, 25.0)
    table = out.read_table(genppl.ROWS).to_pylist()
    assert [row["prompt_id"] for row in table] == out.read_table(genppl.PROMPTS)["prompt_id"].to_pylist()
    assert len(table) == 3 and len(out.names("audio/*.flac")) == 1
    judge = Judge(str(judge_folder), None)
    for part, found in (("", facts.with_prompt), ("_alone", facts.continuation)):
        again = judge([row[f"text{part}"] for row in table])
        assert [row[f"nll{part}"] for row in table] == pytest.approx([one.nll for one in again], rel=1e-5)
        scored = [one.nll / one.tokens for one in again if one.tokens]
        assert found.empty == 3 - len(scored)
        assert found.perplexity == pytest.approx(math.exp(sum(scored) / len(scored)), rel=1e-5)
    values = genppl.judged_values(out, "genppl")  # what a sweep resamples
    assert math.exp(np.nanmean(values)) == pytest.approx(facts.with_prompt.perplexity) and len(values) == 3
    assert np.nanmean(genppl.judged_values(out, "auto_bleu")) == pytest.approx(facts.with_prompt.auto_bleu)
    times = {path: path.stat().st_mtime_ns for path in out.fetch("chunks").iterdir()}
    assert genppl.run(inputs, out, machine, "pretrained", settings, scoring, 25.0) == facts
    assert times == {path: path.stat().st_mtime_ns for path in out.fetch("chunks").iterdir()}
    other = settings.model_copy(update={"metric": "clze"})
    with pytest.raises(BadInput, match=r"evaluate\.genppl\.metric=clze: no items of it; there are cloze"):
        genppl.run(inputs, Folder(tmp_path / "other"), machine, "pretrained", other, scoring, 25.0)
