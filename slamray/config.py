"""The whole Recipe tree and its loader: defaults <- recipe file <- profile <- `a.b=c` words.

Everything under `compute`, `root` and `tracking` is execution: it says where and how fast, and never enters a
fingerprint. Everything else is identity: it says what, and always does. The same recipe runs on every profile.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from slamray.errors import BadInput
from slamray.train.budget import parse_budget

ASSETS = "assets:"  # prefix of a path inside slamray/assets/, so that recipes name no place on one machine


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
    """Recorded audio: the second entrance to units (Libri-Light, LibriSpeech)."""

    paths: tuple[str, ...] = Field(
        (), description="folders or files of flac, wav, mp3, ogg, or Parquet with an audio column"
    )
    validation_share: float = Field(
        0.01, ge=0, lt=1, description="by hash of the name; recipe 1.6: random 1 % of Libri-Light"
    )
    max_bad_share: float = Field(
        0.01, ge=0, le=1, description="more unreadable files than this fail the stage; chosen, not tuned"
    )


class TtsConfig(Model):
    """Which voice speaks."""

    backend: Literal["hibari"] = Field("hibari", description="hibari: one voice, 24 kHz, offline, Apache-2.0")
    seed: int = Field(0, ge=0, description="seeds the noise in each utterance, together with its id")


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
    train_documents: int = Field(0, ge=0, description="speak that many training documents, by order of id; 0: all")
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


class ModelConfig(Model):
    """The text LM and how it becomes a unit LM (recipe 1.3)."""

    base: str = Field("Qwen/Qwen2.5-0.5B", description="text LM to start from: a hub id or a local folder (Table 4)")
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


class OptimConfig(Model):
    """AdamW and its schedule; pre-training, the text LM and DPO share it and differ in values."""

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

    source: Literal["stories", "swag"] = Field(
        "stories", description="a story's true continuation against another's, or SWAG's endings"
    )
    path: str = Field("", description="swag: Parquet, JSONL or hf:// path with SWAG's columns")
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

    budget: BudgetWord = Field(
        "time:30m", description="steps:N or time:30m of optimiser time (Table 5: 0.5 h, about 813 steps)"
    )
    beta: float = Field(0.1, gt=0, description="strength of the pull towards the reference (Table 5)")
    pairs_per_step: int = Field(64, ge=1, description="pairs of a global batch (Table 5: 4 x 16)")
    context: int = Field(
        1024,
        ge=16,
        description="longest prompt and continuation in tokens; longer pairs are dropped and counted (Table 5)",
    )
    seed: int = Field(0, ge=0, description="order of the pairs")
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
    min_word_count: int = Field(
        5, ge=1, description="a word must occur this often in the training text; chosen, not tuned"
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


class EvaluateConfig(Model):
    items: ItemsConfig = ItemsConfig()
    sampling: SamplingConfig = SamplingConfig()
    normalise: Literal["mean", "sum"] = Field(
        "mean", description="log-likelihood over targets incl. the final special; paper: mean"
    )
    interval: float = Field(0.95, gt=0, lt=1, description="confidence of the intervals")
    vocoder: str = Field(ASSETS + "vocoder", description="folder of the unit-to-waveform decoder of the report's audio")
    audio_samples: int = Field(4, ge=0, description="continuations of each checkpoint to listen to in the report")


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
    feature_layer: int = Field(3, ge=1, description="layer of iteration 1 whose clusters are iteration 2's targets")
    feature_clusters: tuple[int, ...] = Field(
        (200, 1000), min_length=1, description="one codebook each (HuBERT section III-C)"
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
    peak_tflops: float | None = Field(
        None, gt=0, description="dense bf16 peak of one device, for MFU; null: MFU is not reported"
    )
    report_every_steps: int = Field(10, ge=1, description="optimiser steps between two reports")
    checkpoint_every_seconds: float = Field(60.0, gt=0, description="at most this much training is lost by a kill")
    tts_actors: int = Field(1, ge=1, description="actors that speak, one CPU core each")
    encoder_actors: int = Field(1, ge=1, description="actors that encode, one CPU core each")
    encoder_gpus: float = Field(0, ge=0, le=1, description="share of a GPU for each encoder actor")
    encoder_batch_seconds: float = Field(
        60, gt=0, description="padded seconds of audio in one encoder batch; chosen, not tuned"
    )
    score_actors: int = Field(2, ge=1, description="actors that evaluate, one core or one GPU each")
    parallel_stages: int = Field(1, ge=1, description="stages that may run side by side")


# One dial. The peaks are NVIDIA's dense bf16 figures; the pool sizes on GPU machines are chosen, not tuned.
PROFILES: dict[str, Compute] = {
    "laptop": Compute(cpus_per_worker=2, report_every_steps=2),
    "a5000": Compute(
        device="cuda",
        cpus_per_worker=4,
        attention="flash_attention_2",
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
    tracking: TrackingConfig = TrackingConfig()


def load_recipe(words: Sequence[str]) -> Recipe:
    """Resolve a command's words: `recipe=NAME|file.yaml`, `profile=NAME`, then dotted overrides in any order.

    Raises BadInput that names the dotted key and, for a misspelt one, the nearest that exists.
    """
    named = {"recipe": "demo", "profile": "laptop"}
    overrides: list[tuple[str, str]] = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise BadInput(f"{word!r} is not a word of the form a.b=c; see README for examples")
        if key in named:
            named[key] = value
        else:
            overrides.append((key, value))
    if named["profile"] not in PROFILES:
        raise BadInput(f"profile={named['profile']}: choose one of {' '.join(PROFILES)}")
    tree = _read_recipe_file(named["recipe"])
    if {"compute", "root", "tracking"} & tree.keys():
        raise BadInput(f"recipe={named['recipe']}: compute, root and tracking are execution; give them as words")
    # A group that is named in part keeps the rest of *its* defaults (dpo.optim is not pretrain.optim), so the whole
    # tree of defaults is laid first.
    tree = _merge(Recipe().model_dump(), tree) | {"compute": PROFILES[named["profile"]].model_dump()}
    for key, value in overrides:
        _set(tree, key, _parse(key, value))
    return parse_recipe(tree)


def parse_recipe(tree: Mapping[str, Any]) -> Recipe:
    """Validate a tree of plain values; BadInput with the dotted key and what it may be."""
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise BadInput(f"{key}: no such key{_near_miss(first['loc'])}") from error
        raise BadInput(f"{key}={first['input']!r}: {first['msg']}") from error


def identity(config: BaseModel) -> dict[str, Any]:
    """A config as plain JSON values, for a stage's fingerprint."""
    return config.model_dump(mode="json")


