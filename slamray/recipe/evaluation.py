"""The stages of jobs/evaluate.py: any checkpoints by any metrics, in one process.

Its own words: `checkpoints=[folder, ...]` or `{name: folder}`, else those that the recipe's run has made;
`sets={name: folder}`, short for evaluate.sets; `metrics=[...]`, else the sets, and without sets the recipe's own.
A model of text and speech has metrics of its own; `questions` asks those of evaluate.questions, and `tasks` has it
write what it hears and say what it reads, evaluate.task_sentences.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from slamray.config.base import Located, home_path
from slamray.config.load import parse_value
from slamray.config.outside import model_content
from slamray.config.tree import Recipe
from slamray.data.published_sets import metrics_of_set
from slamray.errors import BadInput
from slamray.evaluate.metrics import (
    PUBLISHED_SETS,
    TEXTS,
    PairMetric,
    corpus_metrics,
    gains_of,
    genppl_metrics,
    metric_of,
    run_metrics,
)
from slamray.model.saved_vocabulary import read_unit_vocabulary
from slamray.recipe.slam import build as build_run
from slamray.stage.folder import Folder
from slamray.stage.stage import Stage, order
from slamray.stages import answers, evaluation, published, questions, tasks
from slamray.stages.checkpoints import CHECKPOINTS, MODEL, UNTRAINED, checkpoints_of
from slamray.stages.scoring import SCORES, STAGES
from slamray.stages.vocabulary import vocabulary_of
from slamray.tokens.vocabulary import Vocabulary, reconcile

QUESTIONS, TASKS = "questions", "tasks"
SAID = (QUESTIONS, TASKS)  # metrics of what a model says, each a stage of a checkpoint


def own_words(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The job's own words, and those of the recipe."""
    pairs = [word.partition("=")[::2] for word in words]
    asked = {key: value for key, value in pairs if key in ("checkpoints", "metrics")}
    rest = [word for word in words if word.partition("=")[0] not in asked]
    return asked, [f"evaluate.{word}" if word.startswith("sets=") else word for word in rest]


def build(recipe: Recipe, asked: Mapping[str, str]) -> list[Stage]:
    """The evaluation stage and, through its inputs, what it needs; BadInput for what can be known before any work."""
    vocabulary = vocabulary_of(recipe)
    sets = published.stages(recipe)
    wanted = _metrics(asked.get("metrics", ""), recipe)
    metrics = [metric for metric in wanted if metric not in SAID]
    needs = {need for metric in metrics for need in metric_of(metric).needs}
    folders = _folders(asked["checkpoints"]) if "checkpoints" in asked else {}
    given = {
        name: Located(_identity(name, folder, vocabulary, recipe).copy, folder) for name, folder in folders.items()
    }
    of_run = needs - {PUBLISHED_SETS} or any(metric in wanted for metric in SAID)
    run = {stage.name: stage for stage in order(build_run(recipe))} if of_run or not given else {}
    needed = [name for need in needs - {PUBLISHED_SETS} for name in _stages_of(need, run)]
    stages = [] if given else _made(recipe, run)
    checkpoints: dict[str, Located | None] = {**given, **{stage.name: None for stage in stages}}
    targets: list[Stage] = []
    if metrics:
        heard = sets if PUBLISHED_SETS in needs else ()
        inputs = [*stages, *heard, *(run[name] for name in sorted(set(needed)))]
        targets.append(evaluation.stage(recipe, checkpoints, metrics, inputs))
    made = [stage for stage in stages if stage.name != UNTRAINED.stage]
    if QUESTIONS in wanted:
        targets += answers.stages(recipe, made, [run[name] for name in questions.NAMES if name in run], given)
    if TASKS in wanted:
        targets += tasks.stages(recipe, run["corpus"], None, made, given)[1:]
    return targets


def _stages_of(need: str, run: Mapping[str, Stage]) -> list[str]:
    """The stages of the run that made what a metric is measured on; of texts the last one that there is."""
    there = [name for name in STAGES[need] if name in run]
    return there[-1:] if need == TEXTS else there


def _made(recipe: Recipe, run: Mapping[str, Stage]) -> list[Stage]:
    """The checkpoints that the recipe's run has made; BadInput where there is none."""
    root = Folder(recipe.root)
    found = [stage for stage in checkpoints_of(list(run.values())) if stage.is_done(root)]
    if not found:
        names = " ".join(checkpoint.stage for checkpoint in CHECKPOINTS)
        raise BadInput(
            f"checkpoints: {root} holds none of {names} for this recipe; run jobs/slam.py with the same "
            "words first, or give checkpoints=[folder, ...]"
        )
    return found


def show(root: Folder, targets: Sequence[Stage]) -> None:
    """Print the table, what is not as published, and where the figures lie."""
    by_kind = {kind: [one for one in targets if one.name.startswith(f"{kind}_")] for kind in ("answers", "tasks")}
    for stage in targets:
        if stage.name == evaluation.NAME:
            _show_scores(stage, root)
    found = {_whose(one): answers.rows(one.manifest(root)["facts"]["shares"]) for one in by_kind["answers"]}
    rates = [
        {"name": f"{task.upper()}, {_whose(one)}", **rate}
        for one in by_kind["tasks"]
        for task, rate in one.manifest(root)["facts"]["rates"].items()
    ]
    for line in (*answers.lines(found), *tasks.lines(rates)):
        print(line)
    for stage in (*by_kind["answers"], *by_kind["tasks"]):
        print(f"{_whose(stage)}: each answer: {stage.folder(root)}")


