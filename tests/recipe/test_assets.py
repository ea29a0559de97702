"""The job that makes the offline models, whole, at the smallest size: every stage runs and leaves a loadable model."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import tiny

from slamray.config.load import load_recipe
from slamray.errors import BadInput
from slamray.recipe.assets import build
from slamray.stage.stage import Stage, order

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_assets_job_makes_three_models_that_load(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from slamray.speech.decoders.table import load_decoder
    from slamray.speech.encoders.centroids import load_centroids
    from slamray.speech.encoders.hubert_net import HubertFeatures

    lines = gzip.decompress((ROOT / "slamray/assets/stories.jsonl.gz").read_bytes()).splitlines()[:100]
    (tmp_path / "stories.jsonl").write_bytes(b"\n".join(lines))
    words = [*tiny.asset_words(), f"corpus.paths=[{tmp_path}/stories.jsonl]", f"root={tmp_path}/runs"]
    done = subprocess.run(
        [sys.executable, "jobs/assets.py", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]

    def stage(name: str) -> Path:
        (folder,) = (tmp_path / "runs" / name).iterdir()
        return folder

    encoder = stage("encoder") / "model"
    assert load_centroids(encoder / "centroids.safetensors").shape == (16, 256)
    assert HubertFeatures(encoder, 5, pad_samples=580).rate_hz == 25
    facts = json.loads((stage("encoder") / "manifest.json").read_text())["facts"]
    assert 0 < facts["units"]["pnmi"] < 1 and 0 < facts["mfcc"]["pnmi"] < 1
    assert len(load_decoder(stage("decoder") / "model")(np.array([15]))) > 0
    text_lm = stage("text_lm") / "model"
    tokens = AutoTokenizer.from_pretrained(text_lm)("Once upon a time", return_tensors="pt")["input_ids"]
    assert torch.isfinite(AutoModelForCausalLM.from_pretrained(text_lm)(tokens).logits).all()


def test_a_decoder_alone_is_made_for_the_encoder_that_is_there(tmp_path: Path, tiny_encoder: Path) -> None:
    def stages(encoder: list[str]) -> list[Stage]:
        recipe = load_recipe([*encoder, "assets.make=decoder", f"root={tmp_path}"])
        return order(build(recipe))

    own = ["model=" + str(tiny_encoder), f"centroids={tiny_encoder}/centroids.safetensors", "layer=2"]
    found, shipped = stages([f"speech.encoder.{word}" for word in own]), stages([])
    assert [stage.name for stage in found] == ["corpus", "recordings", "decoder", "intelligibility"]
    assert found[1].fingerprint == shipped[1].fingerprint and found[2].fingerprint != shipped[2].fingerprint


def test_how_often_training_reports_and_saves_is_no_part_of_what_it_makes(tmp_path: Path) -> None:
    def fingerprints(*words: str) -> dict[str, str]:
        recipe = load_recipe([*words, f"root={tmp_path}"])
        return {stage.name: stage.fingerprint for stage in order(build(recipe))}

    base = fingerprints()
    execution = ("compute.report_every_steps=7", "compute.checkpoint_every_seconds=5", "compute.dtype=float32")
    assert fingerprints(*execution, "compute.workers=2") == base
    changed = {
        "assets.encoder.first.budget=steps:9": {"hubert_1", "hubert_2", "encoder", "decoder", "intelligibility"},
        "assets.encoder.second.budget=steps:9": {"hubert_2", "encoder", "decoder", "intelligibility"},
        "assets.source_filter.budget=time:1m": {"decoder", "intelligibility"},
    }
    for word, expected in changed.items():
        found = fingerprints(word)
        assert {name for name in base if found[name] != base[name]} == expected, word


@pytest.mark.parametrize("budget", ["tokens:5", "flops:1e9"])
def test_a_budget_that_the_training_does_not_count_is_refused_before_work(budget: str) -> None:
    with pytest.raises(BadInput, match=r"assets\.hifigan\.budget=.* write steps:1500 or time:20m"):
        load_recipe([f"assets.hifigan.budget={budget}"])


def test_more_workers_than_crops_are_refused_before_work(tmp_path: Path) -> None:
    recipe = load_recipe(["compute.workers=17", f"root={tmp_path}"])
    with pytest.raises(BadInput, match=r"batch_crops=12 is less than compute\.workers=17"):
        build(recipe)
