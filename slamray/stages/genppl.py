"""Stages `genppl_*`: GenPPL of one checkpoint, step by step, so that no two large models need be in memory together.

    continue (unit LM) | vocode --> transcribe (Whisper) | judge (text LM)

Each step goes through all chunks of prompts and leaves a file for each; audio is passed on and, some samples excepted,
never stored. The kernels are in genppl_kernels.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from slamray.config.compute import Compute
from slamray.config.evaluation import EvaluateSettings
from slamray.data.items import Pair
from slamray.errors import BadInput
from slamray.stage import store, tables
from slamray.stage.stage import Asking, Facts, Folders
from slamray.stage.work import Pool, Row, Stream
from slamray.stages import items, published, tasks, training
from slamray.stages.outside import content_of

PROMPTS, ROWS = "prompts.json", "genppl.parquet"
STEPS = ("continued", "heard", "judged")
SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()), ("units", pa.list_(pa.uint16())), ("ended", pa.bool_()), ("seconds", pa.float64()),
        *((f"{what}{part}", kind) for part in ("", "_alone") for what, kind in
          (("text", pa.string()), ("nll", pa.float64()), ("tokens", pa.int64()))),
    ]
)  # fmt: skip


def _continuing(**args: Any) -> Callable[[Row], Row]:
    from slamray.stages.genppl_kernels import Continue  # imported on the actor: the driver loads no torch

    return Continue(**args)


def _vocoding(**args: Any) -> Callable[[Row], Row]:
    from slamray.stages.genppl_kernels import Vocode

    return Vocode(**args)


def _transcribing(**args: Any) -> Callable[[Row], Row]:
    from slamray.stages.genppl_kernels import Transcribe

    return Transcribe(**args)


def _judging(**args: Any) -> Callable[[Row], Row]:
    from slamray.stages.genppl_kernels import JudgeTexts

    return JudgeTexts(**args)


def identity(config: EvaluateSettings) -> dict[str, Any]:
    """What changes the result: the models by content, the sampling, which prompts."""
    asked = config.genppl
    return {
        "asr": content_of(asked.asr, asked.asr_revision, "evaluate.genppl.asr"),
        "judge": content_of(asked.judge, asked.judge_revision, "evaluate.genppl.judge"),
        "vocoder": content_of(config.vocoder, None, "evaluate.vocoder"),
        "prompts": [asked.prompts, asked.metric, asked.seed], "audio_samples": asked.audio_samples,
        "sampling": {k: v for k, v in config.sampling.model_dump(mode="json").items() if k != "prompts"},
    }  # fmt: skip


def run(
    folders: Folders, out: Path, checkpoint: str, config: EvaluateSettings, rate_hz: float, compute: Compute
) -> Asking:
    """Continue, speak, transcribe and judge; a row for each prompt to Parquet, the figures to the facts."""
    chunks = _chunks(folders, out, config, rate_hz)
    cuda = compute.device == "cuda"
    device: dict[str, Any] = {"device": "cuda" if cuda else "cpu", "out": str(out)}
    actors, gpus, asked = compute.score_actors, 1 if cuda else 0, config.genppl
    speaker = {"vocoder": config.vocoder, "samples": asked.audio_samples, "out": str(out)}
    unit_lm = {"model": str(folders[checkpoint] / training.MODEL), "sampling": config.sampling.model_dump()}
    whisper = {"model": asked.asr, "revision": asked.asr_revision}
    text_lm = {"model": asked.judge, "revision": asked.judge_revision}
    steps = {
        "continued": [Pool(_continuing, unit_lm | device, actors, gpus=gpus)],
        "heard": [
            Pool(_vocoding, speaker, compute.tts_actors),
            Pool(_transcribing, whisper | device, actors if cuda else 1, gpus=gpus),
        ],
        "judged": [Pool(_judging, text_lm | device, actors, gpus=gpus)],
    }
    for step, pools in steps.items():
        todo = [chunk for chunk in chunks if not tasks.chunk_file(out, chunk["chunk"], step).exists()]
        if todo:
            yield Stream(f"genppl_{checkpoint}: {step}", todo, pools, len(chunks), "chunks")
    return _facts(out, [chunk["chunk"] for chunk in chunks])


def _chunks(folders: Folders, out: Path, config: EvaluateSettings, rate_hz: float) -> list[Row]:
    """The prompts, drawn and written down, as rows of the first step."""
    from slamray.evaluate.genppl import correct_prompts
    from slamray.model.generate import choose_prompts

    asked, known = config.genppl, _pairs(folders)
    pairs = [pair for pair in known if pair.metric == asked.metric]
    if not pairs:
        found = " ".join(sorted({pair.metric for pair in known}))
        raise BadInput(f"evaluate.genppl.metric={asked.metric}: no items of it; there are {found or 'none'}")
    spoken: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name in ("items", "published"):
        if name in folders:
            table = tables.read_shards(folders[name] / tables.SHARDS)
            for row in table.select(["utterance_id", "units", "durations"]).to_pylist():
                spoken[row["utterance_id"]] = np.array(row["units"], np.uint16), np.array(row["durations"], np.uint16)
    prompts = correct_prompts(pairs, spoken, config.sampling.prompt_seconds, rate_hz)
    chosen = choose_prompts(prompts, asked.prompts, asked.seed)
    rows = [{"prompt_id": prompt.prompt_id, "units": prompt.units.tolist()} for prompt in chosen]
    store.write_json(out / PROMPTS, rows)
    size = config.sampling.batch
    return [
        {"chunk": start // size, "prompts": json.dumps(rows[start : start + size])}
        for start in range(0, len(rows), size)
    ]


def _pairs(folders: Folders) -> list[Pair]:
    found = list(items.read(folders["items"]).pairs) if "items" in folders else []
    return found + (published.read(folders["published"]) if "published" in folders else [])


def _facts(out: Path, chunks: list[int]) -> Facts:
    from slamray.evaluate.genppl import WINDOW_SECONDS, Likelihood, generative_perplexity, mean_auto_bleu

    rows: list[dict[str, Any]] = []
    for chunk in chunks:
        parts = zip(*(store.read_json(tasks.chunk_file(out, chunk, step)) for step in STEPS), strict=True)
        rows += [continued | heard | judged for continued, heard, judged in parts]
    tables.write_table(out / ROWS, pa.Table.from_pylist(rows, SCHEMA))
    figures = {
        name: generative_perplexity([Likelihood(row[f"nll{part}"], row[f"tokens{part}"]) for row in rows])
        | {"auto_bleu": mean_auto_bleu([row[f"text{part}"] for row in rows])}
        for name, part in (("with_prompt", ""), ("continuation", "_alone"))
    }
    silent = sum(not row["units"] for row in rows)
    cut = sum(row["seconds"] > WINDOW_SECONDS for row in rows)
    return figures | {"prompts": len(rows), "without_units": silent, "cut_at_30_s": cut}
