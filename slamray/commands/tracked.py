"""What MLflow is told of a run beside its stages: whose it is, what it changes, what it reads, what is compared."""

from __future__ import annotations

import getpass
import hashlib
import json
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from slamray.config.base import ASSETS
from slamray.config.load import EXECUTION
from slamray.config.tree import Recipe
from slamray.evaluate.metrics import GENPPL, METRICS, field_of, gains_of, metric_of
from slamray.stage.folder import Folder
from slamray.stage.stage import Manifest, Stage
from slamray.stage.work import METRICS as CURVE
from slamray.stages.checkpoints import ALIGNED, CHECKPOINTS, PRETRAINED
from slamray.stages.recorded import given_corpora
from slamray.tracking import DataSet, Tracker

SETTINGS = "recipe.yaml"  # the artifact that holds every value
DIGEST = 16  # hexadecimal digits of a checksum; MLflow takes at most 36
TRAINING, EVALUATION = "training", "evaluation"  # what data is for, as MLflow shows it
NAME_LENGTH = 200  # of a data set of many paths; MLflow takes at most 500
UNTOLD = (
    "name",
    "note",
    "root",
    "tracking",
    "rates",
    "prices",
)  # no parameters: what a run is called, and where it goes


def begin(tracker: Tracker, recipe: Recipe, provenance: Mapping[str, Any]) -> None:
    """Who started the run, with which words and which code, and what it changes."""
    words = provenance["words"]
    tracker.begin(tags(provenance))
    named = {word.partition("=")[0] for word in words}
    tracker.params({key: value for key, value in changed(recipe, named).items() if key.partition(".")[0] not in UNTOLD})
    tracker.text(SETTINGS, as_recipe_file(recipe))


def retell(tracker: Tracker, stage: str, folder: Folder) -> None:
    """What a training told when it was made; nothing of any other stage."""
    if folder.exists(CURVE):
        tracker.curve(stage, [json.loads(line) for line in folder.read(CURVE).splitlines()])


def finish(tracker: Tracker, recipe: Recipe, stages: Sequence[Stage], manifests: Mapping[str, Manifest]) -> None:
    """What the run has read and found."""
    tracker.data(data_sets(recipe, stages, manifests))
    # MLflow's page of a comparison opens with the metric that came first: what a stage took comes after all others.
    tracker.figures(compared(manifests) | {f"seconds/{name}": one["wall_seconds"] for name, one in manifests.items()})
    said = manifests["report"]["facts"]["summary"] if "report" in manifests else []
    if said or recipe.note:
        tracker.note("\n\n".join([*said, *([recipe.note] if recipe.note else [])]))


