"""What the whole of a run will take: hours, core-hours, GPU-hours, disk, memory and cost, for `--plan`.

Counted from rates that jobs/calibrate.py has measured, or that words give. Stages are counted one after another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slamray import store
from slamray.config.budget import parse_budget
from slamray.config.compute import Compute
from slamray.config.rates import RATES, Rates
from slamray.config.training import PretrainSettings
from slamray.config.tree import Recipe
from slamray.data.text import TRAIN, VALIDATION
from slamray.evaluate.metrics import corpus_metrics
from slamray.stage.folder import Folder
from slamray.stage.parts import PART_ROWS
from slamray.stage.stage import Stage
from slamray.stages import planning, spoken_text, tasks, text_to_token
from slamray.stages.checkpoints import ALIGNED, PRETRAINED, UNTRAINED
from slamray.stages.questions import PASSAGE_SENTENCES
from slamray.stages.scores import SCORING
from slamray.stages.units import SPEAKING

UNITS_BYTES = 3_677  # of a story as units, and PACKED_BYTES of it in packed rows (the demo's, 2026-11-30)
PACKED_BYTES = 1_100 * 2
WEIGHT_BYTES = 4  # of a parameter
CHECKPOINT_BYTES = 2 * 3 * WEIGHT_BYTES  # two are kept while a training goes on: weights and two moments
CHECKPOINT_FILES = 5  # about
UNITS_PER_WORD = 8  # that a text-to-token model makes, about: 20 units a second (docs/paper.md 1.2), 2.5 words
WORD_SENTENCES = 0.2  # a word by itself is about a fifth of a sentence; chosen, not tuned
UNMEASURED = "not measured"


@dataclass(frozen=True)
class About:
    """What rates were measured of; others are not those of a recipe."""

    voice: str
    encoder: str
    encoder_device: str
    device: str
    parameters: int


@dataclass(frozen=True)
class Calibration:
    """rates.json: rates, what they are of, and where and when they were measured."""

    rates: Rates
    about: About
    measured: str

    def to_json(self) -> dict[str, Any]:
        rates = self.rates.model_dump(exclude_none=True)
        return {"rates": rates, "about": asdict(self.about), "measured": self.measured}

    @classmethod
    def read(cls, path: Path) -> Calibration:
        """BadInput names the file when it is damaged."""
        tree = store.read_json(path)
        return cls(Rates.model_validate(tree["rates"]), About(**tree["about"]), str(tree["measured"]))


def about(recipe: Recipe, parameters: int) -> About:
    """What rates of this recipe are of."""
    compute, speech = recipe.compute, recipe.speech
    encoder_device = "cuda" if compute.encoder_gpus else "cpu"
    return About(speech.tts.backend, speech.encoder.model, encoder_device, compute.device, parameters)


def fitting(found: Calibration, own: About) -> Rates:
    """Of measured rates those that hold for this recipe; a model's cost is taken to be in proportion to its size."""
    rates, of, ratio = found.rates, found.about, found.about.parameters / own.parameters
    unfit: dict[str, None] = {}
    if of.voice != own.voice:
        unfit |= dict.fromkeys(("speak", "document_seconds", "sentence_seconds"))
    if (of.encoder, of.encoder_device) != (own.encoder, own.encoder_device):
        unfit |= dict.fromkeys(("encode", "speech_mb"))
    if of.device != own.device:
        unfit |= dict.fromkeys(("flops", "pairs", "scored", "spoken_units", "training_mb", "scoring_mb"))
    if of.parameters != own.parameters:
        unfit |= dict.fromkeys(("training_mb", "scoring_mb"))
    sized = {"pairs": rates.pairs and rates.pairs * ratio, "scored": rates.scored and rates.scored * ratio}
    return rates.model_copy(update={**sized, **unfit})


@dataclass(frozen=True)
class Load:
    """What one stage takes. hours: None where that cannot be known; then `unknown` says why."""

    stage: str
    hours: float | None
    cores: float
    gpus: float
    unknown: str = ""
    documents: float = 0  # that are made into units
    weights: float = 0  # bytes of the model that it leaves
    keeps_checkpoints: bool = False
    shards: float = 0

    @property
    def disk_bytes(self) -> float:
        return self.documents * UNITS_BYTES + self.weights


