"""Settings of what is read: text, recordings, preference pairs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from slamray.config.base import ASSETS, Settings, execution
from slamray.config.outside import listing_field

ROW_SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")
TEXT_SUFFIXES = (*ROW_SUFFIXES, ".txt")


class CorpusSettings(Settings):
    """Text to be spoken."""

    paths: Annotated[tuple[str, ...], listing_field("corpus.paths", TEXT_SUFFIXES)] = Field(
        (ASSETS + "stories.jsonl.gz",), min_length=1, description="files, folders, patterns or hf:// paths"
    )
    text_column: str = Field("text", description="column or key that holds the text")
    min_words: int = Field(6, ge=1, description="shorter texts go to quarantine; chosen, not tuned")
    max_words: int = Field(2000, ge=1, description="longer texts go to quarantine; chosen, not tuned")
    evaluation_share: float = Field(
        0.06, ge=0, lt=1, description="share of documents no training stage ever sees; chosen, not tuned"
    )
    validation_share: float = Field(
        0.02, ge=0, lt=1, description="share of documents for validation perplexity; docs/paper.md 1.6: 1 %"
    )
    max_bad_share: float = execution(
        0.01, ge=0, le=1, description="more quarantined rows than this fail the stage; chosen, not tuned"
    )


class RecordedSettings(Settings):
    """Recorded audio, encoded as units beside spoken text or instead of it.

    `paths` takes any audio; each of the other fields takes a corpus in the layout in which it is published
    (slamray/data/published_corpora.py).
    """

    paths: tuple[str, ...] = Field(
        (), description="folders or files of flac, wav, mp3, ogg, or Parquet with an audio column; hf:// paths too"
    )
    librispeech: tuple[str, ...] = Field((), description="LibriSpeech: folders or hf:// paths")
    librilight: tuple[str, ...] = Field(
        (), description="Libri-Light: its tars unpacked, or the output of its cut_by_vad.py"
    )
    swc: tuple[str, ...] = Field((), description="Spoken Wikipedia: articles with aligned.swc; English alone")
    tedlium: tuple[str, ...] = Field((), description="TED-LIUM 3: data/ and legacy/ with sph and stm; or 1, 2")
    peoples_speech: tuple[str, ...] = Field((), description="People's Speech: Parquet")
    voxpopuli: tuple[str, ...] = Field((), description="VoxPopuli: ogg in */en, or Parquet; English alone")
    stinystories: tuple[str, ...] = Field((), description="sTinyStories: Parquet with text and word times")
    at_most: dict[str, Annotated[int, Field(ge=1)]] = Field(
        {},
        description="{corpus: recordings}: train on this many of a published corpus, in the order of their ids, and "
        "fetch no more files than these take; a corpus that is not named is read whole",
    )
    validation_share: float = Field(
        0.01,
        ge=0,
        lt=1,
        description="share of recordings for validation, by a hash of the name; docs/paper.md 1.6: 1 % of Libri-Light",
    )
    max_bad_share: float = execution(
        0.01, ge=0, le=1, description="more unreadable files than this fail the stage; chosen, not tuned"
    )


class PreferencesSettings(Settings):
    """Where preference pairs come from and which are kept (docs/paper.md 1.6)."""

    source: Literal["stories", "swag", "spoken_swag"] = Field(
        "stories",
        description="stories: a story's true continuation against another story's; swag: SWAG's endings, spoken here; "
        "spoken_swag: the published audio of those",
    )
    path: Annotated[str, listing_field("preferences.path", ROW_SUFFIXES)] = Field(
        "", description="swag: Parquet, JSONL or hf:// path with SWAG's columns; spoken_swag: Parquet with its audio"
    )
    seed: int = Field(0, ge=0, description="with the pair's id, seeds the choice of the wrong ending and of the voice")
    voices: tuple[str, ...] = Field(
        ("default",), min_length=1, description="one is drawn per triple (docs/paper.md 1.6: four of Kokoro)"
    )
    max_auto_bleu: float = Field(
        0.3, gt=0, le=1, description="pairs whose text has auto-BLEU-2 not below this are dropped (docs/paper.md 1.6)"
    )
    max_pairs: int = Field(0, ge=0, description="keep this many training pairs, in the order of their ids; 0: all")
    heldout_pairs: int = Field(
        150, ge=0, description="pairs from evaluation documents, never trained on; chosen, not tuned"
    )
    prompt_sentences: int = Field(2, ge=1, description="stories: sentences in a prompt; chosen, not tuned")
    continuation_sentences: int = Field(1, ge=1, description="stories: sentences in a continuation; chosen, not tuned")
    windows_per_story: int = Field(
        0, ge=0, description="stories: use this many pairs of each story, the first ones; 0: all"
    )
    same_place: bool = Field(
        True,
        description="stories: the rejected continuation has the same relative place in its story, so that place tells "
        "nothing",
    )
    max_length_ratio: float = Field(
        1.25, ge=1, description="stories: largest ratio of the continuations' word counts, so that length tells nothing"
    )
    max_bad_share: float = execution(
        0.01, ge=0, le=1, description="more quarantined rows of swag or spoken_swag than this fail the stage; chosen"
    )
