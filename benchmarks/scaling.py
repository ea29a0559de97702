"""Our own scaling law: small models of several sizes on several numbers of tokens, a fit, and a larger run foretold.

    python benchmarks/scaling.py [root=runs/scaling] [toy=true] [page=FILE.md] [picture=FILE.png] [a.b=c ...]

Each run is stage `pretrained` of recipe exploration_laptop: the demo's speech, Llamas from random weights, one epoch at
most. A law of the form of docs/paper.md 5.1 is fitted to the validation losses. Then the loss of a larger model on more
tokens, at three times the FLOPs of the largest fitted run or more, is written down before that run is made. Prints one
line of JSON; a second start makes what is missing.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pairs import machine
from pydantic import Field

from slamray import store
from slamray.commands.run import make, provenance
from slamray.commands.words import as_command, split_words
from slamray.config.base import Settings
from slamray.config.load import load_recipe
from slamray.evaluate.scaling_law import Law, Observation, error, fit_law
from slamray.recipe.slam import build
from slamray.report.panels import COLOURS, save
from slamray.runtime.engine import Engine
from slamray.stage.stage import order
from slamray.stages.checkpoints import PRETRAINED

RECIPE = [
    "recipe=exploration_laptop", "profile=laptop", "tracking.enabled=false", "model.twist=false",
    "pretrain.optim.schedule=cosine", "pretrain.tokens_per_step=1024", "pretrain.validations=1",
    "speech.validation_documents=24", "pretrain.validation_rows=512",
]  # fmt: skip
FORETOLD = "foretold.json"  # below the root, written before the larger run


class Words(Settings):
    """Words of this benchmark."""

    root: str = Field("runs/scaling", description="folder of all stages")
    toy: bool = Field(False, description="six runs of seconds, to see that it works; their law means nothing")
    page: str = Field("", description="Markdown page to write; empty: scaling_law.md below the root")
    picture: str = Field("", description="picture to draw; empty: scaling_law.png below the root")


@dataclass(frozen=True)
class Grid:
    """Every shape is trained on every number of tokens, then the larger run. documents: stories that are spoken."""

    shapes: tuple[str, ...]
    tokens: tuple[int, ...]
    larger: tuple[str, int]
    documents: int


FULL = Grid(
    ("llama-2x64", "llama-2x128", "llama-3x192", "llama-nano"),
    (125_000, 250_000, 500_000),
    ("llama-5x320", 750_000),
    700,
)
TOY = Grid(("llama-2x64", "llama-2x128"), (4_096, 8_192, 16_384), ("llama-3x192", 16_384), 16)


@dataclass(frozen=True)
class Made:
    """A run: its shape, and what its stage's record says."""

    shape: str
    run: Observation
    seconds: float


def main(words: Sequence[str]) -> int:
    """The whole benchmark: 0, or 2 with one line where a word is at fault."""
    return as_command(lambda: _main(words))


def _main(words: Sequence[str]) -> int:
    own, others = split_words(words, Words)
    grid, root = TOY if own.toy else FULL, Path(own.root).resolve()
    common = [*RECIPE, f"root={root}", f"speech.train_documents={grid.documents}", *others]
    engine = Engine(load_recipe(common).compute)
    began, load = time.time(), os.getloadavg()[0]
    try:
        made = [train(shape, tokens, common, engine) for shape in grid.shapes for tokens in grid.tokens]
        runs = [one.run for one in made]
        law = fit_law(runs)
        foretold = foretell(law, grid, common, root)
        larger = train(*grid.larger, common, engine)
    finally:
        engine.close()
    without_one = [fit_law([*runs[:i], *runs[i + 1 :]]) for i in range(len(runs))] if len(runs) > 5 else [law]
    ends = [one.predict(larger.run.parameters, larger.run.tokens).loss for one in without_one]
    commit = provenance(words, load_recipe(common))["commit"][:7]
    result = {
        "what": "validation loss of a run larger than any that was fitted, in nats a unit",
        "anchor": larger.run.loss,
        "ours": foretold,
        "ratio": foretold / larger.run.loss,
        "low": min(ends) / larger.run.loss,
        "high": max(ends) / larger.run.loss,
        "commit": commit,
    }
    picture = Path(own.picture or root / "scaling_law.png")
    draw(made, larger, law, picture)
    page = Path(own.page or root / "scaling_law.md")
    facts = f"commit `{commit}`, {machine()}, load {load:.1f} at the start, {(time.time() - began) / 60:.0f} min"
    command = " ".join(["python benchmarks/scaling.py", *words])
    page.write_text(text(made, larger, law, without_one, result, os.path.relpath(picture, page.parent), command, facts))
    print(json.dumps(result))
    return 0


