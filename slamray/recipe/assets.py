"""The stages that make slamray/assets: an own HuBERT with its units, a unit decoder, a text LM for TWIST to start from.

    corpus --> recordings --> hubert_1 --> hubert_2 --> encoder --> decoder --> intelligibility
          +--> text_rows --> text_lm --> text_quality

Where the text LM reads text of its own, `text_lm_corpus` is read beside `corpus`. Only training text is trained on.
The same stages serve whoever brings another voice or language, and, with assets.make=decoder, another encoder.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from slamray.config.assets import check_batches
from slamray.config.base import ASSETS as ASSETS_PREFIX
from slamray.config.base import asset_path
from slamray.config.tree import Recipe
from slamray.evaluate.wer import check_recogniser
from slamray.recipe.check import check_compute
from slamray.speech.encoders.table import check_encoder
from slamray.speech.voices.table import check_phonemes
from slamray.stage.folder import Folder
from slamray.stage.stage import Stage
from slamray.stages import (
    corpus,
    decoder,
    hubert_training,
    intelligibility,
    own_encoder,
    spoken_audio,
    text_lm,
    text_quality,
    text_rows,
)
from slamray.stages.checkpoints import MODEL

INSTALLED = {own_encoder.NAME: "hubert-nano", decoder.NAME: "vocoder", "text_lm": "story-lm"}  # stage: asset


def build(recipe: Recipe) -> list[Stage]:
    """The last stages and, through their inputs, every other; three `model` folders among them are the assets."""
    check_recogniser()
    check_compute(recipe.compute)
    check_batches(recipe.assets, recipe.compute.workers)
    documents = corpus.stage(recipe)
    if recipe.assets.make == "text_lm":
        return [_text_lm(recipe, documents)]
    spoken = spoken_audio.stage(recipe, documents)
    if recipe.assets.make == "decoder":
        check_encoder(recipe.speech.encoder)
        return [_understood(recipe, documents, spoken, None)]
    need = "an encoder is measured on phones: choose another voice, or say assets.make=decoder"
    check_phonemes(recipe.speech.tts, need)
    hubert_1 = hubert_training.first_stage(recipe, spoken)
    hubert_2 = hubert_training.second_stage(recipe, spoken, hubert_1)
    encoder = own_encoder.stage(recipe, spoken, hubert_2)
    return [_understood(recipe, documents, spoken, encoder), _text_lm(recipe, documents)]


def _text_lm(recipe: Recipe, documents: Stage) -> Stage:
    text = corpus.text_lm_stage(recipe, documents)
    trained = text_lm.stage(recipe, text_rows.stage(recipe, documents, text))
    return text_quality.stage(recipe, text, trained)


def _understood(recipe: Recipe, documents: Stage, spoken: Stage, encoder: Stage | None) -> Stage:
    """What trains and measures a decoder; encoder: the stage of an own one."""
    trained = decoder.stage(recipe, spoken, encoder)
    return intelligibility.stage(recipe, documents, spoken, encoder, trained)


def install(root: Folder, targets: list[Stage]) -> None:
    """Copy the finished models over the assets of the package; cards stay as they are."""
    assets = Path(asset_path(ASSETS_PREFIX))
    made = {stage.name: stage for target in targets for stage in (target, *target.inputs)}
    for name in INSTALLED.keys() & made.keys():
        shutil.copytree(made[name].folder(root).fetch(MODEL), assets / INSTALLED[name], dirs_exist_ok=True)
