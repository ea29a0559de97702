"""Stage `report`: what the run found, on one page; the same numbers as a table for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import soundfile

from slamray.config.base import Located
from slamray.config.tree import Recipe
from slamray.data.text import TRAIN
from slamray.evaluate.metrics import METRICS, PairMetric, ScalarMetric, field_of, metric_of
from slamray.evaluate.summary import INTERVALS, compare
from slamray.report.page import Clip, ReportData, ScalarTable, is_across, write_report
from slamray.speech.encoders.table import check_encoder
from slamray.stage.folder import Folder
from slamray.stage.stage import Inputs, Manifest, Stage, read_manifest
from slamray.stage.tables import SAMPLES
from slamray.stage.work import Machine
from slamray.stages import answers, items, tasks
from slamray.stages.checkpoints import ALIGNED, CHECKPOINTS, PRETRAINED, TITLES, UNTRAINED
from slamray.stages.heard import Continued, listen_to, name_of
from slamray.stages.scoring import SCORED, read_scores

PAGE, SOUNDS = "report.html", "sounds.json"  # sounds: a Continued for each continuation that the page plays
QUESTIONS_SHOWN = 6  # of each set and way; chosen, not tuned
WRITTEN = 3  # continuations in text shown of each checkpoint, heard and read; chosen, not tuned
SENTENCES_SHOWN = 3  # of each model and task; chosen, not tuned
EXAMPLES = 2  # test items shown of each metric; chosen, not tuned
DPO_COLUMNS = {
    "step": "step",
    "loss": "loss",
    "accuracy": "rewards/accuracies",
    "reward_chosen": "rewards/chosen",
    "reward_rejected": "rewards/rejected",
    "margin": "rewards/margins",
    "logp_chosen": "logps/chosen",
    "logp_rejected": "logps/rejected",
}


@dataclass(frozen=True)
class ReportFacts:
    """summary: what was found, in sentences. table: lines for the terminal. differences: what DPO changed."""

    summary: Sequence[str]
    table: Sequence[str]
    differences: Sequence[Mapping[str, Any]]


def stage(recipe: Recipe, inputs: Sequence[Stage]) -> Stage:
    """Of all the stages of a run, whose identities hold whatever of the recipe matters; the page shows it as given."""
    shown = recipe.model_dump(mode="json", exclude={"assets", "compute", "root", "tracking"})
    shown_with = {"recipe": shown, "rate_hz": check_encoder(recipe.speech.encoder).rate_hz}
    settings = {"name": recipe.name, "recipe": Located(lambda: None, shown_with)}
    return Stage("report", run, settings, tuple(inputs), version=4)


def run(inputs: Inputs, out: Folder, machine: Machine, name: str, recipe: Located) -> ReportFacts:
    """Gather every stage's facts and write report.html."""
    config, rate_hz = recipe.place["recipe"], recipe.place["rate_hz"]
    manifests = {name: read_manifest(folder) for name, folder in inputs.items()}
    names = [checkpoint.stage for checkpoint in CHECKPOINTS if checkpoint.stage in manifests]
    figures = {name: manifests[f"scores_{name}"]["facts"]["figures"] for name in names}
    aligned = manifests.get(ALIGNED.stage)
    changes = _changes(inputs) if aligned else []
    answered, errors = _shares(manifests), _word_errors(manifests)
    published = manifests["evaluation"]["facts"] if "evaluation" in manifests else {"checkpoints": {}, "table": []}
    heldout = aligned["facts"]["heldout"] if aligned else {"pairs": 0}
    scored = {name: inputs[f"scores_{name}"] for name in names}
    prompt_seconds = config["evaluate"]["sampling"]["prompt_seconds"]
    continued = listen_to(scored, inputs["units"], prompt_seconds, rate_hz, machine)
    out.write_json(SOUNDS, [asdict(one) for one in continued])
    summary = _summary(manifests, figures, heldout)
    data = ReportData(
        title=f"slamray: {name}",
        summary=summary,
        scores=_by_checkpoint({name: _pairs(found) for name, found in figures.items()}),
        published=_by_checkpoint({name: _with_parts(found) for name, found in published["checkpoints"].items()}),
        gains=_by_checkpoint({name: _gains(manifests[f"scores_{name}"]) for name in names}),
        scored=SCORED[config["evaluate"]["scored"]],
        scalars=[*_scalars(figures), *_spoken(manifests)],
        answers=_by_checkpoint(answered),
        mixture=_mixture(manifests),
        word_errors=errors,
        written=_written(inputs),
        quality=manifests[tasks.QUALITY]["facts"] if tasks.QUALITY in manifests else None,
        answered=_answered(inputs, names),
        differences=changes,
        training=_training(inputs[PRETRAINED.stage]),
        dpo=_dpo(inputs[ALIGNED.stage]) if aligned else [],
        continued=_by_checkpoint({name: _written_on(found) for name, found in figures.items()}),
        sounds=[
            *_voice(inputs["units"]),
            *(
                clip_of(scored[one.checkpoint], one, f"{prompt_seconds:g} s of prompt, then the model")
                for one in continued
            ),
        ],
        examples=_examples(inputs["items"]),
        stages=[_stage_row(manifest) for manifest in manifests.values()],
        config=config,
        provenance=manifests["corpus"]["provenance"] | {"words": " ".join(manifests[names[-1]]["provenance"]["words"])},
        confidence=config["evaluate"]["interval"],
    )
    out.write_tree(PAGE, partial(write_report, data))
    table = _table(figures)
    if any(is_across(metric) for metric in figures[UNTRAINED.stage]):
        table.append(data.scored)
    titled = {TITLES[name]: rows for name, rows in answered.items()}
    tables = [table, published["table"], answers.lines(titled), tasks.lines(errors)]
    return ReportFacts(summary, [line for table in tables if table for line in ("", *table)][1:], changes)


