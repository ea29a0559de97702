"""The stages of jobs/evaluate.py: any checkpoints by any metrics, in one process.

Its own words: `checkpoints=[folder, ...]` or `{name: folder}`, else those that the recipe's run has made;
`sets={name: folder}`, short for evaluate.sets; `metrics=[...]`, else the sets, and without sets the recipe's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from slamray.config.base import Located, home_path
from slamray.config.load import parse_value
from slamray.config.outside import model_content
from slamray.config.tree import Recipe
from slamray.errors import BadInput
from slamray.evaluate.metrics import PUBLISHED_SETS, corpus_metrics, genppl_metrics, metric_of, run_metrics
from slamray.model.saved_vocabulary import read_unit_vocabulary
from slamray.recipe.slam import build as build_run
from slamray.speech.encoders.table import check_encoder
from slamray.stage.folder import Folder
from slamray.stage.stage import Stage, order
from slamray.stages import evaluation, published
from slamray.stages.checkpoints import CHECKPOINTS, MODEL, checkpoints_of
from slamray.stages.scoring import SCORES, STAGES
from slamray.tokens.vocabulary import Vocabulary, reconcile


def own_words(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The job's own words, and those of the recipe."""
    pairs = [word.partition("=")[::2] for word in words]
    asked = {key: value for key, value in pairs if key in ("checkpoints", "metrics")}
    rest = [word for word in words if word.partition("=")[0] not in asked]
    return asked, [f"evaluate.{word}" if word.startswith("sets=") else word for word in rest]


def build(recipe: Recipe, asked: Mapping[str, str]) -> list[Stage]:
    """The evaluation stage and, through its inputs, what it needs; BadInput for what can be known before any work."""
    encoder = check_encoder(recipe.speech.encoder)
    sets = published.stages(recipe)
    metrics = _metrics(asked.get("metrics", ""), recipe)
    needs = {need for metric in metrics for need in metric_of(metric).needs}
    needed = sorted({name for need in needs - {PUBLISHED_SETS} for name in STAGES[need]})
    given = _folders(asked["checkpoints"]) if "checkpoints" in asked else {}
    run = {stage.name: stage for stage in order(build_run(recipe))} if needed or not given else {}
    checkpoints: dict[str, Located | None] = {
        name: Located(_identity(name, folder, encoder.vocabulary).copy, folder) for name, folder in given.items()
    }
    stages = [] if given else _made(recipe, run)
    checkpoints |= {stage.name: None for stage in stages}
    wanted = sets if PUBLISHED_SETS in needs else ()
    inputs = [*stages, *wanted, *(run[name] for name in needed)]
    return [evaluation.stage(recipe, checkpoints, metrics, inputs)]


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
    (stage,) = targets
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
    items = recipe.evaluate.items
    of_run = [name for name in run_metrics() if name not in corpus_metrics() or items.pairs(name)]
    heard = genppl_metrics() if recipe.evaluate.genppl.prompts else []
    return [*of_run, *heard, *recipe.evaluate.sets]


def _metrics(word: str, recipe: Recipe) -> list[str]:
    known = [*sorted(recipe.evaluate.sets), *run_metrics()]
    if not word:
        return sorted(recipe.evaluate.sets) or run_metrics()
    asked = parse_value("metrics", word)
    if not isinstance(asked, list) or not asked:
        raise BadInput(f"metrics={word}: not a list such as [perplexity, grammar]")
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


def _identity(name: str, folder: Path, vocabulary: Vocabulary) -> dict[str, str]:
    """Who a checkpoint is, by content; BadInput when it is none, or of another vocabulary than the encoder's."""
    known = read_unit_vocabulary(folder, f"checkpoints: {name}")
    reconcile(known, vocabulary, f"checkpoints: {name}: {folder}", "speech.encoder")
    return model_content(str(folder), None, "checkpoints")