def tags(provenance: Mapping[str, Any]) -> dict[str, str]:
    """MLflow's own tags of source, user and commit, and the words, with which the command can be given again."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = "unknown"
    changed_code = {"slamray.uncommitted_changes": "true"} if provenance["dirty"] else {}
    return {
        "mlflow.user": user,
        "mlflow.source.name": Path(sys.argv[0]).name,
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": provenance["commit"],
        "slamray.words": " ".join(provenance["words"]),
        "slamray.version": provenance["libraries"]["slamray"],
        **changed_code,
    }


def changed(recipe: Recipe, named: Collection[str] = ()) -> dict[str, Any]:
    """By dotted key, every value that is not the default of its field, or that a word named."""
    given, defaults = (dict(leaves(one.model_dump(mode="json"))) for one in (recipe, Recipe()))
    return {key: value for key, value in given.items() if value != defaults.get(key) or key in named}


def common(recipes: Sequence[Recipe]) -> dict[str, Any]:
    """What all recipes of a sweep change alike, as parameters."""
    first, *others = [changed(recipe) for recipe in recipes]
    alike = {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}
    return {key: value for key, value in alike.items() if key.partition(".")[0] not in UNTOLD}


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a tree by its dotted key."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def as_recipe_file(recipe: Recipe) -> str:
    """The whole tree as a recipe file that runs the same; below it, as a comment, what is execution."""
    tree = recipe.model_dump(mode="json")
    execution = {key: tree.pop(key) for key in EXECUTION}
    text: str = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    aside: str = yaml.safe_dump(execution, sort_keys=False, allow_unicode=True)
    return (
        text
        + "\n# Where and how fast it ran, given by profile= and words:\n"
        + "".join(f"# {line}\n" for line in aside.splitlines())
    )


def compared(manifests: Mapping[str, Manifest]) -> dict[str, float]:
    """What runs are compared by, of the stages that are there by name; scores as their facts have them.

    A score of the last checkpoint goes by the metric's name, one of an earlier by `checkpoint/metric`. tokens are those
    of pre-training; flops and device_hours are of all training.
    """
    scored = {name: found for name in _scored(manifests) if (found := scores(manifests, name))}
    last = next((one.stage for one in reversed(CHECKPOINTS) if one.stage in scored), "")
    figures = {
        metric if name == last else f"{name}/{metric}": value
        for name, found in reversed(scored.items())  # the last comes first on MLflow's pages
        for metric, value in found.items()
    }
    spent = [manifests[one.stage]["facts"] for one in (PRETRAINED, ALIGNED) if one.stage in manifests]
    if spent:
        figures |= {key: sum(facts[key] for facts in spent) for key in ("flops", "flops_with_attention")}
        figures["device_hours"] = sum(facts["device_seconds"] for facts in spent) / 3600
        figures |= {"parameters": spent[0]["parameters"], "tokens": spent[0]["tokens"]}
    if len(spent) > 1:
        figures["preference_tokens"] = spent[1]["tokens"]
        if "margin" in spent[1]["heldout"]:
            figures["heldout_margin"] = spent[1]["heldout"]["margin"]
    return figures


def _scored(manifests: Mapping[str, Manifest]) -> list[str]:
    """Names of the checkpoints that were measured: those of a run, and those that jobs/evaluate.py was given."""
    judged = manifests["evaluation"]["facts"]["checkpoints"] if "evaluation" in manifests else {}
    return list(dict.fromkeys([*(one.stage for one in CHECKPOINTS), *judged]))


def scores(manifests: Mapping[str, Manifest], checkpoint: str) -> dict[str, float]:
    """The figure of each metric that a checkpoint was measured by, where there is one."""
    measured: dict[str, Mapping[str, Any]] = {}
    if f"scores_{checkpoint}" in manifests:
        facts = manifests[f"scores_{checkpoint}"]["facts"]
        measured |= facts["figures"] | {name: facts["gains"][of] for name, of in gains_of(facts["gains"]).items()}
    if "evaluation" in manifests:
        judged = manifests["evaluation"]["facts"]["checkpoints"]
        measured |= judged[checkpoint]["figures"] if checkpoint in judged else {}
    heard = f"{GENPPL}_{checkpoint}"
    if heard in manifests:
        measured |= {name: manifests[heard]["facts"] for name, metric in METRICS.items() if GENPPL in metric.needs}
    values = {name: field_of(facts, metric_of(name).value) for name, facts in measured.items()}
    return {name: value for name, value in values.items() if value is not None}


def data_sets(recipe: Recipe, stages: Sequence[Stage], manifests: Mapping[str, Manifest]) -> list[DataSet]:
    """The corpora, recordings, preference pairs and test sets, known by the content that the stages' identities have.

    Nothing is read: a run knows the checksums of all of it.
    """
    identities = {stage.name: stage.identity for stage in stages}
    found = []
    for one in _read(recipe):
        if one.stage not in identities:
            continue
        content = field_of(identities[one.stage], one.content)
        facts = manifests[one.stage]["facts"] if one.stage in manifests else {}
        if one.context == EVALUATION:
            facts = facts["sets"][one.name] if facts else {}
        numbers = {key: value for key, value in {**content, **facts}.items() if isinstance(value, int | float)}
        found.append(DataSet(one.name, digest(content), one.paths[0], one.context, {"stage": one.stage, **numbers}))
    return found


@dataclass(frozen=True)
class _Read:
    """What a stage reads; content: where its identity has the content, dotted."""

    stage: str
    paths: Sequence[str]
    content: str
    context: str = TRAINING
    called: str = ""

    @property
    def name(self) -> str:
        names = [path.removeprefix(ASSETS).rstrip("/").rpartition("/")[2] for path in self.paths]
        return self.called or ", ".join(names)[:NAME_LENGTH]


def _read(recipe: Recipe) -> list[_Read]:
    """Everything outside that holds text or sound."""
    text, recorded = recipe.joint.text, recipe.recorded
    found = [
        _Read("corpus", recipe.corpus.paths, "corpus.paths"),
        _Read("text_corpus", text.paths if text else (), "corpus.paths"),
        _Read("recorded", recorded.paths, "files"),
        *(_Read(name, getattr(recorded, name), "files") for name in given_corpora(recorded)),
        _Read("preferences", [recipe.preferences.path], "preferences.path", "preferences"),
        *(_Read("published", [path], f"sets.{name}", EVALUATION, name) for name, path in recipe.evaluate.sets.items()),
    ]
    return [one for one in found if any(one.paths)]


def digest(content: Mapping[str, Any]) -> str:
    """A data set's checksum, cut; of what lies on the hub too, that of its names and commits as well."""
    if "sha256" in content and "hub" not in content:
        return str(content["sha256"])[:DIGEST]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:DIGEST]
