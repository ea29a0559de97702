"""The whole Recipe tree: every setting with its default, meaning and source, and the profiles. loader.py resolves it.

Everything under `compute`, `root` and `tracking` is execution: it says where and how fast, and never enters a
fingerprint. Everything else is identity: it says what, and always does. The same recipe runs on every profile.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from slamray.train.budget import parse_budget

ASSETS = "assets:"  # prefix of a path inside slamray/assets/, so that recipes name no place on one machine
SHAPE = "shape:"  # prefix of a shape in families.py, in place of a text LM: to be trained from nothing
DEFAULT_VOICE = "default"  # whichever voice the back end speaks with when none is asked for


class Model(BaseModel):
    """Frozen, and a misspelt key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class CorpusConfig(Model):
    """Text to be spoken."""

    paths: tuple[str, ...] = Field(
        (ASSETS + "stories.jsonl.gz",), min_length=1, description="files, folders, patterns or hf:// paths"
    )
    text_column: str = Field("text", description="column or key that holds the text")
    min_words: int = Field(6, ge=1, description="shorter texts go to quarantine; chosen, not tuned")
    max_words: int = Field(2000, ge=1, description="longer texts go to quarantine; chosen, not tuned")
    evaluation_share: float = Field(
        0.06, ge=0, lt=1, description="share of documents no training stage ever sees; chosen, not tuned"
    )
    validation_share: float = Field(
        0.02, ge=0, lt=1, description="share of documents for validation perplexity; recipe 1.6: 1 %"
    )
    max_bad_share: float = Field(
        0.01, ge=0, le=1, description="more quarantined rows than this fail the stage; chosen, not tuned"
    )


class RecordedConfig(Model):
    """Recorded audio: the second entrance to units. A corpus with a door of its own is read as it is published."""

    paths: tuple[str, ...] = Field(
        (), description="folders or files of flac, wav, mp3, ogg, or Parquet with an audio column"
    )
    librispeech: tuple[str, ...] = Field((), description="LibriSpeech: folders or hf:// paths, as its door reads them")
    librilight: tuple[str, ...] = Field((), description="Libri-Light: its tars unpacked, or what cut_by_vad.py made")
    swc: tuple[str, ...] = Field((), description="Spoken Wikipedia: articles with aligned.swc; English alone")
    tedlium: tuple[str, ...] = Field((), description="TED-LIUM 3: data/ and legacy/ with sph and stm")
    peoples_speech: tuple[str, ...] = Field((), description="People's Speech: Parquet")
    voxpopuli: tuple[str, ...] = Field((), description="VoxPopuli: ogg in */en, or Parquet; English alone")
    stinystories: tuple[str, ...] = Field((), description="sTinyStories: Parquet with text and word times")
    validation_share: float = Field(
        0.01, ge=0, lt=1, description="by hash of the name; recipe 1.6: random 1 % of Libri-Light"
    )
    max_bad_share: float = Field(
        0.01, ge=0, le=1, description="more unreadable files than this fail the stage; chosen, not tuned"
    )


class KokoroConfig(Model):
    """Kokoro-82M, the voices of SpokenSwag (section 4.4)."""

    model: str = Field("hexgrad/Kokoro-82M", description="local folder or hub id: config.json, *.pth, voices/*.pt")
    revision: str | None = Field(None, description="commit of the hub id; required there")
    voice: str = Field("af_heart", description="who speaks where no voice is asked for (section 4.4 has four)")


class FastSpeech2Config(Model):
    """FastSpeech 2 with HiFi-GAN, the voice of sTinyStories (recipe 1.6)."""

    model: str = Field(
        "espnet/fastspeech2_conformer_with_hifigan",
        description="local folder or hub id of a FastSpeech2ConformerWithHifiGan with its vocab.json (LJ Speech)",
    )
    revision: str | None = Field(None, description="commit of the hub id; required there")


