"""The page to read first: the stages of Slam in order, built from a Recipe.

    corpus --> units ------v
          |    recorded --> packed ---------v                  (recordings, where a recipe names some)
          |                untrained --> pretrained --> aligned      (by way of a trunk, if runs share one)
          +--> preferences -----------------------------^
          +--> items --> scores of untrained, pretrained, aligned --> report
               published --> evaluation of the same ---------------------^   (test sets, where a recipe names some)

Without DPO (dpo.budget=null) there are no preferences, no aligned and no scores of it.
The stages that speak share their actors, and so do those that score (see Stage.actors).
Each stage's config is its identity: what changes its result, and nothing else. What comes from outside (models,
centroids, corpora) enters by content, never by path.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from slamray.config.base import identity
from slamray.config.tree import Recipe
from slamray.errors import BadInput
from slamray.recipe import planning
from slamray.recipe.sets import evaluation_stage, genppl_stage, published_stage
from slamray.runtime.engine import Engine
from slamray.stage.stage import Stage
from slamray.stages import corpus, items, packed, preferences, recorded, report, scores, training, units
from slamray.stages.outside import check_encoder, check_voices, content_of, model_identity, speech_identity
from slamray.train.budget import accumulation_steps
from slamray.train.trunk import check_trunk, trunk_config

SPEAKING = "speaking"


def build(recipe: Recipe, engine: Engine) -> list[Stage]:
    """The report stage and, through its inputs, every other; raises BadInput for what can be known before any work."""
    check(recipe)
    encoder = check_encoder(recipe.speech.encoder)
    planning.check_fits(recipe, encoder.n_units)
    speech = recipe.speech
    voice = speech_identity(speech)

    aligns = recipe.dpo.budget is not None
    documents = Stage(
        "corpus",
        identity(recipe.corpus) | {"paths": corpus.sources(recipe.corpus)},
        partial(corpus.run, config=recipe.corpus),
    )
    spoken = Stage(
        "units",
        voice | {"train_documents": speech.train_documents, "validation_documents": speech.validation_documents},
        partial(units.run, config=speech, compute=recipe.compute),
        (documents,),
        actors=SPEAKING,
        cost=lambda: f"speaks and encodes {_count(speech.train_documents)} training documents",
    )
    heard = []
    if recipe.recorded.paths:
        heard.append(
            Stage(
                "recorded",
                voice | {"paths": recorded.sources(recipe.recorded)},
                partial(recorded.run, config=recipe.recorded, spoken=speech, compute=recipe.compute),
            )
        )
    heard += [
        Stage(
            name,
            {"encoder": voice["encoder"], "shard_documents": voice["shard_documents"],
             "corpus": recorded.door_sources(recipe.recorded, name)},
            partial(recorded.run_door, name=name, config=recipe.recorded, spoken=speech, compute=recipe.compute),
        )
        for name in recorded.given_doors(recipe.recorded)
    ]  # fmt: skip
    rows = Stage(
        "packed",
        identity(recipe.pack) | {"recorded_validation_share": recipe.recorded.validation_share},
        partial(
            packed.run,
            config=recipe.pack,
            recorded_validation_share=recipe.recorded.validation_share,
            vocabulary=encoder.vocabulary,
        ),
        (spoken, documents, *heard),
    )
    untrained = Stage(
        "untrained",
        model_identity(recipe.model) | {"n_units": encoder.n_units, "seed": recipe.pretrain.seed},
        partial(
            training.untrained, config=recipe.model, n_units=encoder.n_units, seed=recipe.pretrain.seed, engine=engine
        ),
        cost=lambda: f"{planning.parameters(recipe.model, encoder.n_units):,} parameters",
    )
    shared = []
    if recipe.pretrain.trunk:
        stable, until = trunk_config(recipe.pretrain)
        shared.append(
            Stage(
                "trunk",
                identity(stable) | {"until": until},
                partial(training.trunk, config=stable, until=until, engine=engine),
                (untrained, rows),
                cost=lambda: f"{until}, shared by all runs whose trunk is {recipe.pretrain.trunk}",
            )
        )
    pretrained = Stage(
        "pretrained",
        identity(recipe.pretrain),
        partial(training.pretrain, config=recipe.pretrain, engine=engine),
        (untrained, rows, *shared),
        cost=lambda: planning.pretraining_cost(recipe, encoder.n_units),
    )
    pairs = Stage(
        "preferences",
        {"pairs": preferences.pairs_identity(recipe.preferences), "speech": voice},
        partial(
            preferences.run,
            config=recipe.preferences,
            shares=recipe.corpus,
            spoken=speech,
            vocabulary=encoder.vocabulary,
            compute=recipe.compute,
        ),
        (documents,),
        actors=SPEAKING,
        cost=lambda: f"speaks and encodes {recipe.preferences.max_pairs or 'all'} pairs",
    )
    aligned = Stage(
        "aligned",
        identity(recipe.dpo),
        partial(training.dpo, config=recipe.dpo, engine=engine),
        (pretrained, pairs),
        cost=lambda: f"{recipe.dpo.budget}, {recipe.dpo.pairs_per_step} pairs a step",
    )
    tests = Stage(
        "items",
        {"items": identity(recipe.evaluate.items), "speech": voice, "heard_documents": speech.train_documents},
        partial(items.run, config=recipe.evaluate.items, spoken=speech, compute=recipe.compute),
        (documents,),
        actors=SPEAKING,
    )
    measures = identity(recipe.evaluate) | {
        "items": None,  # they are a stage of their own, and so are the published sets
        "vocoder": content_of(recipe.evaluate.vocoder, None, "evaluate.vocoder"),
        "context": recipe.pack.context,
    }
    del measures["sets"], measures["genppl"]
    scored = [
        Stage(
            f"scores_{checkpoint.name}",
            measures,
            partial(
                scores.run,
                checkpoint=checkpoint.name,
                config=recipe.evaluate,
                rate_hz=encoder.rate_hz,
                vocabulary=encoder.vocabulary,
                compute=recipe.compute,
            ),
            (checkpoint, tests, rows, spoken, documents),
            actors="scoring",
        )
        for checkpoint in (untrained, pretrained, *([aligned] if aligns else []))
    ]
    preferring = (pairs, aligned) if aligns else ()
    made = (documents, spoken, *heard, rows, untrained, *shared, pretrained, *preferring, tests, *scored)
    sets = None
    if recipe.evaluate.sets:
        checkpoints = [untrained, pretrained, *([aligned] if aligns else [])]
        models = {stage.name: stage.folder(Path(recipe.root)) / training.MODEL for stage in checkpoints}
        sets = published_stage(recipe)
        known, metrics = dict.fromkeys(models), sorted(recipe.evaluate.sets)
        made += (
            sets,
            evaluation_stage(recipe, models, known, metrics, (*checkpoints, sets), encoder),
        )
    if recipe.evaluate.genppl.prompts:
        speaking, heard_items = (pretrained, *([aligned] if aligns else [])), (tests, *([sets] if sets else []))
        made += tuple(genppl_stage(recipe, stage, heard_items, encoder.rate_hz) for stage in speaking)
    return [Stage("report", {"name": recipe.name}, partial(report.run, recipe=recipe, stages=made), made, version=2)]


def check(recipe: Recipe) -> None:
    """BadInput for what is known to be wrong before any stage runs."""
    c = recipe.compute
    check_voices(recipe.speech.tts, recipe.preferences.voices)
    packed.check_mixture(recipe.pack.mixture, units.source_names(recipe.recorded))
    accumulation_steps(
        recipe.pretrain.tokens_per_step, c.micro_batch, recipe.pack.context, c.workers,
        "pretrain.tokens_per_step, compute.micro_batch, pack.context, compute.workers",
    )  # fmt: skip
    check_trunk(recipe.pretrain)
    optimiser = recipe.pretrain.optim.name
    if optimiser != "adamw" and c.zero_stage > 0:
        raise BadInput(
            f"pretrain.optim.name={optimiser}: shards under ZeRO are AdamW's; say compute.zero_stage=0, or adamw"
        )
    if recipe.dpo.optim.name != "adamw":
        raise BadInput(f"dpo.optim.name={recipe.dpo.optim.name}: DPO trains with adamw (Table 5)")
    if recipe.speech.train_documents is None and units.source_names(recipe.recorded) == [units.STORIES]:
        raise BadInput(
            "speech.train_documents=null: then recordings are all there is to train on, and none are named; "
            "give recorded.librispeech=[...] or other recordings"
        )
    pairs = c.dpo_micro_batch * c.workers
    if recipe.dpo.budget is not None and recipe.dpo.pairs_per_step % pairs:
        raise BadInput(
            f"dpo.pairs_per_step={recipe.dpo.pairs_per_step} is no multiple of compute.dpo_micro_batch "
            f"{c.dpo_micro_batch} x compute.workers {c.workers} = {pairs}"
        )


def _count(documents: int | None) -> str:
    return "no" if documents is None else str(documents or "all")
