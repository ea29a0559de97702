"""Stages a recipe may ask for: published test sets, encoded once, any number of checkpoints scored on them; GenPPL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from slamray.config.tree import Recipe
from slamray.stage.stage import Stage
from slamray.stages import evaluation, genppl, published, tasks
from slamray.stages.outside import EncoderFacts, content_of, speech_identity


def published_stage(recipe: Recipe) -> Stage:
    """The sets of `evaluate.sets`; BadInput for whatever is wrong with one of them."""
    found = published.read_sets(recipe.evaluate.sets)
    notes = "; ".join(f"{one.name}: {one.facts['note']}" for one in found if one.facts["note"])
    return Stage(
        "published",
        published.identity(found, speech_identity(recipe.speech)),
        partial(published.run, found=found, spoken=recipe.speech, compute=recipe.compute),
        cost=lambda: f"encodes {sum(len(one.recordings) for one in found):,} recordings" + (notes and f"; {notes}"),
    )


def evaluation_stage(
    recipe: Recipe,
    models: Mapping[str, Path],
    known: Mapping[str, Any],
    metrics: Sequence[str],
    inputs: Sequence[Stage],
    encoder: EncoderFacts,
) -> Stage:
    """Checkpoints by metrics. models: folder of each checkpoint; known: its identity, None where a stage makes it."""
    config: dict[str, Any] = {
        "models": dict(known), "metrics": list(metrics),
        "normalise": recipe.evaluate.normalise, "interval": recipe.evaluate.interval,
    }  # fmt: skip
    if tasks.CONTINUE in metrics:
        config["sampling"] = recipe.evaluate.sampling.model_dump(mode="json")
        config["vocoder"] = content_of(recipe.evaluate.vocoder, None, "evaluate.vocoder")
        config["audio_samples"] = recipe.evaluate.audio_samples
    return Stage(
        "evaluation",
        config,
        partial(
            evaluation.run,
            models=models,
            metrics=metrics,
            config=recipe.evaluate,
            rate_hz=encoder.rate_hz,
            vocabulary=encoder.vocabulary,
            compute=recipe.compute,
        ),
        tuple(inputs),
        cost=lambda: f"{len(models)} checkpoints by {len(metrics)} metrics",
    )


def genppl_stage(recipe: Recipe, checkpoint: Stage, sources: Sequence[Stage], rate_hz: float) -> Stage:
    """GenPPL of one checkpoint; sources: the stages that hold items."""
    asked = recipe.evaluate.genppl
    return Stage(
        f"genppl_{checkpoint.name}",
        genppl.identity(recipe.evaluate),
        partial(
            genppl.run, checkpoint=checkpoint.name, config=recipe.evaluate, rate_hz=rate_hz, compute=recipe.compute
        ),
        (checkpoint, *sources),
        cost=lambda: f"{asked.prompts} continuations through {asked.asr} and {asked.judge}",
    )
