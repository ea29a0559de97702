"""Every metric, a row each: what it is measured on and how, and how readers are shown its figure.

A metric of pairs asks which of two recordings the model finds likelier; all of them are scored alike
(pair_scores.py). A scalar metric is a number of one checkpoint. A metric of either sort is one file and one row here
(docs/extend.md).
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from slamray.config.evaluation import ItemsSettings
from slamray.data import corpus_items
from slamray.data.corpus_items import CorpusText
from slamray.data.item_pairs import ItemSet
from slamray.data.published_sets import KINDS, metrics_of_set
from slamray.evaluate.summary import Average

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from slamray.model.sampling import Prompt
    from slamray.tokens.documents import Document
    from slamray.tokens.vocabulary import Vocabulary

# What metrics are measured on; stages/scoring.py says which stages have made it.
CORPUS_ITEMS, PUBLISHED_SETS = "corpus_items", "published_sets"
VALIDATION_PIECES, PROMPTS, GENPPL, TEXTS = "validation_pieces", "prompts", "genppl", "texts"

Modality = Literal["speech", "text"]
READ = "read-"  # begins the names of sounds that follow a text, and no recording


class Material(Protocol):
    """What a run has made, for the functions of scalar metrics; read when it is first used."""

    batch_tokens: int  # padded tokens in a forward pass
    vocabulary: Vocabulary  # of the model

    def validation_pieces(self) -> Sequence[Document]:
        """Pieces of the packed validation rows: of all, or of at most evaluate.perplexity_tokens."""

    def prompts(self, n: int, seed: int) -> Sequence[Prompt]:
        """The first evaluate.sampling.prompt_seconds of n validation documents, drawn by seed, by order of id."""

    def texts(self) -> Iterator[Sequence[int]]:
        """Ids of the validation texts in order, without specials; of text and speech alone."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of text tokens."""

    def text_lm(self) -> PreTrainedModel | None:
        """The text LM that the model began as, untouched; None where it is a shape."""

    def keep_sound(self, name: str, units: np.ndarray) -> None:
        """Have units turned into sound that the report plays."""


@dataclass(frozen=True)
class Column:
    """A column of the report's table of a scalar metric. field: of the metric's facts. digits: decimals shown."""

    field: str
    title: str
    digits: int = 0


@dataclass(frozen=True)
class Metric:
    """What metrics of both sorts have.

    title: for readers. needs: what it is measured on, by the names above. value, count: the fields of its facts that
    are its figure, and of how many items it is one; a field of a nested record is dotted. Readers are shown `scale`
    times the figure (100 for a share in %), with so many digits.
    """

    title: str
    needs: tuple[str, ...]
    value: str
    count: str
    scale: int = 100
    digits: int = 1
    higher_is_better: bool = True

    def show(self, value: float | None) -> str:
        """The figure for a reader; a dash where nothing could be measured."""
        return "-" if value is None else f"{self.scale * value:.{self.digits}f}"


@dataclass(frozen=True)
class PairMetric(Metric):
    """A share of items that are scored right; its facts are an ItemSummary.

    make: from the corpus's text; None: read from evaluate.sets. average: how the figure is made of its items. across:
    of a model of text and speech alone, whether prompt and ending are heard or read; the pairs are those of metric
    `pairs_of`.
    """

    value: str = "accuracy"
    count: str = "n"
    make: Callable[[CorpusText, int], ItemSet] | None = None
    average: Average = "items"
    across: tuple[Modality, Modality] | None = None
    pairs_of: str = ""


@dataclass(frozen=True)
class ScalarMetric(Metric):
    """A number of one checkpoint.

    measure: `package.module:function`, so that only what measures imports it, or the function. It is called with
    (model, Material, ScoringSettings) and returns the metric's facts, a record. None: stages with the name of what is
    needed, one for each checkpoint, leave the facts. heading, columns and note: its table in the report; without
    columns it shows the figure. in_short_table: whether the table that a run prints has a column of it. logarithmic:
    whether the figure is the exponential of the mean over its items, and not their mean.
    """

    measure: str | Callable[..., Any] | None = None
    heading: str = ""
    columns: tuple[Column, ...] = ()
    note: str = ""
    in_short_table: bool = True
    logarithmic: bool = False

    @property
    def shown_columns(self) -> tuple[Column, ...]:
        """The columns of its table in the report."""
        return self.columns or (Column(self.value, self.title, 3),)

    def load(self) -> Callable[..., Any]:
        """The function that measures it."""
        assert self.measure is not None, f"stages of its own measure {self.title}"
        found: Callable[..., Any] = (
            pkgutil.resolve_name(self.measure) if isinstance(self.measure, str) else self.measure
        )
        return found


