"""The stages that make slamray/assets: an own HuBERT with its units, a unit decoder, a text LM for TWIST to start from.

    corpus --> recordings --> hubert_1 --> hubert_2 --> encoder --> vocoder --> intelligibility
          +--> text_rows --> text_lm

The same stages serve whoever brings another voice or language. Only training text is trained on.
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from slamray.config import ASSETS as ASSETS_PREFIX
from slamray.config import Recipe, asset_path, identity
from slamray.evaluate.wer import check_recogniser
from slamray.runtime.engine import Engine
from slamray.stage import Stage
from slamray.stages import corpus, encoder, intelligibility, recordings, text_lm, vocoder
from slamray.stages.outside import tts_identity

MADE_BY = {"hubert-nano": "encoder", "vocoder": "vocoder", "story-lm": "text_lm"}


def build(recipe: Recipe, engine: Engine) -> list[Stage]:
    """The last stages and, through their inputs, every other; three `model` folders among them are the assets."""
    check_recogniser()
    config = recipe.assets
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
    decoder = Stage(
        "vocoder",
        identity(config.unit_vocoder if config.decoder == "hifigan" else config.vocoder)
        | {"layer": config.encoder.layer},
        partial(vocoder.run, config=config, engine=engine),
        (spoken, units),
    )
    understood = Stage(
        "intelligibility",
        {"layer": config.encoder.layer, "documents": config.intelligibility_documents},
        partial(intelligibility.run, config=config, engine=engine),
        (documents, spoken, units, decoder),
    )
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


def install(root: Path, targets: list[Stage]) -> None:
    """Copy the finished models over the assets of the package; cards stay as they are."""
    assets = Path(asset_path(ASSETS_PREFIX))
    made = {stage.name: stage for target in targets for stage in (target, *target.inputs)}
    for name, stage in MADE_BY.items():
        shutil.copytree(made[stage].folder(root) / "model", assets / name, dirs_exist_ok=True)
