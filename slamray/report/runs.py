"""Scores and their costs: the paper's tables, which ship as data, and the checkpoints and sweeps in MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib import resources
from typing import Any

import yaml

from slamray.config.compute import Compute
from slamray.config.evaluation import GenPplSettings
from slamray.errors import BadInput
from slamray.evaluate.metrics import METRICS, GainMetric, PairMetric, ScalarMetric, find_metric
from slamray.given import reason_of
from slamray.mlflow_events import remove_strays
from slamray.report.comparison_page import CURVES, Beside

ANSWER = "answer"  # the child that ends the run of a sweep
_COMPUTE, _GENPPL = Compute(), GenPplSettings()  # a run's parameters are what differs from these


@dataclass(frozen=True)
class Score:
    """A figure, the ends of its interval (in the paper: least and greatest seed), and n items (0: unknown)."""

    value: float
    low: float | None = None
    high: float | None = None
    n: int = 0


@dataclass(frozen=True)
class Entry:
    """A checkpoint or a published model. None where no figure is known. FLOPs are 6 N D, without attention."""

    name: str
    devices: str = ""
    parameters: float | None = None
    tokens: float | None = None
    preference_tokens: float = 0
    flops: float | None = None
    flops_with_attention: float | None = None
    device_hours: float | None = None
    scores: Mapping[str, Score] = field(default_factory=dict)  # by the paper's names
    own: Mapping[str, Score] = field(default_factory=dict)  # by the names of slamray's metrics


@dataclass(frozen=True)
class SweepEntry:
    """A sweep: a note with its answer and its cost, and a row (variant, metric, value) for each trial and metric."""

    title: str
    note: str
    rows: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Paper:
    """The paper's tables by name; for each of its metrics the unit, slamray's name ("" if none), numbers of items.

    endpoints: models of the scaling law's authors, in growing compute.
    """

    tables: Mapping[str, Sequence[Entry]]
    units: Mapping[str, str]
    logged: Mapping[str, str]
    items: Mapping[str, Sequence[int]]
    endpoints: Sequence[Entry] = ()


def read_paper() -> Paper:
    """paper_tables.yaml; FLOPs are 6 N D where it has both."""
    tree = yaml.safe_load((resources.files("slamray") / "report" / "paper_tables.yaml").read_text())

    def entry(row: Mapping[str, Any]) -> Entry:
        parameters, tokens, preference = row.get("parameters"), row.get("tokens"), row.get("preference_tokens", 0)
        spread = row.get("spread", {})
        scores = {
            name: Score(value, value - spread[name], value + spread[name]) if name in spread else Score(value)
            for name, value in row["scores"].items()
        }
        flops = 6.0 * parameters * (tokens + preference) if parameters and tokens else None
        hours = row.get("device_hours")
        return Entry(row["model"], row.get("devices", ""), parameters, tokens, preference, flops, None, hours, scores)

    metrics = tree["metrics"]
    return Paper(
        {f"{table['name']} ({table['source']})": [entry(row) for row in table["rows"]] for table in tree["tables"]},
        {name: metric["unit"] for name, metric in metrics.items()},
        {name: metric.get("logged", "") for name, metric in metrics.items()},
        {name: metric.get("items", ()) for name, metric in metrics.items()},
        [entry(row) for row in tree["endpoints"]],
    )


def read_runs(uri: str, experiment: str, names: Sequence[str], paper: Paper, titles: Mapping[str, str]) -> list[Entry]:
    """Every checkpoint that the runs trained or scored, oldest first; one that several runs share comes once.

    titles: of checkpoints by the stages that make them, in the order of training; the first is not trained.
    """
    found: dict[str, Entry] = {}
    for parent, stages in _search(uri, experiment, names):
        for place, (checkpoint, title) in enumerate(titles.items()):
            if checkpoint not in stages:
                continue
            trained = stages[checkpoint]
            before = list(titles)[1 : place + 1]
            entry = _entry(f"{parent.info.run_name}, {title}", checkpoint, before, stages, parent.data.params, paper)
            known = trained.data.tags.get("slamray.fingerprint", trained.info.run_id)
            if known in found:  # scored again by another command
                entry = _joined(found[known], entry)
            found[known] = entry
    return list(found.values())


def read_sweeps(uri: str, experiment: str, names: Sequence[str]) -> list[SweepEntry]:
    """Every sweep that has come to an answer, oldest first."""
    found = []
    for parent, children in _search(uri, experiment, names):
        if ANSWER not in children:
            continue
        rows = []
        shown = [*yaml.safe_load(parent.data.params.get("sweep.metrics", "[]")), "objective"]
        for label, child in children.items():
            if "seed" in child.data.params and child.data.metrics:  # a trial that was made
                variant = label.removesuffix(f", seed {child.data.params['seed']}")
                measured = child.data.metrics
                rows += [
                    {"variant": variant, "metric": key, "value": measured[key]} for key in shown if key in measured
                ]
        found.append(SweepEntry(parent.info.run_name, parent.data.tags.get("mlflow.note.content", ""), rows))
    return found


def read_beside(uri: str, experiment: str, names: Sequence[str]) -> list[Beside]:
    """Every run of a recipe that has told of a score, oldest first, with its curves and without its sounds."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    found = []
    for parent, _ in _search(uri, experiment, names):
        metrics, tags = parent.data.metrics, parent.data.tags
        if not any(find_metric(key) for key in metrics) or any(key.startswith("sweep.") for key in parent.data.params):
            continue
        wanted = {key for *_, x, y in CURVES for key in (x, y) if key in metrics}
        history = {key: client.get_metric_history(parent.info.run_id, key) for key in wanted}
        began = datetime.fromtimestamp(parent.info.start_time / 1000, UTC)
        found.append(
            Beside(
                parent.info.run_name,
                tags["slamray.run"],
                f"{began:%Y-%m-%d %H:%M} UTC",
                tags.get("mlflow.note.content", ""),
                tags.get("slamray.words", ""),
                tags.get("mlflow.source.git.commit", ""),
                metrics,
                parent.data.params,
                {key: {point.step: point.value for point in points} for key, points in history.items()},
            )
        )
    return found


