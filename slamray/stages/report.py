"""Stage `report`: what the run found, on one page; the same numbers as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import soundfile

from slamray.config.tree import Recipe
from slamray.evaluate.summary import as_rows, compare
from slamray.report.page import ReportData, Sound, write_report
from slamray.stage import store, tables
from slamray.stage.stage import Facts, Folders, Stage
from slamray.stages import items, tasks

PAGE = "report.html"
EXAMPLES = 2  # test items shown of each metric; chosen, not tuned
NAMES = {"untrained": "untrained", "pretrained": "pre-trained", "aligned": "after DPO"}


def run(folders: Folders, out: Path, recipe: Recipe, stages: Sequence[Stage]) -> Facts:
    """Gather every stage's facts and write report.html; the facts hold the table that the command prints."""
    root = Path(recipe.root)
    manifests = {stage.name: stage.manifest(root) for stage in stages}
    names = [name for name in NAMES if name in manifests]  # without DPO there is no aligned
    measured = {name: manifests[f"scores_{name}"]["facts"] for name in names}
    aligned = manifests.get("aligned")
    changes = _changes(folders) if aligned else []
    published = manifests["evaluation"]["facts"] if "evaluation" in manifests else {"checkpoints": {}, "table": []}
    table = _table(measured)
    heldout = aligned["facts"]["heldout"] if aligned else {"pairs": 0}
    data = ReportData(
        title=f"slamray: {recipe.name}",
        summary=_summary(manifests, measured, heldout),
        scores=[
            {**row, "checkpoint": NAMES[name]} for name, facts in measured.items() for row in facts["pairs"].values()
        ],
        published=[
            {**row, "checkpoint": NAMES[name]}
            for name, figures in published["checkpoints"].items()
            for row in figures["metrics"]
        ],
        perplexity=[{**facts["perplexity"], "checkpoint": NAMES[name]} for name, facts in measured.items()],
        differences=changes,
        generation=[{**facts["continuations"], "checkpoint": NAMES[name]} for name, facts in measured.items()],
        spoken=_spoken(manifests),
        training=_training(folders["pretrained"]),
        dpo=_dpo(folders["aligned"]) if aligned else [],
        sounds=_sounds(folders, names, recipe),
        examples=_examples(folders["items"]),
        stages=[_stage_row(manifest) for manifest in manifests.values()],
        config=recipe.model_dump(mode="json"),
        provenance=manifests["corpus"]["provenance"] | {"words": manifests[names[-1]]["provenance"]["words"]},
        confidence=recipe.evaluate.interval,
    )
    out.mkdir(parents=True, exist_ok=True)
    write_report(data, out / PAGE)
    return {"table": [*table, "", *published["table"]] if published["table"] else table, "differences": changes}


def _changes(folders: Folders) -> list[dict[str, Any]]:
    """What DPO changed, item by item."""
    before, after = (tasks.read_scores(folders[f"scores_{name}"]) for name in ("pretrained", "aligned"))
    return as_rows(compare(before, after))


def _table(measured: dict[str, dict[str, Any]]) -> list[str]:
    metrics = list(measured["untrained"]["pairs"])
    lines = [f"{'':<14}{'perplexity':>11}" + "".join(f"{metric:>24}" for metric in metrics)]
    for name, facts in measured.items():
        cells = [facts["pairs"][metric] for metric in metrics]
        shown = [f"{100 * c['accuracy']:.1f} [{100 * c['low']:.1f}, {100 * c['high']:.1f}]" for c in cells]
        lines.append(
            f"{NAMES[name]:<14}{facts['perplexity']['perplexity']:>11.2f}" + "".join(f"{s:>24}" for s in shown)
        )
    n = ", ".join(f"{metric} n={c['n']} ties={c['ties']}" for metric, c in measured["untrained"]["pairs"].items())
    return [*lines, f"accuracy in %, 95 % intervals; {n}"]