def asset_path(path: str) -> str:
    """`assets:x` is the file or folder x shipped with the package; every other path stands for itself."""
    if not path.startswith(ASSETS):
        return path
    return str(resources.files("slamray") / "assets" / path.removeprefix(ASSETS))


def _read_recipe_file(name: str) -> dict[str, Any]:
    packaged = Path(str(resources.files("slamray") / "recipes"))
    path = Path(name) if name.endswith((".yaml", ".yml")) else packaged / f"{name}.yaml"
    if not path.is_file():
        known = " ".join(sorted(p.stem for p in packaged.glob("*.yaml")))
        raise BadInput(f"recipe={name}: no such recipe; packaged are {known}, or give a .yaml file")
    try:
        tree = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise BadInput(f"recipe={name}: not YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(tree, dict):
        raise BadInput(f"recipe={name}: not a mapping of keys")
    return tree


def _parse(key: str, value: str) -> Any:
    try:
        return yaml.safe_load(value) if value else ""
    except yaml.YAMLError as error:
        raise BadInput(f"{key}={value}: not a value ({str(error).splitlines()[0]})") from error


def _set(tree: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise BadInput(f"{key}: {parent} is a value, not a group of keys")
    tree[last] = value


def _merge(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        deeper = isinstance(value, dict) and isinstance(below.get(key), dict)
        merged[key] = _merge(below[key], value) if deeper else value
    return merged


def _near_miss(location: tuple[int | str, ...]) -> str:
    model: type[BaseModel] = Recipe
    for part in location[:-1]:
        annotation = model.model_fields[str(part)].annotation
        assert isinstance(annotation, type) and issubclass(annotation, BaseModel)
        model = annotation
    close = difflib.get_close_matches(str(location[-1]), model.model_fields, n=1)
    return f"; did you mean {close[0]}?" if close else f"; there are {' '.join(model.model_fields)}"
