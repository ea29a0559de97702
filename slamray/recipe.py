"""The page to read first: the stages of Slam in order, built from a Recipe.

    corpus --> units ------v
          |    recorded --> packed ---------v                  (recordings, where a recipe names some)
          |                untrained --> pretrained --> aligned
          +--> preferences -----------------------------^
          +--> items --> scores of untrained, pretrained, aligned --> report

Each stage's config is its identity: what changes its result, and nothing else. What comes from outside (models,
centroids, corpora) enters by content, never by path.
"""

from __future__ import annotations

import math
from functools import partial

from slamray.config import Recipe, identity
from slamray.errors import BadInput
from slamray.runtime.engine import Engine
from slamray.stage import Stage
from slamray.stages import corpus, items, packed, preferences, recorded, report, scores, training, units
from slamray.stages.outside import check_encoder, content_of, model_identity, speech_identity
from slamray.train.budget import accumulation_steps, parse_budget


def build(recipe: Recipe, engine: Engine) -> list[Stage]:
    """The report stage and, through its inputs, every other; raises BadInput for what can be known before any work."""
    check(recipe)
    encoder = check_encoder(recipe.speech.encoder)
    speech = recipe.speech
    voice = speech_identity(speech)

    documents = Stage(
        "corpus",
        identity(recipe.corpus) | {"paths": corpus.sources(recipe.corpus)},
        partial(corpus.run, config=recipe.corpus),
    )
    spoken = Stage(
        "units",
        voice | {"train_documents": speech.train_documents, "validation_documents": speech.validation_documents},
        partial(units.run, config=speech, engine=engine),
        (documents,),
        cost=lambda: f"speaks and encodes {speech.train_documents or 'all'} training documents",
    )
    heard = []
    if recipe.recorded.paths:
        heard.append(
            Stage(
                "recorded",
                voice | {"paths": recorded.sources(recipe.recorded)},
                partial(recorded.run, config=recipe.recorded, spoken=speech, engine=engine),
            )
        )
    rows = Stage(
        "packed",
        identity(recipe.pack) | {"recorded_validation_share": recipe.recorded.validation_share},
        partial(packed.run, config=recipe.pack, recorded_validation_share=recipe.recorded.validation_share),
        (spoken, documents, *heard),
    )
    untrained = Stage(
        "untrained",
        model_identity(recipe.model) | {"n_units": encoder.n_units, "seed": recipe.pretrain.seed},
        partial(
            training.untrained, config=recipe.model, n_units=encoder.n_units, seed=recipe.pretrain.seed, engine=engine
        ),
        cost=lambda: f"{training.parameters(recipe.model, encoder.n_units):,} parameters",
    )
    pretrained = Stage(
        "pretrained",
        identity(recipe.pretrain),
        partial(training.pretrain, config=recipe.pretrain, engine=engine),
        (untrained, rows),
        cost=lambda: spending(
            recipe.pretrain.budget, recipe.pretrain.tokens_per_step, training.parameters(recipe.model, encoder.n_units)
        ),
    )
    pairs = Stage(
        "preferences",
        {"pairs": identity(recipe.preferences), "speech": voice},
        partial(preferences.run, config=recipe.preferences, shares=recipe.corpus, spoken=speech, engine=engine),
        (documents,),
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
        {"items": identity(recipe.evaluate.items), "speech": voice},
        partial(items.run, config=recipe.evaluate.items, spoken=speech, engine=engine),
        (documents,),
    )
    measures = identity(recipe.evaluate) | {
        "items": None,  # they are a stage of their own
        "vocoder": content_of(recipe.evaluate.vocoder, None, "evaluate.vocoder"),
        "context": recipe.pack.context,
    }
    scored = [
        Stage(
            f"scores_{checkpoint.name}",
            measures,
            partial(
                scores.run, checkpoint=checkpoint.name, config=recipe.evaluate, rate_hz=encoder.rate_hz, engine=engine
            ),
            (checkpoint, tests, rows, spoken, documents),
        )
        for checkpoint in (untrained, pretrained, aligned)
    ]
    made = (documents, spoken, *heard, rows, untrained, pretrained, pairs, aligned, tests, *scored)
    return [Stage("report", {"name": recipe.name}, partial(report.run, recipe=recipe, stages=made), made)]


def check(recipe: Recipe) -> None:
    """BadInput for what is known to be wrong before any stage runs."""
    c = recipe.compute
    if recipe.preferences.voices != ("default",):
        raise BadInput(f"preferences.voices: {recipe.speech.tts.backend} has one voice; leave it at [default]")
    accumulation_steps(
        recipe.pretrain.tokens_per_step, c.micro_batch, recipe.pack.context, c.workers,
        "pretrain.tokens_per_step, compute.micro_batch, pack.context, compute.workers",
    )  # fmt: skip
    pairs = c.dpo_micro_batch * c.workers
    if recipe.dpo.pairs_per_step % pairs:
        raise BadInput(
            f"dpo.pairs_per_step={recipe.dpo.pairs_per_step} is no multiple of compute.dpo_micro_batch "
            f"{c.dpo_micro_batch} x compute.workers {c.workers} = {pairs}"
        )


def spending(budget: str, tokens_per_step: int, parameters: int) -> str:
    """What a budget comes to, as far as it can be known before the machine's speed is: FLOPs are 6 N tokens."""
    parsed = parse_budget(budget, "budget")
    per_step = 6 * parameters * tokens_per_step
    if parsed.kind == "time":
        return f"{budget} of optimiser time; {tokens_per_step:,} tokens and {per_step:.2e} FLOPs a step"
    steps = math.ceil(
        {"steps": parsed.amount, "tokens": parsed.amount / tokens_per_step, "flops": parsed.amount / per_step}[
            parsed.kind
        ]
    )
    return f"{steps:,} steps, {steps * tokens_per_step:,} tokens, {steps * per_step:.2e} FLOPs"
