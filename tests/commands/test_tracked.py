"""What MLflow is told of a run: what differs from the defaults, the data that is read, the figures to compare."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from slamray.commands import tracked
from slamray.config.load import load_recipe
from slamray.recipe.slam import build
from slamray.stage.stage import order
from slamray.tracking import NullTracker

PAIR = {"metric": "topic_cloze", "n": 4, "ties": 0, "low": 0.1, "high": 0.9}


def manifest(**facts: Any) -> dict[str, Any]:
    return {"facts": facts, "wall_seconds": 1.0}


GAIN = {"n": 9, "nats": 0.042, "low": 0.025, "high": 0.058}
GAINS = {"topic_cloze_st": GAIN, "cm_tsc_st": GAIN}  # of a model of text and speech; of a published set nothing is told


def scored(topic_cloze: float, perplexity: float, auto_bleu: float | None = 0.25) -> dict[str, Any]:
    figures = {
        "topic_cloze": PAIR | {"accuracy": topic_cloze},
        "perplexity": {"perplexity": perplexity, "loss": 1.0, "targets": 9},
        "unit_auto_bleu": {"auto_bleu": auto_bleu, "continuations": 4},
    }
    return manifest(figures=figures, gains=GAINS)


TRAINED = {
    "pretrained": manifest(
        parameters=7, tokens=1000, flops=42_000.0, flops_with_attention=50_000.0, device_seconds=3600.0
    ),
    "aligned": manifest(
        parameters=7, tokens=100, flops=4200.0, flops_with_attention=5000.0, device_seconds=1800.0,
        heldout={"pairs": 4, "margin": 0.5},
    ),
}  # fmt: skip


def test_scores_of_the_last_checkpoint_go_by_their_names_and_the_others_by_their_checkpoints() -> None:
    texts = {"with_prompt": {"perplexity": 70.0, "auto_bleu": 0.03, "utterances": 8}}
    found = tracked.compared(
        {
            **TRAINED,
            "scores_untrained": scored(0.5, 20.0),
            "scores_pretrained": scored(0.6, 9.0),
            "scores_aligned": scored(0.7, 9.5, None),
            "genppl_aligned": manifest(**texts),
            "evaluation": manifest(checkpoints={"aligned": {"figures": {"tsc": {"accuracy": 0.8}}}}),
        }
    )
    assert found == {
        "topic_cloze": 0.7, "perplexity": 9.5, "tsc": 0.8, "topic_cloze_st_gain": 0.042, "genppl": 70.0,
        "pretrained/topic_cloze": 0.6, "pretrained/perplexity": 9.0, "pretrained/unit_auto_bleu": 0.25,
        "pretrained/topic_cloze_st_gain": 0.042, "untrained/topic_cloze_st_gain": 0.042, "auto_bleu": 0.03,
        "untrained/topic_cloze": 0.5, "untrained/perplexity": 20.0, "untrained/unit_auto_bleu": 0.25,
        "parameters": 7, "tokens": 1000, "preference_tokens": 100, "heldout_margin": 0.5,
        "flops": 46_200.0, "flops_with_attention": 55_000.0, "device_hours": 1.5,
    }  # fmt: skip


def test_scores_are_told_first_and_what_stages_took_last() -> None:
    """MLflow's page of a comparison opens with the metric that the store was told first."""

    class Heard(NullTracker):
        def figures(self, figures: Mapping[str, float]) -> None:
            told.append(list(figures))

    told: list[list[str]] = []
    manifests = {**TRAINED, "scores_pretrained": scored(0.6, 9.0), "scores_aligned": scored(0.7, 9.5)}
    tracked.finish(Heard(), load_recipe(["recipe=demo"]), [], manifests)
    (names,) = told
    assert names[:3] == ["topic_cloze", "perplexity", "unit_auto_bleu"]
    assert names[3:5] == ["topic_cloze_st_gain", "pretrained/topic_cloze"]
    assert names[-4:] == [f"seconds/{name}" for name in manifests]


def test_without_dpo_the_pretrained_checkpoint_is_the_last() -> None:
    found = tracked.compared({"pretrained": TRAINED["pretrained"], "scores_pretrained": scored(0.6, 9.0)})
    assert found["topic_cloze"] == 0.6 and found["device_hours"] == 1.0 and "preference_tokens" not in found