def train(shape: str, tokens: int, common: Sequence[str], engine: Engine) -> Made:
    """Make stage `pretrained` of one run, and read what it came to."""
    words = [*common, f"model.base=shape:{shape}", f"pretrain.budget=tokens:{tokens}", f"name=scaling/{shape}/{tokens}"]
    recipe = load_recipe(words)
    stage = next(stage for stage in order(build(recipe)) if stage.name == PRETRAINED.stage)
    facts = make(recipe, [stage], engine, words).manifests[stage.name]["facts"]
    run = Observation(facts["parameters"], facts["tokens"], facts["validation_loss"])
    return Made(shape, run, facts["train_seconds"])


def foretell(law: Law, grid: Grid, common: Sequence[str], root: Path) -> float:
    """The loss of the larger run, written down; one that was written before its run was made stays."""
    from slamray.stages.planning import parameters

    path = root / FORETOLD
    if not path.exists():
        shape, tokens = grid.larger
        recipe = load_recipe([*common, f"model.base=shape:{shape}"])
        found = law.predict(parameters(recipe), tokens)
        record = {
            "shape": shape,
            "parameters": found.parameters,
            "tokens": tokens,
            "loss": found.loss,
            "time": time.ctime(),
        }
        store.write_json(path, record)
        sys.stderr.write(f"foretold: {record}\n")
    return float(store.read_json(path)["loss"])


def draw(made: Sequence[Made], larger: Made, law: Law, path: Path) -> None:
    """Loss over tokens: a line of the law and points for each size; the larger run was not fitted."""
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.6), dpi=130, layout="constrained")
    axes = figure.subplots()
    tokens = np.geomspace(min(one.run.tokens for one in made) / 1.3, larger.run.tokens * 1.3, 60)
    shapes = [*dict.fromkeys(one.shape for one in made), larger.shape]
    for place, shape in enumerate(shapes):
        points = [one.run for one in [*made, larger] if one.shape == shape]
        colour, marker = COLOURS[place % len(COLOURS)], "*" if shape == larger.shape else "o"
        name = f"{points[0].parameters / 1e6:.2f}M" + (", not fitted" if shape == larger.shape else "")
        losses = [law.predict(points[0].parameters, float(x)).loss for x in tokens]
        axes.plot(tokens, losses, "--" if shape == larger.shape else "-", color=colour, lw=1)
        axes.plot([p.tokens for p in points], [p.loss for p in points], marker, ls="", color=colour, label=name)
    axes.set_xscale("log")
    axes.set_xlabel("training tokens")
    axes.set_ylabel("validation loss (nats a unit)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, title="parameters; lines: the fit")
    save(figure, path)


def text(
    made: Sequence[Made],
    larger: Made,
    law: Law,
    without_one: Sequence[Law],
    result: dict[str, object],
    picture: str,
    command: str,
    facts: str,
) -> str:
    """The page."""
    runs = [one.run for one in made]
    relative = 100 * (float(str(result["ratio"])) - 1)
    times = larger.run.parameters * larger.run.tokens / max(run.parameters * run.tokens for run in runs)
    lines = [
        "# A scaling law of the demo's units",
        "",
        f"`{command}`, {facts}. One seed.",
        "",
        f"The law that {len(runs)} runs give foretold the loss of a run of {times:.1f} times the FLOPs of the largest "
        f"of them as **{result['ours']:.3f}** nats a unit, before it was made. It came to **{larger.run.loss:.3f}**: "
        f"the prediction is {abs(relative):.1f} % too {'high' if relative > 0 else 'low'}. The least loss among the "
        f"fitted runs is {min(run.loss for run in runs):.3f}.",
        "",
        f"![loss over tokens]({picture})",
        "",
        "| shape | parameters | tokens | FLOPs | loss | fitted | difference | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in [*made, larger]:
        run = one.run
        fitted = law.predict(run.parameters, run.tokens).loss
        name = f"**{one.shape}, not fitted**" if one is larger else one.shape
        flops, off = 6 * run.parameters * run.tokens, 100 * (fitted / run.loss - 1)
        lines.append(
            f"| {name} | {run.parameters:,} | {run.tokens:,} | {flops:.2e} | {run.loss:.3f} | {fitted:.3f} "
            f"| {off:+.1f} % | {one.seconds:.0f} |"
        )
    names = ("e", "a", "b", "alpha", "beta")
    spread = [[getattr(one, name) for one in without_one] for name in names]
    lines += [
        "",
        "| | E | A | B | alpha | beta |",
        "|---|---|---|---|---|---|",
        "| the fit | " + " | ".join(f"{getattr(law, name):.3g}" for name in names) + " |",
        "| least to greatest with a run left out | "
        + " | ".join(f"{min(values):.3g} to {max(values):.3g}" for values in spread)
        + " |",
        "",
        f"Root mean square of the relative errors of the fitted runs: {100 * error(law, runs):.2f} %. N counts the "
        "embeddings, D the tokens that were read. Losses are of hubert-nano's 500 units on the demo's validation "
        "stories: they and these constants do not compare with the published law's, whose units and speech are others "
        "(docs/paper.md 5.1).",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