class TtsConfig(Model):
    """Which voice speaks."""

    backend: Literal["hibari", "kokoro", "fastspeech2"] = Field(
        "hibari", description="hibari: one voice, 24 kHz, offline, Apache-2.0; the others need their weights"
    )
    seed: int = Field(0, ge=0, description="seeds the noise in each utterance, together with its id")
    kokoro: KokoroConfig = KokoroConfig()
    fastspeech2: FastSpeech2Config = FastSpeech2Config()


class EncoderConfig(Model):
    """HuBERT and its k-means: what turns sound into units (recipe 1.2)."""

    model: str = Field(ASSETS + "hubert-nano", description="local folder or hub id of a transformers HubertModel")
    revision: str | None = Field(
        None, description="commit of the hub id; required there, so that a name never changes meaning"
    )
    layer: int = Field(5, ge=1, description="hidden_states[layer] is quantised")
    centroids: str = Field(ASSETS + "hubert-nano/centroids.safetensors", description="k-means matrix `centroids_KD`")
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="bfloat16 changes 0.5 % of hubert-nano's units"
    )
    pad_samples: int = Field(
        580, ge=0, description="zeros before and after a recording; 580 for hubert-nano, 40 for mhubert-base-25hz"
    )


class SpeechConfig(Model):
    """Text or recordings to units."""

    tts: TtsConfig = TtsConfig()
    encoder: EncoderConfig = EncoderConfig()
    train_documents: int | None = Field(
        0, ge=0, description="speak that many training documents, by order of id; 0: all; null: none, recordings alone"
    )
    validation_documents: int = Field(0, ge=0, description="the same for validation; 0: all")
    shard_documents: int = Field(
        8, ge=1, description="documents in a shard, the unit of work that a kill can lose; chosen, not tuned"
    )
    sample_documents: int = Field(3, ge=0, description="documents whose audio is kept to be listened to")
    max_bad_share: float = Field(
        0.01, ge=0, le=1, description="more quarantined rows than this fail the stage; chosen, not tuned"
    )


class PackConfig(Model):
    """Documents to fixed rows."""

    context: int = Field(
        1024, ge=16, le=131072, description="tokens of a packed row; pieces are at most this long (Table 4)"
    )
    mixture: dict[str, float] = Field(
        {},
        description="share of the training tokens of each source (stories, recordings, or a corpus named under "
        "recorded); empty: every token once in an epoch",
    )


class ModelConfig(Model):
    """The text LM and how it becomes a unit LM (recipe 1.3)."""

    base: str = Field(
        "Qwen/Qwen2.5-0.5B",
        description="text LM to start from: hub id or folder (Table 4), or without TWIST shape:NAME of families.py",
    )
    revision: str | None = Field(
        None, description="commit of the hub id; required there, so that a name never changes meaning"
    )
    twist: bool = Field(True, description="keep the text LM's body; false keeps its shape and draws all weights anew")
    embedding: Literal["first_rows", "mean", "normal"] = Field(
        "first_rows",
        description="where unit embeddings start: first rows of the text embedding (slamkit), its mean, or fresh",
    )
    rope_theta: float | None = Field(
        10_000.0, gt=0, description="RoPE base; null keeps the text LM's (section 4.1: 10 000)"
    )


class AdEMAMixConfig(Model):
    """AdEMAMix's slow mean of gradients (arXiv 2409.03137); the fast mean and the square have AdamW's betas."""

    beta3: float = Field(0.9999, ge=0, lt=1, description="decay of the slow mean; unstated in the paper, 2409.03137")
    alpha: float = Field(
        5.0, ge=0, description="weight of the slow mean; unstated in the paper, default of bitsandbytes and HF Trainer"
    )
    warmup_share: float = Field(
        1.0,
        ge=0,
        le=1,
        description="share of the budget over which alpha and beta3 rise; unstated there; 2409.03137, algorithm 1",
    )


class AdaLomoConfig(Model):
    """AdaLomo's factored second moment and grouped update normalisation (arXiv 2310.10195, its released defaults)."""

    decay_rate: float = Field(-0.8, lt=0, description="the second moment's decay at step t is 1 - t^decay_rate")
    clip_threshold: float = Field(1.0, gt=0, description="largest root mean square of a matrix's update")
    epsilon_gradient: float = Field(1e-30, gt=0, description="added to squared gradients")
    epsilon_weight: float = Field(1e-3, gt=0, description="least root mean square of a matrix that scales its update")