def test_parameters_are_what_differs_from_the_defaults_and_what_a_word_named() -> None:
    recipe = load_recipe(["recipe=demo", "dpo.beta=0.1", "pretrain.seed=3", "root=/data/runs"])
    changed = tracked.changed(recipe, {"dpo.beta", "pretrain.seed", "root"})
    assert changed["dpo.beta"] == 0.1  # the default, which somebody found worth saying
    assert changed["pretrain.seed"] == 3 and changed["pretrain.budget"] == "time:4m30s"
    assert "dpo.beta" not in tracked.changed(recipe)
    assert "pretrain.optim.beta1" not in changed and len(changed) < 60


def test_recipes_of_a_sweep_share_what_all_of_them_change() -> None:
    recipes = [load_recipe(["recipe=demo", f"dpo.beta={beta}"]) for beta in (0.2, 0.3)]
    assert "dpo.beta" not in tracked.common(recipes) and tracked.common(recipes)["pack.context"] == 512


@pytest.mark.parametrize("word", ["recipe=demo", "recipe=slam_laptop"])
def test_the_file_of_settings_is_a_recipe_that_runs_the_same(tmp_path: Path, word: str) -> None:
    recipe = load_recipe([word, "profile=laptop", "dpo.beta=0.2", "compute.workers=2"])
    path = tmp_path / "recipe.yaml"
    path.write_text(tracked.as_recipe_file(recipe))
    again = load_recipe([f"recipe={path}", "profile=laptop", "compute.workers=2"])
    assert again == recipe
    assert "#   workers: 2" in path.read_text().splitlines()  # where it ran is told, too


def test_a_corpus_is_known_by_the_checksum_of_its_files(tmp_path: Path) -> None:
    text = b'{"text": "One two three four five six."}\n'
    (tmp_path / "mine.jsonl").write_bytes(text)
    recipe = load_recipe(["recipe=demo", f"corpus.paths=[{tmp_path}/mine.jsonl]"])
    stages = order(build(recipe))
    (found,) = tracked.data_sets(recipe, stages, {"corpus": manifest(documents=1, words=6)})
    lines = f"mine.jsonl {hashlib.sha256(text).hexdigest()}"  # a name and a checksum, as sha256sum would list them
    assert found.digest == hashlib.sha256(lines.encode()).hexdigest()[:16]
    assert (found.name, found.context, found.source) == ("mine.jsonl", "training", f"{tmp_path}/mine.jsonl")
    assert dict(found.profile) == {"stage": "corpus", "files": 1, "bytes": len(text), "documents": 1, "words": 6}


def test_recordings_pairs_and_sets_are_data_too_and_on_the_hub_their_commit_counts(tmp_path: Path) -> None:
    def digests(revision: str) -> dict[str, str]:
        spoken = f"hf://datasets/a/swag@{revision}/*.parquet"
        words = ["preferences.source=swag", f"preferences.path={spoken}"]
        recipe = load_recipe(["recipe=demo", *words])
        found = tracked.data_sets(recipe, order(build(recipe)), {})
        return {one.context: one.digest for one in found}

    first, second = digests("0" * 40), digests("1" * 40)
    assert first.keys() == {"training", "preferences"}
    assert tracked.data_sets(load_recipe([]), order(build(load_recipe([]))), {})[0].name == "stories.jsonl.gz"
    assert first["training"] == second["training"] and first["preferences"] != second["preferences"]


def test_who_started_a_run_is_told_with_the_words_to_start_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    monkeypatch.setattr("sys.argv", ["jobs/slam.py", "dpo.beta=0.2"])
    told = {"commit": "c0ffee", "dirty": False, "words": ["dpo.beta=0.2"], "libraries": {"slamray": "0.1.0"}}
    tags = tracked.tags(told)
    assert (tags["mlflow.user"], tags["mlflow.source.name"]) == ("ada", "slam.py")
    assert (tags["mlflow.source.git.commit"], tags["slamray.words"]) == ("c0ffee", "dpo.beta=0.2")
    assert "slamray.uncommitted_changes" not in tags
    assert tracked.tags(told | {"dirty": True})["slamray.uncommitted_changes"] == "true"


def test_the_description_is_what_the_report_found_and_the_recipes_note() -> None:
    class Heard(NullTracker):
        def note(self, text: str) -> None:
            notes.append(text)

    notes: list[str] = []
    recipe = load_recipe(["recipe=demo"]).model_copy(update={"note": "A note."})
    tracked.finish(Heard(), recipe, [], {"report": manifest(summary=["One.", "Two."])})
    assert notes == ["One.\n\nTwo.\n\nA note."]
    assert json.loads(json.dumps(yaml.safe_load(tracked.as_recipe_file(recipe))))["note"] == "A note."