def _joined(first: Entry, again: Entry) -> Entry:
    return replace(first, scores={**first.scores, **again.scores}, own={**first.own, **again.own})


def _search(uri: str, experiment: str, names: Sequence[str]) -> list[tuple[Any, dict[str, Any]]]:
    """The runs of those names (without names all), oldest first; each with its children by name."""
    from mlflow import MlflowClient  # two seconds
    from mlflow.exceptions import MlflowException

    try:
        client = MlflowClient(tracking_uri=uri)
        wanted = client.get_experiment_by_name(experiment)
        if wanted is None:
            raise BadInput(f"experiment={experiment}: not in {uri}; give tracking.experiment of the runs")
        runs: list[Any] = []
        token: str | None = ""
        while token is not None:
            page = client.search_runs([wanted.experiment_id], order_by=["attributes.start_time ASC"], page_token=token)
            runs += page
            token = page.token or None
    except MlflowException as error:
        raise BadInput(f"{uri}: {reason_of(error)}") from error
    remove_strays(uri)
    ours = [run for run in runs if "slamray.stage" in run.data.tags]
    children: dict[str, dict[str, Any]] = {}
    for run in ours:
        children.setdefault(run.data.tags["slamray.run"], {})[run.data.tags["slamray.stage"]] = run
    parents = [run for run in ours if run.data.tags["slamray.stage"] == "recipe"]
    known = {parent.info.run_name for parent in parents}
    if unknown := set(names) - known:
        raise BadInput(
            f"runs={sorted(unknown)[0]}: no such run in experiment {experiment}; "
            f"there are {', '.join(sorted(known)) or 'none'}"
        )
    return [
        (parent, children[parent.data.tags["slamray.run"]])
        for parent in parents
        if not names or parent.info.run_name in names
    ]