class OptimConfig(Model):
    """The optimiser and its schedule; pre-training, the text LM and DPO share it and differ in values."""

    name: Literal["adamw", "ademamix", "adalomo"] = Field(
        "adamw", description="Table 4; the others are of figure 4, in pre-training and under ZeRO 0"
    )
    ademamix: AdEMAMixConfig = AdEMAMixConfig()
    adalomo: AdaLomoConfig = AdaLomoConfig()
    learning_rate: float = Field(1e-3, gt=0, description="peak (Table 4)")
    schedule: Literal["cosine", "inverse_sqrt", "constant", "wsd"] = Field(
        "cosine", description="after a linear warm-up (Table 4)"
    )
    floor_learning_rate: float = Field(5e-5, ge=0, description="where cosine and wsd end (Table 4)")
    warmup_share: float = Field(0.01, ge=0, lt=1, description="share of the budget (section 4.1: 1 %)")
    decay_share: float = Field(
        0.2, gt=0, le=1, description="wsd only: share of the budget that decays; chosen, not tuned"
    )
    beta1: float = Field(0.9, ge=0, lt=1, description="unstated in the paper; torch's and HF Trainer's default")
    beta2: float = Field(0.999, ge=0, lt=1, description="unstated in the paper; torch's and HF Trainer's default")
    epsilon: float = Field(1e-8, gt=0, description="unstated in the paper; torch's and HF Trainer's default")
    weight_decay: float = Field(0.0, ge=0, description="unstated in the paper; HF Trainer's default")
    clip_norm: float = Field(0.5, gt=0, description="global gradient norm is clipped to this (section 4.1)")

    @property
    def decay_start(self) -> float:
        """The progress at which wsd begins to decay."""
        return max(self.warmup_share, 1.0 - self.decay_share)

    @model_validator(mode="after")
    def _floor_below_peak(self) -> OptimConfig:
        if self.floor_learning_rate > self.learning_rate:
            raise ValueError(
                f"floor_learning_rate {self.floor_learning_rate} is above learning_rate {self.learning_rate}"
            )
        return self


def _check_budget(text: str) -> str:
    parse_budget(text, "budget")
    return text


BudgetWord = Annotated[str, AfterValidator(_check_budget)]


class PretrainConfig(Model):
    """Pre-training on packed rows (recipe 1.5, Table 4)."""

    budget: BudgetWord = Field(
        "time:23h30m", description="steps:N, tokens:N, flops:N or time:1h30m of optimiser time (Table 4: 23.5 h)"
    )
    trunk: BudgetWord | None = Field(
        None,
        description="wsd only: a budget of the same kind, not smaller. Its warm-up is this run's too, so that runs of "
        "all smaller budgets have their stable part in common, which is trained once; null: by itself",
    )
    tokens_per_step: int = Field(
        131_072, ge=1, description="tokens of a global batch, padding included (Table 4: 128 x 1024)"
    )
    seed: int = Field(0, ge=0, description="initialisation of new weights and order of the rows")
    optim: OptimConfig = OptimConfig()
    validations: int = Field(
        10, ge=1, description="validations, evenly spaced over the budget, the last at its end; chosen, not tuned"
    )
    validation_rows: int = Field(
        512, ge=1, description="rows of the validation split that each reads, the first ones; chosen, not tuned"
    )


class TextLmConfig(Model):
    """A small Qwen2 and its BPE tokeniser, trained on text by the pre-training loop; TWIST's start on a laptop."""

    vocab_size: int = Field(
        2048, ge=300, le=65535, description="BPE tokens, 256 bytes and 2 specials included; chosen, not tuned"
    )
    hidden: int = Field(256, ge=32, description="model width")
    layers: int = Field(4, ge=1, description="decoder layers")
    heads: int = Field(4, ge=1, description="query heads")
    kv_heads: int = Field(2, ge=1, description="key and value heads")
    ffn: int = Field(704, ge=32, description="SwiGLU width")
    context: int = Field(512, ge=16, description="tokens of a packed row")
    pretrain: PretrainConfig = PretrainConfig(
        budget="time:12m", tokens_per_step=8192, optim=OptimConfig(learning_rate=3e-3)
    )