def _summary(manifests: dict[str, Any], measured: dict[str, Any], heldout: dict[str, Any]) -> list[str]:
    spoken, trained = manifests["units"]["facts"], manifests["pretrained"]["facts"]
    before, after = (measured[name]["perplexity"]["perplexity"] for name in ("untrained", "pretrained"))
    lines = [
        f"{spoken['audio_seconds'] / 3600:.1f} h of speech became {spoken['units']:,} units "
        f"({spoken['units_per_second']:.1f} a second).",
        f"Pre-training took {trained['tokens']:,} tokens and {trained['train_seconds']:.0f} s of optimiser time; "
        f"validation perplexity went from {before:.1f} to {after:.2f}.",
    ]
    if heldout["pairs"]:
        lines.append(
            f"DPO moved chosen over rejected by {heldout['margin']:.2f} +- {heldout['margin_half_width']:.2f} nats on "
            f"{heldout['pairs']} held-out pairs."
        )
    sets = manifests.get("published", {"facts": {"sets": {}}})["facts"]["sets"]
    return lines + [f"{name} has {facts['note']}." for name, facts in sets.items() if facts["note"]]


def _spoken(manifests: dict[str, Any]) -> list[dict[str, Any]]:
    """GenPPL of the checkpoints of which it was measured, with the prompt in the text and without."""
    texts = {"with_prompt": "prompt and continuation", "continuation": "continuation"}
    return [
        {**manifests[f"genppl_{name}"]["facts"][part], "checkpoint": shown, "of": text}
        for name, shown in NAMES.items()
        if f"genppl_{name}" in manifests
        for part, text in texts.items()
    ]


def _training(folder: Path) -> list[dict[str, Any]]:
    rows = store.read_json(folder / "history.json")
    keys = ("tokens", "flops", "loss", "validation_loss")
    return [{"run": "pre-training", "seconds": row["train_seconds"], **{k: row.get(k) for k in keys}} for row in rows]


def _dpo(folder: Path) -> list[dict[str, Any]]:
    columns = {
        "step": "step", "loss": "loss", "accuracy": "rewards/accuracies", "reward_chosen": "rewards/chosen",
        "reward_rejected": "rewards/rejected", "margin": "rewards/margins", "logp_chosen": "logps/chosen",
        "logp_rejected": "logps/rejected",
    }  # fmt: skip
    return [
        {ours: row.get(theirs) for ours, theirs in columns.items()} for row in store.read_json(folder / "history.json")
    ]


def _sounds(folders: Folders, names: Sequence[str], recipe: Recipe) -> list[Sound]:
    sounds = []
    for path in sorted((folders["units"] / tables.SAMPLES).glob("*.flac"))[:1]:
        audio, rate_hz = soundfile.read(path, dtype="float32")
        sounds.append(Sound("The voice that was learned from", path.stem, audio, rate_hz))
    for name in names:
        for path in sorted((folders[f"scores_{name}"] / tasks.AUDIO).glob("*.flac")):
            audio, rate_hz = soundfile.read(path, dtype="float32")
            seconds = recipe.evaluate.sampling.prompt_seconds
            text = f"{path.stem}: {seconds:g} s of prompt, then the model"
            sounds.append(Sound(f"Continuation, {NAMES[name]}", text, audio, rate_hz))
    return sounds


def _examples(folder: Path) -> list[dict[str, Any]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for pair in items.read(folder).pairs:
        shown = found.setdefault(pair.metric, [])
        if len(shown) < EXAMPLES:
            shown.append(
                {
                    "metric": pair.metric, "prompt_text": pair.prompt_text, "chosen_text": pair.chosen_text,
                    "rejected_text": pair.rejected_text,
                }
            )  # fmt: skip
    return [row for rows in found.values() for row in rows]


def _stage_row(manifest: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": manifest["name"], "fingerprint": manifest["fingerprint"], "status": "done",
        "seconds": manifest["wall_seconds"], "device_seconds": manifest["facts"].get("train_seconds"),
    }  # fmt: skip