@dataclass(frozen=True)
class Estimate:
    """What the stages take that can be counted; others: names of those that cannot."""

    recipe: Recipe
    rates: Rates
    source: str  # of the rates
    loads: Sequence[Load]
    others: Sequence[str]

    def sum(self) -> str:
        """Hours, core-hours, GPU-hours and disk of all of them, one line."""
        least = "" if self.is_sure else "at least "
        total, cores, gpus = (_sum(self.loads, factor) for factor in (_one, _cores, _gpus))
        hours = f"{least}{_show(total)} hours, {_show(cores)} core-hours, {_show(gpus)} GPU-hours"
        return f"{hours}; {_bytes(self.disk_bytes)} of disk"

    @property
    def is_sure(self) -> bool:
        """Whether the hours of every load are known."""
        return all(load.hours is not None for load in self.loads)

    @property
    def disk_bytes(self) -> float:
        """Of all that is left, and of the checkpoints of one training at a time."""
        disk = sum(load.disk_bytes for load in self.loads)
        spoken = sum(load.documents for load in self.loads if load.stage == "units")
        kept = max((load.weights for load in self.loads if load.keeps_checkpoints), default=0)
        return disk + spoken * PACKED_BYTES + CHECKPOINT_BYTES / WEIGHT_BYTES * kept


def estimate(recipe: Recipe, stages: Sequence[Stage]) -> Estimate | None:
    """Of the stages that are not done; None where none of them can be counted."""
    root = Folder(recipe.root)
    todo = [stage for stage in stages if not stage.is_done(root)]
    counted = [stage for stage in todo if _kind(stage)]
    if not counted:
        return None
    parameters = planning.parameters(recipe)
    rates, source = _rates(recipe, about(recipe, parameters))
    known = {stage.name: stage for stage in stages}
    loads = [_load(stage.name, recipe, rates, parameters, known) for stage in counted]
    return Estimate(recipe, rates, source, loads, [stage.name for stage in todo if stage not in counted])


def lines(recipe: Recipe, stages: Sequence[Stage]) -> list[str]:
    """The sum over the stages that are not done; nothing where none of them can be counted."""
    found = estimate(recipe, stages)
    return _text(found) if found else []


def _kind(stage: Stage) -> str:
    """How a stage is counted, if it is."""
    if stage.group in (SPEAKING, SCORING):
        return stage.group
    counted = (UNTRAINED.stage, PRETRAINED.stage, ALIGNED.stage, text_to_token.NAME, spoken_text.NAME)
    return stage.name if stage.name in counted else ""


def _rates(recipe: Recipe, own: About) -> tuple[Rates, str]:
    """The rates to count with, and whose they are."""
    path = Path(recipe.root) / RATES
    given = recipe.rates.model_dump(exclude_none=True)
    if not path.exists():
        return recipe.rates, "rates given" if given else "no rates"
    found = Calibration.read(path)
    both = fitting(found, own).model_copy(update=given)
    return both, f"rates of {found.measured}" + (", and given ones" if given else "")


def _load(name: str, recipe: Recipe, rates: Rates, parameters: int, known: dict[str, Stage]) -> Load:
    compute = recipe.compute
    weights = WEIGHT_BYTES * parameters
    workers, worker_gpus = compute.workers, compute.workers if compute.device == "cuda" else 0
    cores = workers * compute.cpus_per_worker
    if name == UNTRAINED.stage:
        return Load(name, 0.0, 1, 0, weights=weights)
    if name == PRETRAINED.stage:
        hours = _training_hours(recipe.pretrain, recipe.compute, rates, parameters)
        return Load(name, hours, cores, worker_gpus, _missing(hours, "flops"), 0, weights, True)
    if name == text_to_token.NAME:
        own = planning.parameters(recipe.model_copy(update={"model": text_to_token.model_of(recipe)}))
        hours = _training_hours(recipe.joint.text_to_token.pretrain, recipe.compute, rates, own)
        return Load(name, hours, cores, worker_gpus, _missing(hours, "flops"), 0, WEIGHT_BYTES * own, True)
    if name == spoken_text.NAME:
        return _spoken_text(recipe, rates, known)
    if name == ALIGNED.stage:
        hours = _dpo_hours(recipe, rates)
        return Load(name, hours, cores, worker_gpus, _missing(hours, "pairs"), 0, weights, True)
    if known[name].group == SCORING:
        hours = _over(_pairs(recipe) / compute.score_actors, rates.scored)
        gpus = compute.score_actors if compute.device == "cuda" else 0
        return Load(name, hours, compute.score_actors, gpus, _missing(hours, "scored"))
    return _speech(name, recipe, rates, known)


def _missing(hours: float | None, rate: str) -> str:
    return f"rates.{rate} {UNMEASURED}" if hours is None else ""


def _over(amount: float, rate: float | None) -> float | None:
    """Hours of an amount at a rate a second."""
    return None if rate is None else amount / rate / 3600


def _training_hours(pretrain: PretrainSettings, compute: Compute, rates: Rates, parameters: int) -> float | None:
    budget = parse_budget(pretrain.budget, "pretrain.budget")
    if budget.kind == "time":
        return budget.amount / 3600
    per_step = 6.0 * parameters * pretrain.tokens_per_step
    flops = {"steps": budget.amount * per_step, "tokens": 6.0 * parameters * budget.amount, "flops": budget.amount}
    speed = rates.flops * compute.workers if rates.flops else planning.expected_speed(compute)
    return _over(flops[budget.kind], speed)