def _whose(stage: Stage) -> str:
    """The name of the checkpoint that a stage asked."""
    return stage.name.partition("_")[2]


def _show_scores(stage: Stage, root: Folder) -> None:
    folder = stage.folder(root)
    facts = stage.manifest(root)["facts"]
    print("\n".join(facts["table"]))
    for upstream in stage.inputs:
        for name, one in upstream.manifest(root)["facts"].get("sets", {}).items():
            if one["note"]:
                print(f"{name}: {one['note']}")
    first = next(iter(facts["checkpoints"].values()))
    for metric, lost in first["pairs_without_sound"].items():
        if lost:
            print(f"{metric}: {lost} pairs left out, for a recording of theirs could not be read; see quarantine/")
    print(f"each pair: {folder / SCORES}; figures: {folder / evaluation.SUMMARY}")


def measured(recipe: Recipe) -> list[str]:
    """The metrics that a run of the recipe measures of its trained checkpoints, published sets last."""
    items, made = recipe.evaluate.items, corpus_metrics()
    of_run = []
    for name in run_metrics(bool(recipe.joint.kinds)):
        row = metric_of(name)
        source = (isinstance(row, PairMetric) and row.pairs_of) or name
        if source not in made or items.pairs(source):
            of_run.append(name)
    heard = genppl_metrics() if recipe.evaluate.genppl.prompts else []
    gains = gains_of(of_run) if recipe.evaluate.scored == "continuation" else []
    return [*of_run, *gains, *heard, *_set_metrics(recipe)]


def _set_metrics(recipe: Recipe) -> list[str]:
    return [metric for name in sorted(recipe.evaluate.sets) for metric in metrics_of_set(name)]


def _metrics(word: str, recipe: Recipe) -> list[str]:
    own, asks = run_metrics(bool(recipe.joint.kinds)), recipe.evaluate.questions
    of_sets = _set_metrics(recipe)
    said: list[str] = []
    if asks.sets or asks.stories:
        said.append(QUESTIONS)
    if recipe.evaluate.task_sentences:
        said.append(TASKS)
    known = [*of_sets, *own, *said]
    if not word:
        return [*of_sets, *([QUESTIONS] if asks.sets else [])] if of_sets else [*own, *said]
    asked = parse_value("metrics", word)
    if not isinstance(asked, list) or not asked:
        raise BadInput(f"metrics={word}: not a list such as [perplexity, grammar]")
    asked = [metric for name in asked for metric in (metrics_of_set(name) if name in recipe.evaluate.sets else [name])]
    if odd := [str(metric) for metric in asked if metric not in known]:
        raise BadInput(f"metrics={word}: no such metric {' '.join(odd)}; there are {' '.join(known)}")
    return [metric for metric in known if metric in asked]


def _folders(word: str) -> dict[str, Path]:
    """Checkpoint folders by name; those of a list are called after the last part of their path that is no `model`."""
    asked = parse_value("checkpoints", word)
    if isinstance(asked, list) and all(isinstance(folder, str) for folder in asked):
        parts = [[part for part in Path(home_path(folder)).resolve().parts if part != MODEL][-2:] for folder in asked]
        short = [words[-1] for words in parts]
        clear = len(set(short)) == len(short) and not any(re.fullmatch("[0-9a-f]{16}", name) for name in short)
        named = list(zip(short if clear else ["-".join(words) for words in parts], asked, strict=True))
    elif isinstance(asked, dict):
        named = [(str(name), str(folder)) for name, folder in asked.items()]
    else:
        raise BadInput(f"checkpoints={word}: neither [folder, ...] nor {{name: folder}}")
    if not named or len({name for name, _ in named}) < len(named):
        raise BadInput(f"checkpoints={word}: give each checkpoint, and a name of its own: {{a: folder, b: folder}}")
    for name, _ in named:
        if not re.fullmatch(r"[\w.-]+", name):
            raise BadInput(f"checkpoints={word}: {name!r} is no name; use letters, digits, hyphens and points")
    return {name: Path(home_path(folder)).resolve() for name, folder in named}


def _identity(name: str, folder: Path, vocabulary: Vocabulary, recipe: Recipe) -> dict[str, str]:
    """Who a checkpoint is, by content; BadInput when it is none, or of another vocabulary than the recipe's."""
    known = read_unit_vocabulary(folder, f"checkpoints: {name}", wanted=vocabulary)
    if known.is_joint and not vocabulary.is_joint:
        raise BadInput(
            f"checkpoints: {name}: {folder} is a model of text and speech; give the words of the recipe that made it, "
            "such as recipe=sims, so that model.base names its text"
        )
    whose = f"model.base={recipe.model.base} with speech.encoder" if vocabulary.is_joint else "speech.encoder"
    reconcile(known, vocabulary, f"checkpoints: {name}: {folder}", whose)
    return model_content(str(folder), None, "checkpoints")