def _entry(
    name: str,
    checkpoint: str,
    trained: Sequence[str],
    stages: Mapping[str, Any],
    params: Mapping[str, str],
    paper: Paper,
) -> Entry:
    """One checkpoint: what the stages that trained it have spent, and its scores."""
    spent = [stages[stage].data.metrics if stage in stages else {} for stage in trained]

    def total(key: str) -> float | None:
        values = [facts.get(key) for facts in spent]
        return None if None in values else sum(value for value in values if value is not None)

    seconds = total("device_seconds")
    scored = _scores(checkpoint, stages, params)
    paper_names = {logged: name for name, logged in paper.logged.items() if logged}
    published = {metric: score for metric, score in scored.items() if metric.partition("-")[0] in paper_names}
    return Entry(
        name,
        f"{params.get('compute.workers', _COMPUTE.workers)} {params.get('compute.device', _COMPUTE.device)}"
        if spent
        else "",
        stages[checkpoint].data.metrics.get("parameters"),
        spent[0].get("tokens") if spent else 0,
        spent[1].get("tokens", 0) if len(spent) > 1 else 0,
        total("flops"),
        total("flops_with_attention"),
        None if seconds is None else seconds / 3600,
        {paper_names[metric.partition("-")[0]]: score for metric, score in published.items()},
        {metric: score for metric, score in scored.items() if metric not in published},
    )


def _scores(checkpoint: str, stages: Mapping[str, Any], params: Mapping[str, str]) -> dict[str, Score]:
    """Figures as readers are shown them (accuracies in %), by metric: of scoring, of jobs/evaluate.py, of GenPPL."""
    found: dict[str, Score] = {}
    for stage, prefix in ((f"scores_{checkpoint}", ""), ("evaluation", f"checkpoints.{checkpoint}.")):
        logged = stages[stage].data.metrics if stage in stages else {}
        start = f"{prefix}figures."
        found |= _figures({key.removeprefix(start): value for key, value in logged.items() if key.startswith(start)})
        start = f"{prefix}gains."
        gains = {key.removeprefix(start): value for key, value in logged.items() if key.startswith(start)}
        found |= _figures({key.replace(".", "_gain.", 1): value for key, value in gains.items()})
    suffix = "" if _as_in_the_paper(params) else "_own_judge"
    for name, metric in METRICS.items():
        if isinstance(metric, ScalarMetric) and not metric.measure:
            stage = f"{metric.needs[0]}_{checkpoint}"
            logged = stages[stage].data.metrics if stage in stages else {}
            if metric.value in logged:
                found[name + suffix] = Score(metric.scale * logged[metric.value], n=int(logged.get(metric.count, 0)))
    return found


def _figures(logged: Mapping[str, float]) -> dict[str, Score]:
    """The score of each metric; logged: by metric.field."""
    found = {}
    for key, value in logged.items():
        name, _, field_name = key.rpartition(".")
        metric = find_metric(name)
        if metric is None or field_name != metric.value:
            continue
        if isinstance(metric, PairMetric | GainMetric):
            low, high = (metric.scale * logged[f"{name}.{end}"] for end in ("low", "high"))
            found[name] = Score(metric.scale * value, low, high, int(logged[f"{name}.{metric.count}"]))
        else:
            found[name] = Score(metric.scale * value)
    return found


def _as_in_the_paper(params: Mapping[str, str]) -> bool:
    """Whether GenPPL was measured with the paper's prompts, recogniser and judge (docs/paper.md 1.10)."""
    given = {key: params.get(f"evaluate.genppl.{key}", getattr(_GENPPL, key)) for key in ("metric", "asr", "judge")}
    kind = given["metric"].partition("-")[0]
    return (kind, given["asr"], given["judge"]) == ("ssc", "openai/whisper-large-v3-turbo", "meta-llama/Llama-3.2-1B")
