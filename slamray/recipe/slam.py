"""The page to read first: the stages of a run in order, a line each.

    corpus --> units ------v
          |    recorded --> packed ---------v                  (recordings, where a recipe names some)
          |                untrained --> pretrained --> aligned      (by way of a trunk, if runs share one)
          +--> preferences -----------------------------^
          +--> items --> scores of untrained, pretrained, aligned --> report
               published --> evaluation of the same ---------------------^   (test sets, where a recipe names some)

Each name below is a file of slamray/stages/. Its `stage` says what the stage is given, all of which is its identity;
its `run` is the work.
"""

from __future__ import annotations

from slamray.config.tree import Recipe
from slamray.recipe.check import check
from slamray.stage.stage import Stage
from slamray.stages import (
    aligned,
    corpus,
    evaluation,
    genppl,
    items,
    packed,
    preferences,
    pretrained,
    published,
    recorded,
    report,
    scores,
    trunk,
    units,
    untrained,
)


def build(recipe: Recipe) -> list[Stage]:
    """The report stage and, through its inputs, every other; raises BadInput for what can be known before any work."""
    check(recipe)
    documents = corpus.stage(recipe)
    spoken = units.stage(recipe, documents)
    recordings = recorded.stages(recipe)
    rows = packed.stage(recipe, spoken, recordings)

    base = untrained.stage(recipe)
    stable = trunk.stages(recipe, base, rows)
    model = pretrained.stage(recipe, base, rows, stable)
    trained, checkpoints = [*stable, model], [base, model]
    if recipe.dpo.budget is not None:
        pairs = preferences.stage(recipe, documents)
        better = aligned.stage(recipe, model, pairs)
        trained, checkpoints = [*trained, pairs, better], [*checkpoints, better]

    tests = items.stage(recipe, documents)
    scored = [scores.stage(recipe, checkpoint, tests, rows, spoken) for checkpoint in checkpoints]
    sets = published.stages(recipe)
    judged = evaluation.stages(recipe, checkpoints, sets)
    heard = genppl.stages(recipe, checkpoints[1:], [tests, *sets])

    made = [documents, spoken, *recordings, rows, base, *trained, tests, *scored, *sets, *judged, *heard]
    return [report.stage(recipe, made)]