@dataclass(frozen=True)
class GainMetric(Metric):
    """What the endings of pair metric `of` gain from their own passage, in nats a token; its facts are a PassageGain.

    It comes with that metric, where an ending is scored alone.
    """

    value: str = "nats"
    count: str = "n"
    scale: int = 1
    digits: int = 3
    of: str = ""


def _made(title: str, make: Callable[[CorpusText, int], ItemSet]) -> PairMetric:
    return PairMetric(title, (CORPUS_ITEMS,), make=make)


def _across(title: str, pairs_of: str, prompt: Modality, ending: Modality, needs: str = CORPUS_ITEMS) -> PairMetric:
    return PairMetric(title, (needs,), across=(prompt, ending), pairs_of=pairs_of)


# In the order of WAYS (data/published_sets.py).
_WAYS: tuple[tuple[str, Modality, Modality], ...] = (
    ("S→S", "speech", "speech"),
    ("S→T", "speech", "text"),
    ("T→S", "text", "speech"),
    ("T→T", "text", "text"),
)


AUTO_BLEU_NOTE = (
    "Auto-BLEU-2 (0 to 1): share of a continuation's unit bigrams that occur more than once in it; of units, not of "
    "words as in the paper."
)
GENPPL_NOTE = (
    "Continuations are turned into sound, transcribed, and judged by a text LM; the lower the likelier. GenPPL: the "
    "exponential of the mean over texts, as in the paper. Which recogniser and judge: evaluate.genppl below. Texts in "
    "which nothing was understood take no part."
)
TEXT_NOTE = (
    "The same tokens of texts that no training stage read, among text tokens alone: by the checkpoint, and by the text "
    "LM that it began as."
)
METRICS: dict[str, PairMetric | ScalarMetric | GainMetric] = {
    "perplexity": ScalarMetric(
        "validation perplexity",
        (VALIDATION_PIECES,),
        value="perplexity",
        count="targets",
        scale=1,
        digits=2,
        higher_is_better=False,
        measure="slamray.evaluate.pair_scores:measure_perplexity",
        heading="Validation",
        columns=(
            Column("perplexity", "perplexity", 2),
            Column("loss", "nats per token", 3),
            Column("targets", "tokens"),
        ),
    ),
    # Of a model of text and speech.
    "text_perplexity": ScalarMetric(
        "text perplexity",
        (TEXTS,),
        value="perplexity",
        count="targets",
        scale=1,
        digits=2,
        higher_is_better=False,
        measure="slamray.evaluate.text_perplexity:measure_text_perplexity",
        heading="Held-out text",
        columns=(
            Column("perplexity", "perplexity", 2),
            Column("base_perplexity", "of the text LM before", 2),
            Column("forgotten", "forgotten, nats per token", 3),
            Column("targets", "tokens"),
        ),
        note=TEXT_NOTE,
    ),
    "text_continuations": ScalarMetric(
        "Auto-BLEU of text",
        (PROMPTS, TEXTS),
        value="auto_bleu",
        count="continuations",
        digits=2,
        higher_is_better=False,
        measure="slamray.evaluate.text_continuations:measure_text_continuations",
        heading="Continuations in text",
        columns=(
            Column("continuations", "n"),
            Column("ended", "ended"),
            Column("mean_tokens", "mean tokens", 1),
            Column("auto_bleu", "auto-BLEU-2", 3),
        ),
        note="After prompts that were heard and as many that were read; auto-BLEU-2 is of words.",
        in_short_table=False,
    ),
    "topic_cloze": _made("Topic cloze", corpus_items.topic_cloze),
    "sentence_order": _made("Sentence order", corpus_items.sentence_order),
    "words": _made("Word alone", corpus_items.words),
    "words_in_sentence": _made("Word in sentence", corpus_items.words_in_sentence),
    "grammar": _made("Grammar", corpus_items.grammar),
    "unit_auto_bleu": ScalarMetric(
        "Auto-BLEU of units",
        (PROMPTS,),
        value="auto_bleu",
        count="continuations",
        digits=2,
        higher_is_better=False,
        measure="slamray.evaluate.continuations:measure_auto_bleu",
        heading="Continuations",
        columns=(
            Column("continuations", "n"),
            Column("empty", "empty"),
            Column("ended", "ended"),
            Column("mean_units", "mean units", 1),
            Column("auto_bleu", "auto-BLEU-2", 3),
        ),
        note=AUTO_BLEU_NOTE,
        in_short_table=False,
    ),
    "genppl": ScalarMetric(
        "GenPPL",
        (GENPPL,),
        value="with_prompt.perplexity",
        count="with_prompt.utterances",
        scale=1,
        higher_is_better=False,
        heading="As it is understood (GenPPL)",
        columns=(
            Column("utterances", "n"),
            Column("empty", "nothing understood"),
            Column("perplexity", "GenPPL", 1),
            Column("token_perplexity", "over all tokens", 1),
            Column("auto_bleu", "auto-BLEU-2", 3),
        ),
        note=GENPPL_NOTE,
        logarithmic=True,
    ),
    "auto_bleu": ScalarMetric(
        "Auto-BLEU",
        (GENPPL,),
        value="with_prompt.auto_bleu",
        count="with_prompt.utterances",
        digits=2,
        higher_is_better=False,
    ),
    # Of a model of text and speech; S is heard, T is read. evaluate.scored says what is scored (cross_modal.py).
    "topic_cloze_ss": _across("Topic cloze S→S", "topic_cloze", "speech", "speech"),
    "topic_cloze_st": _across("Topic cloze S→T", "topic_cloze", "speech", "text"),
    "topic_cloze_ts": _across("Topic cloze T→S", "topic_cloze", "text", "speech"),
    "topic_cloze_tt": _across("Topic cloze T→T", "topic_cloze", "text", "text"),
    **{
        f"topic_cloze_{way}_gain": GainMetric(f"Gain {arrow}, nats a token", (CORPUS_ITEMS,), of=f"topic_cloze_{way}")
        for way, (arrow, _, _) in zip(("ss", "st", "ts", "tt"), _WAYS, strict=True)
    },
    "sentence_order_t": _across("Sentence order, read", "sentence_order", "text", "text"),
    "grammar_t": _across("Grammar, read", "grammar", "text", "text"),
    **{
        name: PairMetric(kind.title, (PUBLISHED_SETS,), average=kind.average)
        for name, kind in KINDS.items()
        if not kind.across
    },
    **{
        metric: _across(f"{kind.title} {arrow}", name, prompt, ending, PUBLISHED_SETS)
        for name, kind in KINDS.items()
        if kind.across
        for metric, (arrow, prompt, ending) in zip(metrics_of_set(name), _WAYS, strict=True)
    },
}