class PreferencesConfig(Model):
    """Which preference pairs are made (recipe 1.6, section 4.4)."""

    source: Literal["stories", "swag", "spoken_swag"] = Field(
        "stories", description="a story's true continuation against another's, SWAG's endings, or these as published"
    )
    path: str = Field(
        "", description="swag: Parquet, JSONL or hf:// path with SWAG's columns; spoken_swag: Parquet with its audio"
    )
    seed: int = Field(0, ge=0, description="seeds distractor and voice, together with the pair's id")
    voices: tuple[str, ...] = Field(
        ("default",), min_length=1, description="one is drawn per triple (section 4.4: four of Kokoro)"
    )
    max_auto_bleu: float = Field(
        0.3, gt=0, le=1, description="pairs whose text has auto-BLEU-2 not below this are dropped (section 4.4)"
    )
    max_pairs: int = Field(0, ge=0, description="keep that many training pairs, by order of id; 0: all")
    heldout_pairs: int = Field(
        150, ge=0, description="pairs from evaluation documents, never trained on; chosen, not tuned"
    )
    prompt_sentences: int = Field(2, ge=1, description="stories: sentences in a prompt; chosen, not tuned")
    continuation_sentences: int = Field(1, ge=1, description="stories: sentences in a continuation; chosen, not tuned")
    windows_per_story: int = Field(
        0, ge=0, description="stories: use that many windows of each, the first ones; 0: all"
    )
    same_place: bool = Field(
        True,
        description="stories: the rejected one has the same relative place in its story, so that place tells nothing",
    )
    max_length_ratio: float = Field(
        1.25, ge=1, description="stories: largest ratio of the continuations' word counts, so that length tells nothing"
    )


class DpoConfig(Model):
    """Preference training (recipe 1.5, Table 5)."""

    budget: BudgetWord | None = Field(
        "time:30m",
        description="steps:N or time:30m of optimiser time (Table 5: 0.5 h, about 813 steps); null: no DPO",
    )
    beta: float = Field(0.1, gt=0, description="strength of the pull towards the reference (Table 5)")
    pairs_per_step: int = Field(64, ge=1, description="pairs of a global batch (Table 5: 4 x 16)")
    context: int = Field(
        1024,
        ge=16,
        description="longest prompt and continuation in tokens; longer pairs are dropped and counted (Table 5)",
    )
    seed: int = Field(0, ge=0, description="order of the pairs")
    evaluations: int = Field(
        0, ge=0, description="held-out pairs scored, and their prompts continued, so often during DPO; for sweep.stop"
    )
    optim: OptimConfig = OptimConfig(learning_rate=5e-5, schedule="inverse_sqrt", floor_learning_rate=0.0)


