"""Settings of models of speech and text: which kinds of documents they read, and how text and speech interleave."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, field_validator, model_validator

from slamray.config.base import Settings, execution
from slamray.config.corpora import CorpusSettings
from slamray.config.model import ModelSettings
from slamray.config.shares import Share, epochs_of, is_read
from slamray.config.training import PretrainSettings

Kind = Literal["text", "speech", "interleaved", "synthetic", "asr", "tts"]
Length = Annotated[int, Field(ge=1)]
Engine = Literal["own", "vllm"]  # what a text-to-token model speaks by
ENGINE = "joint.text_to_token.engine"
OWN_ENGINE = f'pip install "slamray[vllm]", or say {ENGINE}=own'


class InterleaveSettings(Settings):
    """Which words of a document are spoken and which stay text (slamray/tokens/interleave.py)."""

    method: Literal["poisson", "random", "span", "chunks"] = Field(
        "poisson", description="poisson: 2411.17607; random and span: slamkit's; chunks: interleaved_lm's"
    )
    share: float = Field(
        0.3,
        gt=0,
        lt=1,
        description="poisson: share of the pieces that is spoken (2411.17607: 0.3); random, span: probability of each",
    )
    span_pieces: int = Field(
        10,
        ge=1,
        description="poisson: mean length of a spoken span, in words or, in scripts without blanks, characters "
        "(2411.17607: 10); span: its length",
    )
    text_chunk: tuple[Length, Length] = Field((10, 30), description="chunks: least and most words of text")
    speech_chunk: tuple[Length, Length] = Field((5, 15), description="chunks: least and most words of speech")
    seed: int = Field(0, ge=0, description="draws the spans of a document, together with its id")

    @model_validator(mode="after")
    def _least_below_most(self) -> InterleaveSettings:
        for name in ("text_chunk", "speech_chunk"):
            least, most = getattr(self, name)
            if least > most:
                raise ValueError(f"{name} [{least}, {most}]: the least is above the most")
        return self


class TextToTokenSampling(Settings):
    """How a text-to-token model's units are drawn; the paper says nothing of it."""

    temperature: float = Field(0.8, gt=0, description="chosen, not tuned")
    top_k: int = Field(25, ge=1, description="chosen, not tuned")
    most_units_per_piece: int = Field(
        24, ge=1, description="a span that goes on for longer is not ended, and stays text; three times a word's mean"
    )
    seed: int = Field(0, ge=0, description="seeds the draws of a span, together with its document and its place")


class TextToTokenSettings(Settings):
    """The text-to-token model (2411.17607, section 2.2 in docs/paper.md, which says neither its size nor its kind)."""

    model: ModelSettings | None = Field(
        None, description="what it starts from, a text LM with the tokeniser of model.base; null: as `model`"
    )
    pretrain: PretrainSettings = PretrainSettings()
    sampling: TextToTokenSampling = TextToTokenSampling()
    engine: Engine = Field(
        "own", description='what makes the spans\' units: own, or vLLM (GPUs; pip install "slamray[vllm]")'
    )


class JointSettings(Settings):
    """One model of text and speech: `model.base` keeps its text tokens, and units and two tags are added."""

    text_tokens: int | None = execution(
        None,
        ge=1,
        description="text tokens of the base's tokeniser, where a plan should know them before it is fetched; "
        "refused when the tokeniser has others; null: as the tokeniser says",
    )
    kinds: dict[str, Share] = Field(
        {},
        description="share of the training tokens of each kind of document: text, speech, interleaved (spans of what "
        "was spoken or recorded), synthetic (interleaved, spans by the text-to-token model), asr (speech, then its "
        "text, which is learned) and tts (text, then its speech, which is learned); a number, `epochs:N` of what there "
        "is, or `rest`. Of speech, "
        "interleaved, asr and tts `kind/source` is of one source alone: stories, recordings or the name of a corpus. "
        "Empty: a unit-only model",
    )
    text: CorpusSettings | None = Field(
        None, description="the corpus of `text` and `synthetic` documents; null: that of the stories"
    )
    interleave: InterleaveSettings = InterleaveSettings()
    pair_pieces: tuple[Length, Length] = Field(
        (5, 40),
        description="asr and tts documents are stretches of least to most words, so that a pair fits in a context; "
        "chosen, not tuned",
    )
    text_to_token: TextToTokenSettings = TextToTokenSettings()
    synthetic_documents: int = Field(
        0, ge=0, description="training documents of which spans are spoken by the text-to-token model; 0: all"
    )
    text_documents: int = Field(
        0, ge=0, description="read this many training documents as text, in the order of their ids; 0: all"
    )

    @field_validator("kinds")
    @classmethod
    def _known_kinds(cls, kinds: dict[str, Share]) -> dict[str, Share]:
        """Of known kinds, with shares as shares.py reads them; how much they are together says joint_rows.check."""
        for key, share in kinds.items():
            kind, _, source = key.partition("/")
            if kind not in get_args(Kind) or (source and kind in ("text", "synthetic")):
                raise ValueError(f"{key}: no such kind; there are {' '.join(get_args(Kind))}")
            if kind != key and kind in kinds:
                raise ValueError(f"{key}: {kind} as a whole has a share, too; give that to its sources")
            if not isinstance(share, str) and share < 0:
                raise ValueError(f"{key}: {share:g} is no share, as it is below 0")
            epochs_of(share)
        return kinds

    def makes(self, kind: Kind) -> bool:
        """Whether documents of a kind are wanted; the text-to-token model learns from those of `tts`."""
        wanted = any(key.partition("/")[0] == kind and is_read(share) for key, share in self.kinds.items())
        return wanted or (kind == "tts" and self.makes("synthetic"))