def find_metric(name: str) -> PairMetric | ScalarMetric | GainMetric | None:
    """The row of a metric, or of the kind of a published set (`sblimp-dev` is an sblimp); None where there is none."""
    return METRICS.get(name) or METRICS.get(name.partition("-")[0])


def metric_of(name: str) -> PairMetric | ScalarMetric | GainMetric:
    """The same, of a metric that is there."""
    found = find_metric(name)
    assert found is not None, f"{name} is no metric of evaluate/metrics.py"
    return found


def corpus_metrics() -> dict[str, PairMetric]:
    """The metrics of pairs that are made from the corpus's text."""
    return {name: row for name, row in METRICS.items() if isinstance(row, PairMetric) and row.make}


def run_metrics(joint: bool = False) -> list[str]:
    """Names of the metrics that a run measures of every checkpoint without published sets. joint: of text and speech"""
    made = [
        name
        for name, row in METRICS.items()
        if (isinstance(row, PairMetric) and row.make) or (isinstance(row, ScalarMetric) and row.measure)
    ]
    own = [name for name in made if joint or TEXTS not in METRICS[name].needs]
    across = (name for name, row in METRICS.items() if isinstance(row, PairMetric) and row.across)
    return own + [name for name in across if joint and CORPUS_ITEMS in METRICS[name].needs]


def genppl_metrics() -> list[str]:
    """Names of the metrics that stages `genppl_*` measure, where a recipe asks for them."""
    return [name for name, row in METRICS.items() if GENPPL in row.needs]


def gains_of(metrics: Iterable[str]) -> dict[str, str]:
    """What the endings of these metrics gain from their passages: its name, and that of the metric."""
    wanted = set(metrics)
    return {name: row.of for name, row in METRICS.items() if isinstance(row, GainMetric) and row.of in wanted}


def make_items(text: CorpusText, rules: ItemsSettings) -> Sequence[ItemSet]:
    """The items of every metric that `rules` wants pairs of."""
    wanted = {name: rules.pairs(name) for name in corpus_metrics()}
    return [row.make(text, wanted[name]) for name, row in corpus_metrics().items() if row.make and wanted[name]]


def field_of(facts: Mapping[str, Any], name: str) -> Any:
    """A field of facts as a manifest has them, by its dotted name."""
    found: Any = facts
    for part in name.split("."):
        found = found[part]
    return found