class ItemsConfig(Model):
    """How many test items of each kind, and the rules they are made by (evaluate/items.py)."""

    topic_cloze: int = Field(250, ge=0, description="pairs: true ending against another story's ending")
    sentence_order: int = Field(250, ge=0, description="pairs: four sentences in order against permuted")
    words: int = Field(500, ge=0, description="pairs: a word by itself against a pseudo-word (sWUGGY-like)")
    words_in_sentence: int = Field(300, ge=0, description="pairs: the same inside a sentence of the story text")
    grammar: int = Field(
        300, ge=0, description="pairs: grammatical against ungrammatical (sBLIMP-like), rounded down to tens"
    )
    prompt_sentences: int = Field(3, ge=1, description="sentences before the ending in topic-cloze; chosen, not tuned")
    order_sentences: int = Field(4, ge=2, description="sentences of a sentence-order item; chosen, not tuned")
    max_opening_words: int = Field(20, ge=3, description="longest sentence of a sentence-order item; chosen, not tuned")
    max_sentence_words: int = Field(
        12, ge=3, description="longest sentence used, keeps the speech short; chosen, not tuned"
    )
    sentences_per_word: int = Field(
        4, ge=1, description="words_in_sentence: sentences for a word, which is one item; chosen, not tuned"
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


class SamplingConfig(Model):
    """Sampling of unit continuations; the paper's Table 6 unless marked."""

    temperature: float = Field(0.8, gt=0, description="paper, Table 6")
    top_k: int = Field(25, ge=1, description="paper, Table 6")
    repetition_penalty: float = Field(
        1.1, ge=1, description="paper, Table 6; also over the prompt, as transformers does"
    )
    max_new_tokens: int = Field(150, ge=1, description="paper, Table 6")
    prompts: int = Field(16, ge=0, description="how many continuations; the paper uses 1000, the demo's report a few")
    prompt_seconds: float = Field(3.0, gt=0, description="paper, section on GenPPL: the first 3 s of correct items")
    batch: int = Field(
        16, ge=1, description="prompts sampled together; the draw depends on it, hence part of the identity"
    )
    seed: int = Field(0, ge=0, description="seeds every draw")


class VocoderConfig(Model):
    """The small unit-to-waveform decoder (speech/vocode.py); sizes chosen for <= 1 MB and 3 minutes on 2 cores."""

    hidden: int = Field(128, ge=16, description="channels of the convolutions")
    unit_blocks: int = Field(3, ge=1, description="residual blocks at the unit rate")
    frame_blocks: int = Field(2, ge=1, description="residual blocks at the mel rate")
    documents: int = Field(72, ge=1, description="training recordings, about an hour of stories; chosen, not tuned")
    steps: int = Field(1500, ge=1, description="optimiser steps; chosen, not tuned")
    batch: int = Field(16, ge=1, description="crops in a step")
    crop_seconds: float = Field(3.0, gt=0, description="length of a crop; chosen, not tuned")
    learning_rate: float = Field(1e-3, gt=0, description="AdamW, one cycle")
    seed: int = Field(0, ge=0, description="seeds every draw")


class UnitVocoderConfig(Model):
    """A HiFi-GAN code generator (speech/unit_vocoder.py) and its training; sized for tens of minutes on 2 cores."""

    embedding_dim: int = Field(128, ge=8, description="of a unit; textless-lib: 128")
    channels: int = Field(
        512, ge=32, description="after the first convolution, halved by each upsampling; HiFi-GAN V1: 512"
    )
    upsample_rates: tuple[int, ...] = Field(
        (1, 5, 8, 4, 4), min_length=1, description="multiply to the samples of a unit; the 1 hears 0.5 s to either side"
    )
    upsample_kernel_sizes: tuple[int, ...] = Field((3, 11, 16, 8, 8), min_length=1, description="about twice the rates")
    resblock_kernel_sizes: tuple[int, ...] = Field((3,), min_length=1, description="HiFi-GAN V1: 3, 7, 11")
    resblock_dilations: tuple[int, ...] = Field((1, 3, 5), min_length=1, description="HiFi-GAN V1")
    discriminator_divisor: Literal[1, 2, 4, 8, 16, 32] = Field(
        16, description="widths of HiFi-GAN's discriminators are divided by it"
    )
    documents: int = Field(300, ge=1, description="training recordings, about 4 h of stories; chosen, not tuned")
    steps: int = Field(100_000, ge=1, description="at most that many optimiser steps")
    seconds: float = Field(1200, gt=0, description="of training; whichever of steps and seconds is spent first ends it")
    adversarial_share: float = Field(
        0.3, ge=0, le=1, description="last share of the budget, in which discriminators take part; chosen, not tuned"
    )
    batch: int = Field(4, ge=1, description="crops in a step")
    crop_frames: int = Field(40, ge=1, description="length of a crop in units: 1.6 s; chosen, not tuned")
    peak_rate: float = Field(1e-3, gt=0, description="AdamW; HiFi-GAN's 2e-4 is for 500 times the steps")
    warmup_share: float = Field(0.02, gt=0, lt=1, description="share of the budget; chosen, not tuned")
    clip_norm: float = Field(20.0, gt=0, description="of gradients, against outliers alone; chosen, not tuned")
    seed: int = Field(0, ge=0, description="crops, initialisation, dropout")
    bfloat16: bool = Field(True, description="convolutions in bfloat16")
    report_every: int = Field(50, ge=1, description="steps between two reports")
    checkpoint_every: int = Field(500, ge=1, description="steps between two checkpoints")


class GenPplConfig(Model):
    """GenPPL (recipe 1.10; evaluate/genppl.py): continuations, transcribed, judged by a text LM."""

    prompts: int = Field(0, ge=0, description="how many continuations; the paper uses 1000; 0: GenPPL is not measured")
    metric: str = Field("topic_cloze", description="items whose right ones are prompts; paper: Spoken StoryCloze")
    seed: int = Field(0, ge=0, description="draws the prompts from the sorted items")
    asr: str = Field("openai/whisper-large-v3-turbo", description="a Whisper: local folder or hub id; the paper's")
    asr_revision: str | None = Field(
        "41f01f3fe87f28c78e2fbf8b568835947dd65ed9", description="commit of the hub id; required there"
    )
    judge: str = Field("meta-llama/Llama-3.2-1B", description="a causal LM: local folder or hub id; the paper's")
    judge_revision: str | None = Field(
        "4e20de362430cd3b72f300e6b0f18e50e7166e08", description="commit of the hub id; required there"
    )
    audio_samples: int = Field(4, ge=0, description="continuations whose audio is kept to be listened to")


class EvaluateConfig(Model):
    items: ItemsConfig = ItemsConfig()
    sampling: SamplingConfig = SamplingConfig()
    normalise: Literal["mean", "sum"] = Field(
        "mean", description="log-likelihood over targets incl. the final special; paper: mean"
    )
    interval: float = Field(0.95, gt=0, lt=1, description="confidence of the intervals")
    vocoder: str = Field(ASSETS + "vocoder", description="folder of the unit-to-waveform decoder of the report's audio")
    audio_samples: int = Field(4, ge=0, description="continuations of each checkpoint to listen to in the report")
    sets: dict[str, str] = Field(
        {}, description="published test sets, {kind or kind-anything: folder}; kinds and layouts: evaluate/published.py"
    )
    genppl: GenPplConfig = GenPplConfig()


class HubertTrainingConfig(Model):
    """One iteration of masked prediction; values without a source are measured in the card of assets/hubert-nano."""

    steps: int = Field(100_000, ge=1, description="at most that many optimiser steps")
    seconds: float = Field(1200, gt=0, description="of training; whichever of steps and seconds is spent first ends it")
    seed: int = Field(0, ge=0, description="crops, masks, initialisation")
    batch_crops: int = Field(12, ge=1, description="crops in a step, over all workers")
    crop_frames: int = Field(125, ge=10, description="length of a crop: 5 s")
    mask_share: float = Field(
        0.4, gt=0, lt=1, description="of a crop's frames; HuBERT's 8 % starts x 10 frames at 50 Hz mask about 57 %"
    )
    mask_frames: int = Field(5, ge=1, description="200 ms, as HuBERT")
    unmasked_weight: float = Field(1.0, ge=0, description="weight of the loss over frames that are not masked")
    peak_rate: float = Field(1e-3, gt=0, description="learning rate, linear up and linear down")
    warmup_share: float = Field(0.08, gt=0, lt=1, description="HuBERT section IV-B")
    weight_decay: float = Field(0.01, ge=0, description="HuBERT section IV-B")
    clip_norm: float = Field(1.0, gt=0, description="chosen, not tuned")
    bfloat16: bool = Field(True, description="matrix products in bfloat16")
    report_every: int = Field(50, ge=1, description="steps between two reports")
    checkpoint_every: int = Field(500, ge=1, description="steps between two checkpoints")


class EncoderTrainingConfig(Model):
    """An own HuBERT and its units, for a voice or a language that has none (Hsu et al. 2021)."""

    train_documents: int = Field(596, ge=1, description="documents spoken to train on, about 8 h of stories")
    evaluation_documents: int = Field(80, ge=1, description="documents to measure phones on")
    seed: int = Field(0, ge=0, description="seeds every k-means")
    mfcc_clusters: int = Field(
        256, ge=2, description="of 39-dimensional MFCCs, iteration 1's targets; chosen, not tuned"
    )
    first: HubertTrainingConfig = HubertTrainingConfig()
    feature_layer: int = Field(5, ge=1, description="layer of iteration 1 whose clusters are iteration 2's targets")
    feature_clusters: tuple[int, ...] = Field(
        (100, 500), min_length=1, description="one codebook each (HuBERT section III-C)"
    )
    second: HubertTrainingConfig = HubertTrainingConfig(seed=1)
    layer: int = Field(5, ge=1, description="layer of iteration 2 that becomes units")
    n_units: int = Field(500, ge=2, description="recipe 1.2")
    kmeans_frames: int = Field(200_000, ge=500, description="frames that the k-means is fitted on; chosen, not tuned")


class AssetsConfig(Model):
    """What the offline default is made of; jobs/assets.py makes it."""

    encoder: EncoderTrainingConfig = EncoderTrainingConfig()
    text_lm: TextLmConfig = TextLmConfig()
    vocoder: VocoderConfig = VocoderConfig()
    unit_vocoder: UnitVocoderConfig = UnitVocoderConfig()
    decoder: Literal["source_filter", "hifigan"] = Field(
        "source_filter", description="what the stage `vocoder` trains: by `vocoder`, or by `unit_vocoder`"
    )
    decoder_only: bool = Field(
        False,
        description="make only a decoder, for the encoder of speech.encoder; false: an own encoder and text LM too",
    )
    intelligibility_documents: int = Field(
        12, ge=1, description="evaluation stories whose word error rate is measured; chosen, not tuned"
    )


class TrackingConfig(Model):
    """Where runs are compared. Execution: never part of a fingerprint."""

    enabled: bool = Field(True, description="false: no MLflow at all")
    uri: str = Field("", description="MLflow server; empty: MLFLOW_TRACKING_URI, else a SQLite store under root")
    experiment: str = Field("slamray", description="MLflow experiment")


class Compute(Model):
    """Where and how fast; one row of PROFILES. Execution: never part of a fingerprint."""

    workers: int = Field(1, ge=1, description="training workers, one GPU each where device is cuda")
    device: Literal["cpu", "cuda"] = Field("cpu", description="where training and scoring run")
    cpus_per_worker: int = Field(1, ge=1, description="CPU cores, and torch threads, of a training worker")
    dtype: Literal["bfloat16", "float32"] = Field(
        "bfloat16", description="of matrix products in training; weights stay float32"
    )
    micro_batch: int = Field(8, ge=1, description="packed rows that one worker holds at once in pre-training")
    dpo_micro_batch: int = Field(4, ge=1, description="pairs that one worker holds at once in DPO")
    zero_stage: Literal[0, 1, 2, 3] = Field(0, description="DeepSpeed ZeRO stage")
    attention: Literal["sdpa", "flash_attention_2"] = Field("sdpa", description="attention kernel")
    memory_gb: float | None = Field(
        None, gt=0, description="memory of one device; what is planned to need more is refused; null: nothing is"
    )
    peak_tflops: float | None = Field(
        None, gt=0, description="dense bf16 peak of one device, for MFU; null: MFU is not reported"
    )
    report_every_steps: int = Field(10, ge=1, description="optimiser steps between two reports")
    checkpoint_every_seconds: float = Field(60.0, gt=0, description="at most this much training is lost by a kill")
    min_workers: int | None = Field(
        None,
        ge=1,
        description="go on with as few workers while nodes are gone, and with all when they are back; "
        "null: wait for all",
    )
    max_failures: int = Field(
        3, ge=0, description="failures in a row, with no new checkpoint between them, that training starts again after"
    )
    stall_seconds: int = Field(
        60,
        ge=1,
        description="a worker silent for so long is taken for dead; more than copying a checkpoint takes",
    )
    notice_seconds: float = Field(
        25.0,
        ge=0,
        description="after SIGTERM, how long a last checkpoint is waited for; Kubernetes sends SIGKILL after 30 s",
    )
    tts_actors: int = Field(1, ge=1, description="actors that speak, one CPU core each")
    encoder_actors: int = Field(1, ge=1, description="actors that encode, one CPU core each")
    encoder_gpus: float = Field(0, ge=0, le=1, description="share of a GPU for each encoder actor")
    encoder_batch_seconds: float = Field(
        60, gt=0, description="padded seconds of audio in one encoder batch; chosen, not tuned"
    )
    score_actors: int = Field(2, ge=1, description="actors that evaluate, one core or one GPU each")
    score_batch_tokens: int = Field(
        8192, ge=1, description="padded tokens in a forward pass of scoring: memory of the logits; chosen, not tuned"
    )
    parallel_stages: int = Field(1, ge=1, description="stages that may run side by side")


# One dial. The peaks are NVIDIA's dense bf16 figures; the A100s are those of 80 GB (the paper does not say which it
# used; on the ones of 40 GB say compute.memory_gb=40); the pool sizes on GPU machines are chosen, not tuned.
PROFILES: dict[str, Compute] = {
    "laptop": Compute(cpus_per_worker=2, micro_batch=4, report_every_steps=10),
    "a5000": Compute(
        device="cuda",
        cpus_per_worker=4,
        attention="flash_attention_2",
        memory_gb=24,
        peak_tflops=111.1,
        checkpoint_every_seconds=600,
        tts_actors=10,
        encoder_gpus=0.5,
        encoder_batch_seconds=600,
        score_actors=1,
    ),
    "a100x2": Compute(
        workers=2,
        device="cuda",
        cpus_per_worker=4,
        attention="flash_attention_2",
        memory_gb=80,
        peak_tflops=312,
        checkpoint_every_seconds=600,
        tts_actors=16,
        encoder_actors=2,
        encoder_gpus=0.5,
        encoder_batch_seconds=1200,
    ),
    "cluster": Compute(
        workers=8,
        device="cuda",
        cpus_per_worker=4,
        attention="flash_attention_2",
        memory_gb=80,
        peak_tflops=312,
        zero_stage=1,
        checkpoint_every_seconds=600,
        tts_actors=128,
        encoder_actors=8,
        encoder_gpus=0.5,
        encoder_batch_seconds=1200,
        score_actors=8,
        parallel_stages=2,
    ),
}


class Recipe(Model):
    """A whole run, from text to report."""

    name: str = Field("demo", description="name of the run in MLflow and in the report")
    corpus: CorpusConfig = CorpusConfig()
    recorded: RecordedConfig = RecordedConfig()
    speech: SpeechConfig = SpeechConfig()
    pack: PackConfig = PackConfig()
    model: ModelConfig = ModelConfig()
    pretrain: PretrainConfig = PretrainConfig()
    preferences: PreferencesConfig = PreferencesConfig()
    dpo: DpoConfig = DpoConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    assets: AssetsConfig = AssetsConfig()
    compute: Compute = Compute()
    root: Annotated[str, AfterValidator(lambda path: str(Path(path).resolve()))] = Field(
        "runs",
        validate_default=True,
        description="folder of all stages; execution, made absolute for workers elsewhere",
    )
    mirror: str | None = Field(
        None, description="s3://bucket/folder (or gs://, file:///) that keeps a copy of root while the run goes on"
    )
    tracking: TrackingConfig = TrackingConfig()


def identity(config: BaseModel) -> dict[str, Any]:
    """A config as plain JSON values, for a stage's fingerprint."""
    return config.model_dump(mode="json")


def asset_path(path: str) -> str:
    """`assets:x` is the file or folder x shipped with the package; every other path stands for itself."""
    if not path.startswith(ASSETS):
        return path
    return str(resources.files("slamray") / "assets" / path.removeprefix(ASSETS))
