"""Models that are published as files at an address and on no hub: where, and their checksums (docs/paper.md 1.2).

They are pickles. speech/fetch.py fetches them, compares the checksum, and converts them without executing anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from slamray.config.base import PUBLISHED
from slamray.errors import BadInput

_TWIST = "https://dl.fbaipublicfiles.com/textless_nlp/twist/speech_tokenizer"


@dataclass(frozen=True)
class PublishedFile:
    """An address and the SHA-256 of what is there."""

    address: str
    sha256: str

    @property
    def name(self) -> str:
        return self.address.rpartition("/")[2]


@dataclass(frozen=True)
class PublishedModel:
    """The files of a model. centroids: one file; decoder: weights, then config.json. n_units, layer: of centroids."""

    kind: Literal["centroids", "decoder"]
    files: tuple[PublishedFile, ...]
    n_units: int = 500
    layer: int = 0


# By the name under which the converted model is kept. Checksums: textless-lib's list of checkpoints; docs/paper.md 1.2.
PUBLISHED_MODELS = {
    "mhubert-base-25hz-L11-km500.safetensors": PublishedModel(
        "centroids",
        (
            PublishedFile(
                f"{_TWIST}/mhubert_base_25hz_cp_mls_cv_sp_fisher_L11_km500.bin",
                "03cc04a9c24fec4285e73e709c485756d8f116aa8e724eac555de6a7cf8d28ad",
            ),
        ),
        layer=11,
    ),
    "hubert-base-ls960-L9-km500.safetensors": PublishedModel(
        "centroids",
        (
            PublishedFile(
                "https://dl.fbaipublicfiles.com/hubert/hubert_base_ls960_L9_km500.bin",
                "4450dcbc90aa7d0553306a4b0fafef35c9b3c840468f02969273dfbb9db89a23",
            ),
        ),
        layer=9,
    ),
    "hifigan-lj-mhubert-base-25hz": PublishedModel(
        "decoder",
        (
            PublishedFile(
                f"{_TWIST}/hifigan_lj_mhubert_base_25hz.pt",
                "d88224e95c501e2cd59a6e4014753169cfe060fb7ade3cc0da03c809fef73b79",
            ),
            PublishedFile(
                f"{_TWIST}/hifigan_lj_mhubert_base_25hz_config.json",
                "116dc39be4970cd393e562acd0a0ec70a86aaba7e9ca469b8b836cb3fe46afc7",
            ),
        ),
    ),
}


def published_files(path: str, key: str) -> PublishedModel:
    """What `published:NAME` stands for; BadInput, which names the recipe's key, for a name that is not known."""
    name = path.removeprefix(PUBLISHED)
    if name not in PUBLISHED_MODELS:
        raise BadInput(f"{key}={path}: no such published model; there are {' '.join(PUBLISHED_MODELS)}")
    return PUBLISHED_MODELS[name]
