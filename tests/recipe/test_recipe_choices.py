"""Choices that change a recipe's stages or are refused before any work: no DPO, no speech, optimiser, memory."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.machine import InProcess

from slamray.config.load import load_recipe
from slamray.errors import BadInput
from slamray.recipe.slam import build
from slamray.stage.folder import Folder
from slamray.stage.materialise import materialise
from slamray.stage.stage import Inputs, Stage, by_name, order
from slamray.stage.work import Machine


def stages(words: list[str]) -> dict[str, Stage]:
    recipe = load_recipe(words)
    return {stage.name: stage for stage in order(build(recipe))}


def test_without_a_budget_there_is_no_dpo_and_the_rest_is_the_same(tiny_words: list[str]) -> None:
    whole, without = stages(tiny_words), stages([*tiny_words, "dpo.budget=null"])
    assert whole.keys() - without.keys() == {"preferences", "aligned", "scores_aligned"}
    assert without.keys() <= whole.keys()
    for name in without.keys() - {"report"}:
        assert without[name].fingerprint == whole[name].fingerprint
    assert without["report"].fingerprint != whole["report"].fingerprint


def test_pairs_that_do_not_divide_are_no_matter_without_dpo(tiny_words: list[str]) -> None:
    assert "aligned" not in stages([*tiny_words, "dpo.budget=null", "dpo.pairs_per_step=6"])


def test_another_optimiser_redoes_pre_training_and_what_follows(tiny_words: list[str]) -> None:
    before, after = stages(tiny_words), stages([*tiny_words, "pretrain.optim.name=adalomo"])
    redone = {name for name in after if after[name].fingerprint != before[name].fingerprint}
    assert redone == {"pretrained", "aligned", "scores_pretrained", "scores_aligned", "report"}


def test_more_memory_on_a_device_redoes_nothing(tiny_words: list[str]) -> None:
    before, after = stages(tiny_words), stages([*tiny_words, "compute.memory_gb=1"])
    assert all(after[name].fingerprint == before[name].fingerprint for name in after)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["pretrain.optim.name=ademamix", "compute.zero_stage=1"],
            r"pretrain\.optim\.name=ademamix: shards under ZeRO are AdamW's; say compute\.zero_stage=0, or adamw",
        ),
        (["dpo.optim.name=adalomo"], r"dpo\.optim\.name=adalomo: DPO trains with adamw"),
        (["speech.train_documents=null"], r"speech\.train_documents=null: then recordings are all there is"),
        (
            ["compute.memory_gb=0.2", "compute.dpo_micro_batch=4", "dpo.context=1024"],
            r"compute\.memory_gb=0\.2: DPO is planned to need \d\.\d+ GB .* lower compute\.dpo_micro_batch \(4\)",
        ),
        (["compute.memory_gb=0.001"], r"compute\.memory_gb=0\.001: pre-training is planned to need 0\.\d+ GB a device"),
        (["model.base=shape:opt-nano"], r"shape:opt-nano: a shape has no weights to start from"),
        (["model.base=shape:gpt", "model.twist=false"], r"shape:gpt: no such shape"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(tiny_words: list[str], words: list[str], message: str) -> None:
    with pytest.raises(BadInput, match=message) as refused:
        stages([*tiny_words, *words])
    assert "\n" not in str(refused.value)


def test_recordings_alone_are_enough(tiny_words: list[str], tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"not opened before the stage runs")
    found = stages([*tiny_words, "speech.train_documents=null", f"recorded.paths=[{tmp_path}]"])
    assert "recorded" in found


def test_steps_of_one_name_are_told_apart_by_their_fingerprints(tmp_path: Path) -> None:
    """As a study has them: the same step of two recipes."""
    seen: dict[str, Folder] = {}

    def look(inputs: Inputs, out: Folder, machine: Machine) -> dict[str, int]:
        seen.update(inputs)
        return {}

    one, two = (Stage("scores", lambda inputs, out, machine, seed: {"rows": 1}, {"seed": seed}) for seed in (0, 1))
    other = Stage("units", lambda inputs, out, machine: {}, {})
    study = Stage("study", look, {}, (one, two, other))
    names = {f"scores/{one.fingerprint}", f"scores/{two.fingerprint}", "units"}
    assert by_name((one, two, other)).keys() == names
    manifests = materialise([study], tmp_path, InProcess(), {})
    assert manifests.keys() == names | {"study"}
    assert seen == {f"scores/{s.fingerprint}": s.folder(tmp_path) for s in (one, two)} | {
        "units": other.folder(tmp_path)
    }
    assert manifests["study"]["inputs"][f"scores/{one.fingerprint}"] == one.fingerprint
