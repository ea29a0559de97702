"""Stages `genppl_*`: GenPPL of one checkpoint, step by step, so that no two large models need be in memory together.

    continue (unit LM) | vocode --> transcribe (Whisper) | judge (text LM)

Each step goes through all chunks of prompts and leaves a file for each; audio is passed on and, some samples excepted,
never stored. The kernels are in genppl_kernels.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from slamray.config.base import part_of
from slamray.config.evaluation import GenPplSettings, SamplingSettings, ScoringSettings
from slamray.config.tree import Recipe
from slamray.data.item_pairs import ItemPair
from slamray.errors import BadInput
from slamray.speech.encoders.table import check_encoder
from slamray.stage.folder import Folder
from slamray.stage.stage import Inputs, Stage
from slamray.stage.tables import read_units
from slamray.stage.work import Machine, Pool
from slamray.stages import items, published
from slamray.stages.checkpoints import MODEL
from slamray.tokens.autobleu import auto_bleu, word_tokens

PROMPTS, ROWS = "prompts.parquet", "genppl.parquet"
PROMPT_SCHEMA = pa.schema([("prompt_id", pa.string()), ("units", pa.list_(pa.uint16()))])
STEPS = ("continued", "heard", "judged")
_JUDGED = (("text", pa.string()), ("nll", pa.float64()), ("tokens", pa.int64()))
SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("units", pa.list_(pa.uint16())),
        ("ended", pa.bool_()),
        ("seconds", pa.float64()),
        *((f"{name}{part}", kind) for part in ("", "_alone") for name, kind in _JUDGED),
    ]
)


@dataclass(frozen=True)
class Chunk:
    """Prompts that are continued, spoken and judged together: a row group of the stage's file of prompts."""

    number: int
    out: str


@dataclass(frozen=True)
class TextFigures:
    """Of all texts: how many, how many hold nothing to score, and figures that are None where all are empty."""

    utterances: int
    empty: int
    perplexity: float | None
    token_perplexity: float | None
    auto_bleu: float | None


@dataclass(frozen=True)
class GenPplFacts:
    """Figures of the text with the prompt and without; cut_at_30_s: longer than what the recogniser hears at once."""

    with_prompt: TextFigures
    continuation: TextFigures
    prompts: int
    without_units: int
    cut_at_30_s: int


def stages(recipe: Recipe, checkpoints: Sequence[Stage], sources: Sequence[Stage]) -> tuple[Stage, ...]:
    """One for each checkpoint, where the recipe asks for GenPPL; sources: the stages that hold items."""
    asked = recipe.evaluate.genppl
    if not asked.prompts:
        return ()
    settings = {
        "genppl": asked,
        "scoring": part_of(recipe.evaluate, ScoringSettings),
        "rate_hz": check_encoder(recipe.speech.encoder).rate_hz,
    }
    cost = f"{asked.prompts} continuations through {asked.asr} and {asked.judge}"
    return tuple(
        Stage(
            f"genppl_{checkpoint.name}",
            run,
            {"checkpoint": checkpoint.name, **settings},
            (checkpoint, *sources),
            cost=lambda: cost,
        )
        for checkpoint in checkpoints
    )


def run(
    inputs: Inputs,
    out: Folder,
    machine: Machine,
    checkpoint: str,
    genppl: GenPplSettings,
    scoring: ScoringSettings,
    rate_hz: float,
) -> GenPplFacts:
    """Continue, speak, transcribe and judge; a row for each prompt to Parquet."""
    chunks = _chunks(inputs, out, genppl, scoring.sampling, rate_hz)
    model = str(inputs[checkpoint] / MODEL)
    for step, pools in _pools(machine, model, genppl, scoring).items():
        todo = [chunk for chunk in chunks if not out.exists(chunk_file(chunk.number, step))]
        machine.rows(f"genppl_{checkpoint}: {step}", todo, pools, len(chunks), "chunks")
    return _facts(out, chunks)