def _spoken_text(recipe: Recipe, rates: Rates, known: dict[str, Stage]) -> Load:
    """Text through the text-to-token model: the spoken share of the words of as many documents as are asked for."""
    root, actors = Path(recipe.root), recipe.compute.score_actors
    gpus = actors if recipe.compute.device == "cuda" else 0
    (text,) = (stage for stage in known[spoken_text.NAME].inputs if stage.name != text_to_token.NAME)
    if not text.is_done(root):
        return Load(spoken_text.NAME, None, actors, gpus, f"how many words there are is known when {text.name} is done")
    facts = text.manifest(root)["facts"]
    documents = recipe.joint.synthetic_documents or facts[TRAIN]
    words = documents * facts["words"] / facts["documents"]
    hours = _over(words * recipe.joint.interleave.share * UNITS_PER_WORD / actors, rates.spoken_units)
    return Load(spoken_text.NAME, hours, actors, gpus, _missing(hours, "spoken_units"))


def _dpo_hours(recipe: Recipe, rates: Rates) -> float | None:
    assert recipe.dpo.budget is not None, "a recipe without DPO has no such stage"
    budget = parse_budget(recipe.dpo.budget, "dpo.budget")
    if budget.kind == "time":
        return budget.amount / 3600
    if budget.kind != "steps":
        return None  # how long pairs are is not known before they are spoken
    return _over(budget.amount * recipe.dpo.pairs_per_step / recipe.compute.workers, rates.pairs)


def _pairs(recipe: Recipe) -> int:
    """Test pairs of the items, as many as are asked for."""
    return sum(recipe.evaluate.items.pairs(name) for name in corpus_metrics())


def _speech(name: str, recipe: Recipe, rates: Rates, known: dict[str, Stage]) -> Load:
    """A stage that speaks: its audio through voice and encoder."""
    compute = recipe.compute
    documents, sentences, unknown = _spoken(name, recipe, known)
    hours, per_document = None, rates.document_seconds or 0
    if not unknown:
        unsaid = ("speak", "encode", "document_seconds" if documents else "sentence_seconds")
        missing = [f"rates.{rate}" for rate in unsaid if getattr(rates, rate) is None]
        audio = documents * per_document + sentences * (rates.sentence_seconds or 0)
        if missing:
            unknown = f"{', '.join(missing)} {UNMEASURED}"
        elif rates.speak and rates.encode:
            hours = _speech_seconds(audio / rates.speak, audio / rates.encode, compute) / 3600
    cores = compute.encoder_actors + (compute.tts_actors if compute.encoder_gpus else 0)
    alike = documents + sentences * (rates.sentence_seconds or 0) / per_document if per_document else documents
    shards = (documents or sentences) / recipe.speech.shard_documents
    return Load(name, hours, cores, compute.encoder_actors * compute.encoder_gpus, unknown, alike, shards=shards)


def _speech_seconds(speaking: float, encoding: float, compute: Compute) -> float:
    """Of work of one core each: beside a GPU the slower of the two decides, else every actor does both."""
    if compute.encoder_gpus:
        return max(speaking / compute.tts_actors, encoding / compute.encoder_actors)
    return (speaking + encoding) / compute.encoder_actors


def _spoken(name: str, recipe: Recipe, known: dict[str, Stage]) -> tuple[float, float, str]:
    """Documents and single sentences that a stage speaks, about; or why that is not known."""
    if name == "units":
        return _units(recipe, known["corpus"])
    if name == "items":
        items = recipe.evaluate.items
        sentences = items.topic_cloze * (items.prompt_sentences + 2) + items.sentence_order * items.order_sentences
        sentences += 2 * (items.words_in_sentence + items.grammar)
        return 0, sentences + 2 * WORD_SENTENCES * items.words, ""
    if name == "story_questions":
        return 0, recipe.evaluate.questions.stories * (PASSAGE_SENTENCES + 1), ""
    if name == tasks.SENTENCES:
        return 0, recipe.evaluate.task_sentences, ""
    preferences = recipe.preferences
    if preferences.source == "spoken_swag" or not preferences.max_pairs:
        return 0, 0, "how many pairs there are is not known before they are read; give preferences.max_pairs"
    of_a_pair = preferences.prompt_sentences + 2 * preferences.continuation_sentences
    return 0, (preferences.max_pairs + preferences.heldout_pairs) * of_a_pair, ""


