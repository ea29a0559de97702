"""The page to read first: the stages of a run in order, a line each.

    corpus --> units ------v
          |    recorded --> packed ---------v                  (recordings, where a recipe names some)
          |                untrained --> pretrained --> aligned      (by way of a trunk, if runs share one)
          +--> preferences -----------------------------^
          +--> items --> scores of untrained, pretrained, aligned --> report
               published --> evaluation of the same ---------------------^   (test sets, where a recipe names some)
               questions --> answers of pretrained, aligned -------------^   (where a recipe asks some)

    A model of text and speech (joint.kinds) has one stage more: corpus, units, recorded --> documents --> packed.

Each name below is a file of slamray/stages/. Its `stage` says what the stage is given, all of which is its identity;
its `run` is the work.
"""

from __future__ import annotations

from collections.abc import Sequence

from slamray.config.tree import Recipe
from slamray.recipe.check import check
from slamray.stage.stage import Stage
from slamray.stages import (
    aligned,
    answers,
    corpus,
    evaluation,
    genppl,
    items,
    joint_documents,
    joint_rows,
    packed,
    preferences,
    pretrained,
    published,
    questions,
    recorded,
    report,
    scores,
    spoken_text,
    tasks,
    text_to_token,
    trunk,
    units,
    untrained,
)
from slamray.stages.vocabulary import vocabulary_of


def build(recipe: Recipe) -> list[Stage]:
    """The report stage and, through its inputs, every other; raises BadInput for what can be known before any work."""
    check(recipe)
    documents = corpus.stage(recipe)
    spoken = units.stage(recipe, documents)
    recordings = recorded.stages(recipe)
    texts = corpus.text_stage(recipe, documents)
    rows, *before = _rows(recipe, texts, spoken, recordings)

    base = untrained.stage(recipe)
    stable = trunk.stages(recipe, base, rows)
    model = pretrained.stage(recipe, base, rows, stable)
    trained, checkpoints = [*stable, model], [base, model]
    if recipe.dpo.budget is not None:
        pairs = preferences.stage(recipe, documents)
        better = aligned.stage(recipe, model, pairs)
        trained, checkpoints = [*trained, pairs, better], [*checkpoints, better]

    tests = items.stage(recipe, documents)
    scored = [scores.stage(recipe, checkpoint, tests, rows, spoken, texts) for checkpoint in checkpoints]
    sets = published.stages(recipe)
    judged = evaluation.stages(recipe, checkpoints, sets)
    heard = genppl.stages(recipe, checkpoints[1:], [tests, *sets])
    asked = questions.stages(recipe, documents)
    answered = answers.stages(recipe, checkpoints[1:], asked)
    speaker = next((stage for stage in before if stage.name == text_to_token.NAME), None)
    compared = tasks.stages(recipe, documents, speaker, checkpoints[1:])

    made = [documents, spoken, *recordings, *before, rows, base, *trained, tests, *scored, *sets, *judged, *heard]
    made += [*asked, *answered, *compared]
    return [report.stage(recipe, made)]


def _rows(recipe: Recipe, texts: Stage, spoken: Stage, recordings: Sequence[Stage]) -> list[Stage]:
    """The packed rows, then the stages before them: none where units are all there is."""
    vocabulary = vocabulary_of(recipe)
    if not vocabulary.is_joint:
        return [packed.stage(recipe, spoken, recordings)]
    kinds = joint_documents.stage(recipe, texts, [spoken, *recordings], vocabulary)
    if not recipe.joint.makes("synthetic"):
        return [joint_rows.stage(recipe, kinds, [], vocabulary), kinds]
    speaker = text_to_token.stage(recipe, kinds, vocabulary)
    synthetic = spoken_text.stage(recipe, texts, speaker, vocabulary)
    return [joint_rows.stage(recipe, kinds, [synthetic], vocabulary), kinds, speaker, synthetic]