def _pools(machine: Machine, model: str, genppl: GenPplSettings, scoring: ScoringSettings) -> dict[str, list[Pool]]:
    """The actors of each step."""
    compute = machine.compute
    cuda = compute.device == "cuda"
    device, gpus, actors = ("cuda", 1, compute.score_actors) if cuda else ("cpu", 0, compute.score_actors)

    def pool(kernel: str, actors: int, gpus: float, **args: Any) -> Pool:
        return Pool(f"slamray.stages.genppl_kernels:{kernel}", args, actors, gpus=gpus)

    asr = {"model": genppl.asr, "revision": genppl.asr_revision, "device": device}
    judge = {"model": genppl.judge, "revision": genppl.judge_revision, "device": device}
    return {
        "continued": [pool("Continue", actors, gpus, model=model, sampling=scoring.sampling, device=device)],
        "heard": [
            pool("Vocode", compute.tts_actors, 0, vocoder=scoring.vocoder, samples=genppl.audio_samples),
            pool("Transcribe", actors if cuda else 1, gpus, **asr),
        ],
        "judged": [pool("JudgeTexts", actors, gpus, **judge)],
    }


def chunk_file(number: int, step: str) -> str:
    """Where a step's result for a chunk lies, below the stage's folder: a JSON list, a row for each prompt."""
    return f"chunks/{number:06d}.{step}.json"


def _chunks(
    inputs: Inputs, out: Folder, genppl: GenPplSettings, sampling: SamplingSettings, rate_hz: float
) -> list[Chunk]:
    """The prompts, drawn and written down, a row group a chunk."""
    from slamray.evaluate.generative_perplexity import correct_prompts
    from slamray.model.sampling import choose_prompts

    known = _pairs(inputs)
    pairs = [pair for pair in known if pair.metric == genppl.metric]
    if not pairs:
        found = " ".join(sorted({pair.metric for pair in known}))
        raise BadInput(f"evaluate.genppl.metric={genppl.metric}: no items of it; there are {found or 'none'}")
    prompts = {p.prompt_id: p for p in correct_prompts(pairs, _spoken(inputs), sampling.prompt_seconds, rate_hz)}
    chosen = choose_prompts(prompts, genppl.prompts, genppl.seed)
    rows = [{"prompt_id": prompt_id, "units": prompts[prompt_id].units.tolist()} for prompt_id in chosen]
    size = sampling.batch
    out.write_table(PROMPTS, pa.Table.from_pylist(rows, PROMPT_SCHEMA), group_rows=size)
    return [Chunk(number, str(out)) for number in range(-(-len(rows) // size))]


def _spoken(inputs: Inputs) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Units and durations of every utterance of the items, by id."""
    spoken: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name in ("items", "published"):
        if name in inputs:
            for row in read_units(inputs[name], ["utterance_id", "units", "durations"]).to_pylist():
                spoken[row["utterance_id"]] = np.array(row["units"], np.uint16), np.array(row["durations"], np.uint16)
    return spoken


def _pairs(inputs: Inputs) -> list[ItemPair]:
    found = list(items.read(inputs["items"]).pairs) if "items" in inputs else []
    return found + (published.read(inputs["published"]) if "published" in inputs else [])


def judged_values(folder: Folder, metric: str) -> np.ndarray:
    """Of each prompt, the value of one of the stage's metrics in the order of their ids; NaN where none was understood.

    Their mean is the figure; of GenPPL its logarithm.
    """
    rows = folder.read_table(ROWS, columns=["prompt_id", "text", "nll", "tokens"]).to_pylist()
    rows.sort(key=lambda row: row["prompt_id"])
    if metric == "genppl":
        return np.array([row["nll"] / row["tokens"] if row["tokens"] else np.nan for row in rows])
    words = [word_tokens(row["text"]) for row in rows]
    return np.array([auto_bleu(tokens) if tokens else np.nan for tokens in words])


def _facts(out: Folder, chunks: Sequence[Chunk]) -> GenPplFacts:
    from slamray.evaluate.generative_perplexity import WINDOW_SECONDS, Likelihood, generative_perplexity, mean_auto_bleu

    rows: list[dict[str, Any]] = []
    for chunk in chunks:
        steps = zip(*(out.read_json(chunk_file(chunk.number, step)) for step in STEPS), strict=True)
        rows += [continued | heard | judged for continued, heard, judged in steps]
    out.write_table(ROWS, pa.Table.from_pylist(rows, SCHEMA))

    def figures(part: str) -> TextFigures:
        likelihoods = [Likelihood(row[f"nll{part}"], row[f"tokens{part}"]) for row in rows]
        repeated = mean_auto_bleu([row[f"text{part}"] for row in rows])
        return TextFigures(**generative_perplexity(likelihoods), auto_bleu=repeated)

    return GenPplFacts(
        with_prompt=figures(""),
        continuation=figures("_alone"),
        prompts=len(rows),
        without_units=sum(not row["units"] for row in rows),
        cut_at_30_s=sum(row["seconds"] > WINDOW_SECONDS for row in rows),
    )
