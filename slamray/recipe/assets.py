"""The stages that make slamray/assets: an own HuBERT with its units, a unit decoder, a text LM for TWIST to start from.

    corpus --> recordings --> hubert_1 --> hubert_2 --> encoder --> vocoder --> intelligibility
          +--> text_rows --> text_lm

The same stages serve whoever brings another voice or language, and, with assets.decoder_only, another encoder.
Only training text is trained on.
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

from slamray.config.assets import check_batches
from slamray.config.base import ASSETS as ASSETS_PREFIX
from slamray.config.base import asset_path, identity
from slamray.config.tree import Recipe
from slamray.evaluate.wer import check_recogniser
from slamray.runtime.engine import Engine
from slamray.stage.stage import Stage
from slamray.stages import corpus, encoder, intelligibility, recordings, text_lm, vocoder
from slamray.stages.outside import check_encoder, encoder_identity, tts_identity

MADE_BY = {"encoder": "hubert-nano", "vocoder": "vocoder", "text_lm": "story-lm"}


def build(recipe: Recipe, engine: Engine) -> list[Stage]:
    """The last stages and, through their inputs, every other; three `model` folders among them are the assets."""
    check_recogniser()
    config = recipe.assets
    check_batches(config, recipe.compute.workers)
    documents = Stage(
        "corpus",
        identity(recipe.corpus) | {"paths": corpus.sources(recipe.corpus)},
        partial(corpus.run, config=recipe.corpus),
    )
    spoken = Stage(
        "recordings",
        {"tts": tts_identity(recipe.speech.tts), "train": config.encoder.train_documents,
         "evaluation": config.encoder.evaluation_documents},
        partial(recordings.run, config=config.encoder, tts=recipe.speech.tts, compute=recipe.compute),
        (documents,),
    )  # fmt: skip
    if config.decoder_only:
        check_encoder(recipe.speech.encoder)
        heard = {"encoder": encoder_identity(recipe.speech.encoder)}
        return [_decoder(recipe, engine, documents, spoken, (), heard)]
    hubert = identity(config.encoder)
    first = Stage(
        "hubert_1",
        {key: hubert[key] for key in ("seed", "mfcc_clusters", "first")},
        partial(encoder.first, config=config.encoder, engine=engine),
        (spoken,),
    )
    second = Stage(
        "hubert_2",
        {key: hubert[key] for key in ("seed", "feature_layer", "feature_clusters", "second")},
        partial(encoder.second, config=config.encoder, engine=engine),
        (spoken, first),
    )
    units = Stage(
        "encoder",
        {key: hubert[key] for key in ("seed", "layer", "n_units", "kmeans_frames")},
        partial(encoder.fit, config=config.encoder, engine=engine),
        (spoken, second),
    )
    understood = _decoder(recipe, engine, documents, spoken, (units,), {"layer": config.encoder.layer})
    rows = Stage(
        "text_rows",
        identity(config.text_lm) | {"pretrain": {"seed": config.text_lm.pretrain.seed}},
        partial(text_lm.rows, config=config.text_lm, engine=engine),
        (documents,),
    )
    text = Stage(
        "text_lm",
        identity(config.text_lm.pretrain),
        partial(text_lm.train, config=config.text_lm, engine=engine),
        (rows,),
    )
    return [understood, text]


def _decoder(
    recipe: Recipe, engine: Engine, documents: Stage, spoken: Stage, trained: tuple[Stage, ...], heard: dict[str, Any]
) -> Stage:
    """What trains and measures a decoder for an encoder; trained: the stage of it, empty where speech.encoder is it."""
    config = recipe.assets
    decoder = Stage(
        "vocoder",
        identity(config.unit_vocoder if config.decoder == "hifigan" else config.vocoder) | heard,
        partial(vocoder.run, config=config, given=recipe.speech.encoder, engine=engine),
        (spoken, *trained),
    )
    return Stage(
        "intelligibility",
        {**heard, "documents": config.intelligibility_documents},
        partial(intelligibility.run, config=config, given=recipe.speech.encoder, engine=engine),
        (documents, spoken, *trained, decoder),
    )


def install(root: Path, targets: list[Stage]) -> None:
    """Copy the finished models over the assets of the package; cards stay as they are."""
    assets = Path(asset_path(ASSETS_PREFIX))
    made = {stage.name: stage for target in targets for stage in (target, *target.inputs)}
    for name in MADE_BY.keys() & made.keys():
        shutil.copytree(made[name].folder(root) / "model", assets / MADE_BY[name], dirs_exist_ok=True)