def _units(recipe: Recipe, corpus: Stage) -> tuple[float, float, str]:
    """0 of a split stands for all of it."""
    speech, root = recipe.speech, Path(recipe.root)
    asked = {TRAIN: speech.train_documents, VALIDATION: speech.validation_documents}
    if 0 not in asked.values():
        return sum(count or 0 for count in asked.values()), 0, ""
    if not corpus.is_done(root):
        return 0, 0, "how many documents there are is not known before the stage corpus is done"
    facts = corpus.manifest(root)["facts"]
    return sum(facts[split] if count == 0 else count or 0 for split, count in asked.items()), 0, ""


def _text(counted: Estimate) -> list[str]:
    recipe, rates, loads, disk = counted.recipe, counted.rates, counted.loads, counted.disk_bytes
    others = ", ".join(counted.others) or "none"
    found = [f"the whole recipe, stages one after another, {counted.source}; not counted: {others}"]
    for load in loads:
        hours = _show(load.hours) if load.hours is not None else "?"
        beside = f" + {load.gpus:g} GPUs" if load.gpus else ""
        found.append(f"  {load.stage:<19}{hours} h x {load.cores:g} cores{beside}{load.unknown and ': '}{load.unknown}")
    cores, gpus = _sum(loads, _cores), _sum(loads, _gpus)
    least = "" if counted.is_sure else "at least "
    found.append(f"  {counted.sum()}{_writing(disk, rates)}")
    found.append(f"  memory: {_memory(rates)}")
    found += _driver(recipe, rates)
    requests = _requests(recipe, loads)
    if requests:
        found.append(f"  about {requests:,.0f} requests to an object store, where root is one")
    cost = _cost(recipe, cores, gpus, disk, requests)
    if cost:
        found.append(f"  cost: {least}{cost}")
    unmeasured = any(UNMEASURED in line for line in found)
    return [*found, f"  {UNMEASURED}: run jobs/calibrate.py with the same words"] if unmeasured else found


def _one(load: Load) -> float:
    return 1.0


def _cores(load: Load) -> float:
    return load.cores


def _gpus(load: Load) -> float:
    return load.gpus


def _sum(loads: Sequence[Load], factor: Callable[[Load], float]) -> float:
    return sum((load.hours or 0) * factor(load) for load in loads)


def _show(hours: float) -> str:
    return f"{hours:,.1f}" if hours >= 10 else f"{hours:.3g}"


def _bytes(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"


def _writing(disk: float, rates: Rates) -> str:
    """How long the disk takes for it, where that is worth a word."""
    hours = _over(disk / 1e6, rates.disk_mb) or 0
    return f", written in {_show(hours)} h at the least" if hours > 0.01 else ""


def _memory(rates: Rates) -> str:
    names = {
        "driver_mb": "the driver",
        "speech_mb": "an actor that speaks and encodes",
        "training_mb": "a training worker",
        "scoring_mb": "an actor that scores",
    }
    known = {name: getattr(rates, name) for name in names}
    said = [f"{names[name]} {value / 1000:.1f} GB" for name, value in known.items() if value is not None]
    missing = [names[name] for name, value in known.items() if value is None]
    return ", ".join(said + ([f"{', '.join(missing)} {UNMEASURED}"] if missing else []))


def _driver(recipe: Recipe, rates: Rates) -> list[str]:
    """How many actors the driver can keep busy with shards of documents."""
    if rates.shards is None or not (rates.speak and rates.encode and rates.document_seconds):
        return []
    audio = rates.document_seconds * recipe.speech.shard_documents
    seconds = audio / rates.speak + (0 if recipe.compute.encoder_gpus else audio / rates.encode)
    return [
        f"  a shard of {recipe.speech.shard_documents} documents takes a core {seconds:.3g} s: the driver, at "
        f"{rates.shards:,.0f} shards a second, keeps up with {rates.shards * seconds:,.0f} actors"
    ]


def _requests(recipe: Recipe, loads: Sequence[Load]) -> float:
    """Shards are put and read, parts and their quarantine put and read; a checkpoint is put as often as one is due."""
    due = recipe.compute.checkpoint_every_seconds / 3600
    total = 0.0
    for load in loads:
        total += 2 * load.shards + 4 * -(-load.documents // PART_ROWS)
        total += CHECKPOINT_FILES * (load.hours or 0) / due if load.keeps_checkpoints else 0
    return total


def _cost(recipe: Recipe, cores: float, gpus: float, disk: float, requests: float) -> str:
    prices = recipe.prices
    parts = {
        "cores": (cores, prices.core_hour),
        "GPUs": (gpus, prices.gpu_hour),
        "disk for a month": (disk / 1e9, prices.gb_month),
        "requests": (requests / 1000, prices.thousand_requests),
    }
    priced = {name: amount * price for name, (amount, price) in parts.items() if price is not None}
    named = ", ".join(f"{name} {value:,.2f}" for name, value in priced.items())
    return f"{sum(priced.values()):,.2f} ({named})" if priced else ""
