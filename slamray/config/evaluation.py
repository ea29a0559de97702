"""Settings of test items, sampling, GenPPL and published test sets."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from slamray.config.base import ASSETS, Settings
from slamray.config.outside import Revision, folder_field, model_field


class ItemsSettings(Settings):
    """How many test items of each metric, and the rules they are made by (slamray/data/corpus_items.py)."""

    topic_cloze: int = Field(250, ge=0, description="pairs: true ending against another story's ending")
    sentence_order: int = Field(250, ge=0, description="pairs: four sentences in order against permuted")
    words: int = Field(500, ge=0, description="pairs: a word by itself against a pseudo-word (sWUGGY-like)")
    words_in_sentence: int = Field(300, ge=0, description="pairs: the same inside a sentence of the story text")
    grammar: int = Field(
        300, ge=0, description="pairs: grammatical against ungrammatical (sBLIMP-like), rounded down to tens"
    )
    others: dict[str, Annotated[int, Field(ge=0)]] = Field(
        {}, description="pairs of the metrics of evaluate/metrics.py that have no field here, by name"
    )
    prompt_sentences: int = Field(3, ge=1, description="sentences before the ending in topic-cloze; chosen, not tuned")
    order_sentences: int = Field(4, ge=2, description="sentences of a sentence-order item; chosen, not tuned")
    max_opening_words: int = Field(20, ge=3, description="longest sentence of a sentence-order item; chosen, not tuned")
    max_sentence_words: int = Field(
        12, ge=3, description="longest sentence used, keeps the speech short; chosen, not tuned"
    )
    sentences_per_word: int = Field(
        4,
        ge=1,
        description="words_in_sentence: sentences for each word; a word is one item however many; chosen, not tuned",
    )
    min_word_count: int = Field(
        5, ge=1, description="a word that occurs this often in the training text shows which phonemes go together"
    )
    min_heard: int = Field(
        20, ge=1, description="a test word occurs this often in the text spoken for training (docs/LOG.md, 2026-11-23)"
    )
    min_phonemes: int = Field(
        4, ge=3, description="shortest word in phonemes, stress marks not counted; chosen, not tuned"
    )
    seed: int = Field(0, ge=0, description="seeds every draw")

    def pairs(self, metric: str) -> int:
        """How many pairs of a metric are to be made."""
        count: int = getattr(self, metric, self.others.get(metric, 0))
        return count


class SamplingSettings(Settings):
    """Sampling of unit continuations; the paper's Table 6 unless marked."""

    temperature: float = Field(0.8, gt=0, description="paper, Table 6")
    top_k: int = Field(25, ge=1, description="paper, Table 6")
    repetition_penalty: float = Field(
        1.1, ge=1, description="paper, Table 6; also over the prompt, as transformers does"
    )
    max_new_tokens: int = Field(150, ge=1, description="paper, Table 6")
    prompts: int = Field(16, ge=0, description="how many continuations; the paper uses 1000, the demo's report a few")
    prompt_seconds: float = Field(3.0, gt=0, description="docs/paper.md 1.10: the first 3 s of correct items")
    batch: int = Field(
        16, ge=1, description="prompts sampled together; what is drawn depends on it, so it is part of the identity"
    )
    seed: int = Field(0, ge=0, description="seeds every draw")


class GenPplSettings(Settings):
    """GenPPL (docs/paper.md 1.10): continuations, transcribed and judged by a text LM."""

    prompts: int = Field(0, ge=0, description="how many continuations; the paper uses 1000; 0: GenPPL is not measured")
    metric: str = Field("topic_cloze", description="items whose right ones are prompts; paper: Spoken StoryCloze")
    seed: int = Field(0, ge=0, description="draws the prompts from the sorted items")
    asr: Annotated[str, model_field("evaluate.genppl.asr", "asr_revision")] = Field(
        "openai/whisper-large-v3-turbo", description="a Whisper: local folder or hub id; the paper's"
    )
    asr_revision: Revision = Field(
        "41f01f3fe87f28c78e2fbf8b568835947dd65ed9", description="commit of the hub id; null: as the first run finds it"
    )
    judge: Annotated[str, model_field("evaluate.genppl.judge", "judge_revision")] = Field(
        "meta-llama/Llama-3.2-1B", description="a causal LM: local folder or hub id; the paper's"
    )
    judge_revision: Revision = Field(
        "4e20de362430cd3b72f300e6b0f18e50e7166e08", description="commit of the hub id; null: as the first run finds it"
    )
    audio_samples: int = Field(4, ge=0, description="continuations whose audio is kept to be listened to")


class ScoringSettings(Settings):
    """How a checkpoint is measured."""

    normalise: Literal["mean", "sum"] = Field(
        "mean", description="log-likelihood over targets incl. the final special; paper: mean"
    )
    interval: float = Field(0.95, gt=0, lt=1, description="confidence of the intervals")
    perplexity_tokens: int = Field(
        1_000_000, ge=1, description="perplexity is measured on at most so many tokens of the validation rows; chosen"
    )
    sampling: SamplingSettings = SamplingSettings()
    vocoder: Annotated[str, folder_field("evaluate.vocoder")] = Field(
        ASSETS + "vocoder", description="folder of the unit-to-waveform decoder of the report's audio"
    )
    audio_samples: int = Field(4, ge=0, description="continuations of each checkpoint to listen to in the report")


Scored = Literal["continuation", "sequence"]
Way = Literal["st", "ss", "ts", "tt"]


class AnswerSettings(Settings):
    """How a model is asked, and what it may say (slamray/stages/answers.py)."""

    ways: tuple[Way, ...] = Field(
        ("st", "ss"),
        description="question and answer, each heard (s) or read (t): st is a spoken question answered in text; what "
        "is said in speech is heard by PocketSphinx, of slamray[dev]",
    )
    text_tokens: int = Field(
        32,
        ge=1,
        description="of an answer in text, the likeliest each time; one in speech has evaluate.sampling; chosen",
    )


class QuestionSettings(AnswerSettings):
    """Spoken questions, of published sets and about the stories; none are asked by default."""

    sets: dict[str, str] = Field(
        {},
        description="published sets of spoken questions, {kind or kind-anything: folder of Parquet files}; "
        "slamray/data/question_sets.py lists the kinds and their layouts",
    )
    stories: int = Field(
        0,
        ge=0,
        description="questions about stories of the evaluation split (who, where, what), each after its passage, made "
        "by rule (slamray/data/story_questions.py)",
    )
    seed: int = Field(0, ge=0, description="draws the stories that are asked about")


class EvaluateSettings(ScoringSettings):
    """What a checkpoint is measured by."""

    items: ItemsSettings = ItemsSettings()
    sets: dict[str, str] = Field(
        {},
        description="published test sets, {kind or kind-anything: folder}; slamray/data/published_sets.py lists the "
        "kinds and their layouts",
    )
    genppl: GenPplSettings = GenPplSettings()
    task_sentences: int = Field(
        0,
        ge=0,
        description="held-out sentences by which recognition, synthesis and the text-to-token model are measured, in "
        "word error rate by PocketSphinx (slamray[dev]); 0: they are not",
    )
    scored: Scored = Field(
        "continuation",
        description="of pairs whose prompt and ending are heard or read: the ending alone, among the ids of its "
        "modality (interleaved_lm, slm_scaling), or slamkit's mean over the whole sequence, among all ids",
    )
    questions: QuestionSettings = QuestionSettings()