def _by_checkpoint(rows: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of every checkpoint, each with its title."""
    return [{**row, "checkpoint": TITLES[name]} for name, found in rows.items() for row in found]


def _pairs(figures: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The facts of the metrics of pairs."""
    return [facts for name, facts in figures.items() if isinstance(metric_of(name), PairMetric)]


def _gains(manifest: Manifest) -> list[dict[str, Any]]:
    return [{"metric": name, **gain} for name, gain in manifest["facts"]["gains"].items()]


def _with_parts(checkpoint: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Each metric's facts, then those of its parts."""
    parts = checkpoint["parts"].values()
    return [
        row
        for facts in _pairs(checkpoint["figures"])
        for row in (facts, *(part for part in parts if part["metric"] == facts["metric"]))
    ]


def _scalars(figures: Mapping[str, Mapping[str, Any]]) -> list[ScalarTable]:
    """A table for each scalar metric that the run has measured."""
    return [
        ScalarTable(metric, _by_checkpoint({checkpoint: [found[name]] for checkpoint, found in figures.items()}))
        for name, metric in METRICS.items()
        if isinstance(metric, ScalarMetric) and metric.measure and all(name in found for found in figures.values())
    ]


def _changes(inputs: Inputs) -> list[dict[str, Any]]:
    """What DPO changed, item by item."""
    before, after = (read_scores(inputs[f"scores_{one.stage}"], one.stage) for one in (PRETRAINED, ALIGNED))
    return [asdict(difference) for difference in compare(before, after)]


def _table(figures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A row for each checkpoint, a column for each metric."""
    first = figures[UNTRAINED.stage]
    scalars = {name: row for name, row in METRICS.items() if isinstance(row, ScalarMetric) and row.in_short_table}
    scalars = {name: row for name, row in scalars.items() if name in first}
    pairs = [name for name in first if isinstance(metric_of(name), PairMetric)]
    widths = {name: max(11, len(name) + 2) for name in scalars}
    head = "".join(f"{name:>{width}}" for name, width in widths.items())
    lines = [f"{'':<14}{head}" + "".join(f"{name:>24}" for name in pairs)]
    for checkpoint, found in figures.items():
        numbers = [f"{row.show(field_of(found[name], row.value)):>{widths[name]}}" for name, row in scalars.items()]
        shares = [f"{_share(found[name]):>24}" for name in pairs]
        lines.append(f"{TITLES[checkpoint]:<14}" + "".join([*numbers, *shares]))
    n = ", ".join(f"{name} n={first[name]['n']} ties={first[name]['ties']}" for name in pairs)
    return [*lines, f"accuracy in %; interval: {INTERVALS}; {n}"]


def _shares(manifests: Mapping[str, Manifest]) -> dict[str, list[dict[str, Any]]]:
    """Of each checkpoint that was asked questions, the shares that it answered right."""
    asked = {name: manifests[f"answers_{name}"] for name in TITLES if f"answers_{name}" in manifests}
    return {name: answers.rows(manifest["facts"]["shares"]) for name, manifest in asked.items()}


def _answered(inputs: Inputs, names: Sequence[str]) -> list[dict[str, Any]]:
    """The first questions of each set and way, of the last checkpoint that was asked."""
    asked = [name for name in names if f"answers_{name}" in inputs]
    shown: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for one in answers.read(inputs[f"answers_{asked[-1]}"]) if asked else []:
        rows = shown.setdefault((one.set, one.way), [])
        if len(rows) < QUESTIONS_SHOWN:
            texts = {"passage": " ".join(one.passage), "question": one.question, "answers": ", ".join(one.answers)}
            rows.append({"checkpoint": TITLES[asked[-1]], "way": answers.WAYS[one.way], "said": one.said, **texts})
    return [row for rows in shown.values() for row in rows]


def _mixture(manifests: Mapping[str, Manifest]) -> list[dict[str, Any]]:
    """What pre-training read of each source of a mixture."""
    sources = manifests["packed"]["facts"][TRAIN].get("sources", {})
    read = manifests[PRETRAINED.stage]["facts"]["tokens"]
    found = []
    for name, source in sources.items():
        own = source["token_share"] * read
        found.append({"name": name, "share": source["token_share"], "tokens": source["tokens"], "read": own})
        found[-1]["epochs"] = own / source["tokens"]
    return found


def _word_errors(manifests: Mapping[str, Manifest]) -> list[dict[str, Any]]:
    """Of the voice, its units, the text-to-token model, and each checkpoint that was asked."""
    stages = {
        tasks.SENTENCES: {"voice": "the voice", "real_units": "its units, decoded"},
        tasks.QUALITY: {tasks.QUALITY_RATE: "text-to-token model"},
        **{
            f"tasks_{name}": {task: f"{task.upper()}, {title}" for task in ("asr", "tts")}
            for name, title in TITLES.items()
        },
    }
    return [
        {"name": title, **manifests[stage]["facts"]["rates"][rate]}
        for stage, rates in stages.items()
        if stage in manifests
        for rate, title in rates.items()
    ]


def _written(inputs: Inputs) -> list[dict[str, Any]]:
    """The first sentences of each model that was asked, as it wrote or said them."""
    found = []
    for name in (tasks.QUALITY, *(f"tasks_{name}" for name in TITLES)):
        shown: Counter[str] = Counter()
        for one in tasks.read_said(inputs[name]) if name in inputs else []:
            shown[one.task] += 1
            if shown[one.task] <= SENTENCES_SHOWN:
                who = "text-to-token model" if name == tasks.QUALITY else TITLES[name.removeprefix("tasks_")]
                found.append({"name": f"{one.task.upper()}, {who}", "wanted": one.wanted, "got": one.got})
    return found


def _share(facts: Mapping[str, Any]) -> str:
    return f"{100 * facts['accuracy']:.1f} [{100 * facts['low']:.1f}, {100 * facts['high']:.1f}]"


def _summary(manifests: Mapping[str, Manifest], figures: Mapping[str, Any], heldout: Mapping[str, Any]) -> list[str]:
    spoken, trained = manifests["units"]["facts"], manifests[PRETRAINED.stage]["facts"]
    before, after = (figures[one.stage]["perplexity"]["perplexity"] for one in (UNTRAINED, PRETRAINED))
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


def _spoken(manifests: Mapping[str, Manifest]) -> list[ScalarTable]:
    """GenPPL of the checkpoints of which it was measured, with the prompt in the text and without."""
    texts = {"with_prompt": "prompt and continuation", "continuation": "continuation"}
    rows = [
        {**manifests[f"genppl_{name}"]["facts"][part], "checkpoint": f"{title}: {text}"}
        for name, title in TITLES.items()
        if f"genppl_{name}" in manifests
        for part, text in texts.items()
    ]
    metric = METRICS["genppl"]
    assert isinstance(metric, ScalarMetric)
    return [ScalarTable(metric, rows)] if rows else []


def _training(folder: Folder) -> list[dict[str, Any]]:
    rows = folder.read_json("history.json")
    keys = ("tokens", "flops", "loss", "validation_loss")
    return [{"run": "pre-training", "seconds": row["train_seconds"], **{k: row.get(k) for k in keys}} for row in rows]


def _dpo(folder: Folder) -> list[dict[str, Any]]:
    history = folder.read_json("history.json")
    return [{ours: row.get(theirs) for ours, theirs in DPO_COLUMNS.items()} for row in history]


def _voice(folder: Folder) -> list[Clip]:
    return [
        Clip("The voice that was learned from", name_of(name), *_read(folder, name))
        for name in folder.names(f"{SAMPLES}/*.flac")[:1]
    ]


def clip_of(folder: Folder, one: Continued, heard: str) -> Clip:
    """A continuation as sound. folder: of the stage that has scored its checkpoint. heard: what it is, for readers."""
    what = "the model alone, after a text that it read" if one.is_read else heard
    title = f"Continuation, {TITLES[one.checkpoint]}"
    return Clip(title, f"{one.prompt_id}: {what}", *_read(folder, one.file), one.said, one.heard)


def _read(folder: Folder, name: str) -> tuple[np.ndarray, int]:
    audio, rate_hz = soundfile.read(folder.fetch(name), dtype="float32")
    return audio, rate_hz


def _written_on(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The first continuations in text after prompts that were heard, and after prompts that were read."""
    samples = figures["text_continuations"]["samples"] if "text_continuations" in figures else []
    heard = [one for one in samples if one["heard"]][:WRITTEN]
    read = [one for one in samples if not one["heard"]][:WRITTEN]
    return [{**one, "heard": bool(one["heard"]), "prompt": one["heard"] or one["read"]} for one in heard + read]


def _examples(folder: Folder) -> list[dict[str, Any]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for pair in items.read(folder).pairs:
        shown = found.setdefault(pair.metric, [])
        if len(shown) < EXAMPLES:
            texts = ("metric", "prompt_text", "chosen_text", "rejected_text")
            shown.append({name: getattr(pair, name) for name in texts})
    return [row for rows in found.values() for row in rows]


def _stage_row(manifest: Manifest) -> dict[str, Any]:
    return {
        "name": manifest["name"],
        "fingerprint": manifest["fingerprint"],
        "status": "done",
        "seconds": manifest["wall_seconds"],
        "device_seconds": manifest["facts"].get("train_seconds"),
    }
