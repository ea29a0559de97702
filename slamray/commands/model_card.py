"""The card of an exported checkpoint, in the form that the hub and MLflow show: what it is, made of, scored, used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from slamray import store
from slamray.commands import tracked
from slamray.config.tree import Recipe
from slamray.evaluate.metrics import PairMetric, metric_of
from slamray.stage.folder import Folder
from slamray.stage.stage import Stage, order
from slamray.stages.checkpoints import TITLES
from slamray.tokens.vocabulary import Vocabulary
from slamray.tracking import DataSet

FILE = "README.md"


@dataclass(frozen=True)
class Origin:
    """What is known of a checkpoint that a recipe has made; figures and data as MLflow has them."""

    name: str
    checkpoint: str
    sentences: Sequence[str]
    scores: Mapping[str, float]
    figures: Mapping[str, float]
    data: Sequence[DataSet]
    base: str
    encoder: str


def origin_of(recipe: Recipe, targets: Sequence[Stage], checkpoint: str) -> Origin:
    """From the manifests of the recipe's stages that are done. checkpoint: the name of its stage."""
    root, stages = Folder(recipe.root), order(targets)
    manifests = {stage.name: stage.manifest(root) for stage in stages if stage.is_done(root)}
    said = manifests["report"]["facts"]["summary"] if "report" in manifests else []
    return Origin(
        recipe.name,
        checkpoint,
        said,
        tracked.scores(manifests, checkpoint),
        tracked.compared(manifests),
        tracked.data_sets(recipe, stages, manifests),
        recipe.model.base,
        f"{recipe.speech.encoder.model}, layer {recipe.speech.encoder.layer}",
    )


def card(origin: Origin | None, folder: Path, vocabulary: Vocabulary, parameters: int) -> str:
    """Markdown with the hub's front matter. folder: the exported one. origin: None of a checkpoint from elsewhere."""
    kind = store.read_json(folder / "config.json")["model_type"]
    title = f"{origin.name}, {TITLES[origin.checkpoint]}" if origin else "A unit LM"
    text = "of text and speech " if vocabulary.is_joint else ""
    parts = [
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags: [speech, slamray]\n---",
        f"# {title}",
        *(origin.sentences if origin else ()),
        f"A causal LM {text}({kind}, {parameters:,} parameters) over {vocabulary.n_units} units of speech, `<Un0>` to "
        f"`<Un{vocabulary.n_units - 1}>`. A recording becomes units, and units become sound, by the encoder and the "
        "decoder that it was trained with; neither is in this folder.",
        *(_made(origin) if origin else ()),
        "## Use",
        "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'model = AutoModelForCausalLM.from_pretrained("this folder")\n'
        'tokeniser = AutoTokenizer.from_pretrained("this folder")\n'
        'said = model.generate(**tokeniser("<Un3><Un17>", return_tensors="pt"))\nprint(tokeniser.decode(said[0]))\n```',
        "From MLflow, `mlflow.transformers.load_model` gives a pipeline that takes and gives the same text.",
    ]
    return "\n\n".join(parts) + "\n"


def _made(origin: Origin) -> list[str]:
    scores = [f"| {metric_of(name).title} | {_shown(name, value)} |" for name, value in origin.scores.items()]
    data = [f"- {one.name} ({one.context}, checksum {one.digest})" for one in origin.data]
    spent = origin.figures
    cost = (
        f"{spent['tokens']:,.0f} tokens of pre-training, {spent['flops']:.2e} FLOPs and {spent['device_hours']:.3g} "
        "device-hours in all."
        if "tokens" in spent
        else ""
    )
    return [
        "## Scores",
        "\n".join(["| metric | |", "|---|---|", *scores]) if scores else "Not measured.",
        "## Made of",
        f"Text LM: `{origin.base}`. Encoder of the units: `{origin.encoder}`. {cost}".rstrip(),
        "\n".join(data),
    ]


def _shown(name: str, value: float) -> str:
    metric = metric_of(name)
    return metric.show(value) + (" % (chance is 50)" if isinstance(metric, PairMetric) else "")
