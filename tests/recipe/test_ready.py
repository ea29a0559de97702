"""What recipes name outside: planned without a network, pinned once, fetched before work, named when it is missing."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.published_hub import publish
from support.stand_in_hub import commit, serve

from slamray.config.hub import hub_data
from slamray.config.listing import File
from slamray.config.load import load_recipe
from slamray.config.outside import data_content
from slamray.config.pins import pin
from slamray.config.published_files import PublishedFile
from slamray.errors import BadInput
from slamray.recipe.ready import known, outside
from slamray.recipe.slam import build
from slamray.speech.fetch import fetch_file
from slamray.stage.stage import order
from slamray.stages import planning
from slamray.stages.recorded import listings, not_needed
from slamray.train.memory import GIB

ROOT = Path(__file__).parents[2]
NO_NETWORK = "http://127.0.0.1:9"  # the discard port, where nobody listens
COMMIT = "0123456789012345678901234567890123456789"
PUBLISHED_RECIPES = ("slam", "slam_scaled", "slam_large", "slam_no_dpo", "twist_350m", "twist_350m_stories", "gslm")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLAMRAY_CACHE", str(tmp_path / "cache"))


# slam_large needs more than an A5000 has, and is planned for the cluster
RUNS = [(name, "a5000") for name in PUBLISHED_RECIPES if name != "slam_large"]
RUNS += [("slam_large", "cluster"), ("slam", "laptop"), ("slam_scaled", "a100x2")]


@pytest.mark.parametrize(("name", "profile"), RUNS)
def test_a_published_recipe_is_planned_with_no_other_word_and_nothing_at_hand(
    name: str, profile: str, tmp_path: Path
) -> None:
    recipe = known(load_recipe([f"recipe={name}", f"profile={profile}", f"root={tmp_path}"]))
    stages = {stage.name: stage for stage in order(build(recipe))}
    assert not stages["pretrained"].is_known and stages["untrained"].is_known  # what is known has a fingerprint
    with pytest.raises(BadInput, match="its commit is not known yet; a run asks the hub for it once"):
        _ = stages["librispeech"].fingerprint


def test_a_recipe_gets_as_many_rows_at_once_as_fit_and_is_refused_when_not_one_does() -> None:
    recipe = load_recipe([])
    assert (recipe.compute.micro_batch, recipe.compute.dpo_micro_batch) == (2, 4)
    whole = planning.memory(recipe).total / GIB
    less = known(load_recipe([f"compute.memory_gb={0.99 * whole}"]))
    assert less.compute.micro_batch == 1 and planning.memory(less).total / GIB < 0.99 * whole
    assert known(load_recipe([f"compute.memory_gb={1.01 * whole}"])).compute.micro_batch == 2
    with pytest.raises(BadInput, match=r"compute\.memory_gb=0\.01: pre-training is planned to need 0\.\d+ GB a device"):
        build(known(load_recipe(["compute.memory_gb=0.01"])))


def test_the_recipe_asks_for_the_commits_that_nobody_has_written_down(tmp_path: Path) -> None:
    recipe = load_recipe(["recipe=slam", f"root={tmp_path}"])
    wanted = {one.unpinned for one in outside(order(build(recipe)))} - {None}
    names = ("openslr/librispeech_asr", "slprl/sTinyStories", "slprl/SpokenSwag")
    assert wanted == {f"datasets/{name}" for name in names}


def test_a_pinned_recipe_has_fingerprints_that_no_hub_was_asked_for(tmp_path: Path) -> None:
    recipe = load_recipe(["recipe=slam", f"root={tmp_path}"])
    found = pin(recipe, lambda name: COMMIT)
    assert found.recorded.librispeech == (f"hf://datasets/openslr/librispeech_asr@{COMMIT}/all/**/*.parquet",)
    assert found.speech.encoder.revision == recipe.speech.encoder.revision  # what says its own commit keeps it
    stages = {stage.name: stage for stage in order(build(found))}
    assert stages["preferences"].is_known is False  # the units' k-means was not fetched yet: its matrix is not known
    assert stages["librispeech"].is_known
    other = {stage.name: stage for stage in order(build(pin(recipe, lambda name: COMMIT[::-1])))}
    assert other["librispeech"].fingerprint != stages["librispeech"].fingerprint
    assert other["corpus"].fingerprint == stages["corpus"].fingerprint


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("hf://datasets/a/b/c/*.parquet", ("a/b", "", "c/*.parquet")),
        (f"hf://datasets/a/b@{COMMIT}/c", ("a/b", COMMIT, "c")),
        ("hf://datasets/a/b@refs%2Fconvert%2Fparquet", ("a/b", "refs%2Fconvert%2Fparquet", "")),
        ("/data/a", None),
    ],
)
def test_a_path_on_the_hub_is_taken_apart_and_put_together(path: str, parts: tuple[str, str, str] | None) -> None:
    found = hub_data(path)
    assert (found and (found.name, found.revision, found.inner)) == parts
    assert found is None or str(found) == path


def test_a_branch_is_no_commit() -> None:
    with pytest.raises(BadInput, match=r"corpus\.paths=hf://datasets/a/b@main/c: its commit is not known yet"):
        data_content(["hf://datasets/a/b@main/c"], "corpus.paths")


def test_a_published_file_is_fetched_once_compared_and_kept(tmp_path: Path) -> None:
    (tmp_path / "hub/models/own/files").mkdir(parents=True)
    (tmp_path / "hub/models/own/files/km.bin").write_bytes(b"content")
    with serve(tmp_path / "hub") as hub:
        address = f"{hub.address}/own/files/resolve/main/km.bin"
        file = PublishedFile(address, hashlib.sha256(b"content").hexdigest())
        assert fetch_file(file, tmp_path / "kept", "x").read_bytes() == b"content"
        asked = len(hub.asked)
        fetch_file(file, tmp_path / "kept", "x")
        assert len(hub.asked) == asked
        with pytest.raises(BadInput, match=r"y: cannot be fetched \(invalid hash value"):
            fetch_file(PublishedFile(address, "0" * 64), tmp_path / "other", "y")
    (tmp_path / "kept/km.bin").write_bytes(b"torn")
    with pytest.raises(
        BadInput, match=rf"km\.bin has the SHA-256 [0-9a-f]+, and {file.sha256} is published; remove it"
    ):
        fetch_file(file, tmp_path / "kept", "x")
    with pytest.raises(BadInput, match=rf"cannot be fetched .* into {tmp_path}/empty: {NO_NETWORK}/km\.bin"):
        fetch_file(PublishedFile(f"{NO_NETWORK}/km.bin", "0" * 64), tmp_path / "empty", "z")


def parquet(path: Path, columns: dict[str, list[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def test_a_recipe_fetches_no_more_files_than_its_recordings_take(tmp_path: Path) -> None:
    files = []
    for name in ("train-0", "train-1", "train-2", "validation-0"):
        parquet(tmp_path / f"{name}.parquet", {"audio": [b""] * 10})
        files.append(File(f"data/{name}.parquet", str(tmp_path / f"{name}.parquet"), 1))
    in_order = sorted(files[:3], key=lambda file: hashlib.sha256(file.name.encode()).hexdigest())
    (tmp_path / in_order[2].stem).with_suffix(".parquet").unlink()  # so that to look at it is an error
    assert not_needed(files, 11) == {in_order[2].path}
    assert not_needed(files[:3], 10) == {file.path for file in in_order[1:]}
    with pytest.raises(BadInput, match="cannot be read"):
        not_needed(files, 21)


def test_the_recordings_of_a_recipe_are_the_first_by_id_and_those_for_validation(tmp_path: Path) -> None:
    """Counted by hand from the SHA-256 of `data/NAME.parquet:ROW`, over files that are listed one by one."""
    names = ("train-0", "train-1", "validation-0")
    for name in names:
        parquet(tmp_path / "data" / f"{name}.parquet", {"audio": [b""] * 4, "text": ["a"] * 4})
    ids = {
        name: [hashlib.sha256(f"data/{name}.parquet:{row}".encode()).hexdigest()[:16] for row in range(4)]
        for name in names
    }
    in_order = sorted(ids["train-0"] + ids["train-1"])
    for at_most in (1, 3, 5, 8, 9, 0):
        # Files are taken until they hold enough, in the order of the ids of their own names.
        first = min(names[:2], key=lambda name: hashlib.sha256(f"data/{name}.parquet".encode()).hexdigest())
        enough = sorted(ids[first]) if 0 < at_most <= 4 else in_order
        wanted = set(enough[: at_most or None]) | set(ids["validation-0"])
        found = list(listings([str(tmp_path / "data")], "peoples_speech", at_most))
        assert max(len(listing.recordings) for listing in found) <= 4  # no more than a file's at once
        kept = [one.utterance_id for listing in found for one in listing.recordings]
        assert kept == [one for name in names for one in ids[name] if one in wanted]


def test_a_corpus_that_does_not_exist_cannot_be_bounded(tmp_path: Path) -> None:
    with pytest.raises(
        BadInput, match=r"recorded\.at_most: no published corpus is called stories; there are librispeech"
    ):
        build(load_recipe(["recorded.at_most={stories: 3}", f"root={tmp_path}"]))


@dataclass(frozen=True)
class Machine:
    """A machine with empty caches, whose hub is at `address`."""

    folder: Path
    address: str

    def slam(self, *words: str) -> subprocess.CompletedProcess[str]:
        places = {"HF_ENDPOINT": self.address, "HF_HOME": f"{self.folder}/hf", "SLAMRAY_CACHE": f"{self.folder}/cache"}
        command = [sys.executable, "jobs/slam.py", *words, f"root={self.folder}/runs", "tracking.enabled=false"]
        offline = {"HF_HUB_OFFLINE": "1"} if self.address == NO_NETWORK else {}  # else each name is tried for 20 s
        environment = {**os.environ, **places, **offline, "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_without_a_network_one_line_says_what_to_bring_and_where(tmp_path: Path) -> None:
    done = Machine(tmp_path, NO_NETWORK).slam("recipe=slam", "profile=laptop")
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    for name in ("Qwen/Qwen2.5-0.5B --revision 060db", "slprl/mhubert-base-25hz --revision a3190", "slprl/SpokenSwag"):
        assert f"`hf download {name}" in line
    assert f"into {tmp_path}/hf: `hf download" in line and "recorded.librispeech, recorded.stinystories" in line
    assert f"into {tmp_path}/cache/downloads: https://dl.fbaipublicfiles.com/textless_nlp/twist/" in line
    assert "Traceback" not in done.stderr and not (tmp_path / "runs/report").exists()


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_papers_recipe_runs_from_names_to_a_report_with_no_other_word_than_sizes(tmp_path: Path) -> None:
    """Small checkpoints under the real names; what lies at no hub, the k-means and the vocoder, is in the cache."""
    publish(tmp_path / "hub", tmp_path / "cache")
    sizes = ["pretrain.budget=steps:1", "dpo.budget=steps:1", "speech.validation_documents=2"]
    sizes += [f"evaluate.items.{kind}=2" for kind in ("topic_cloze", "sentence_order", "words", "words_in_sentence")]
    sizes += ["evaluate.items.grammar=10", "evaluate.items.min_heard=1", "evaluate.items.min_word_count=1"]
    sizes += ["evaluate.sampling.prompts=2", "evaluate.sampling.max_new_tokens=20"]
    words = ["recipe=slam", "profile=laptop", *sizes]
    with serve(tmp_path / "hub") as hub:
        done = Machine(tmp_path, hub.address).slam(*words)
        assert done.returncode == 0, done.stderr[-3000:]
        pins = json.loads((tmp_path / "runs/pins.json").read_text())
        names = ("openslr/librispeech_asr", "slprl/sTinyStories", "slprl/SpokenSwag")
        assert pins == {f"datasets/{name}": commit(name) for name in names}
    (manifest,) = (tmp_path / "runs/stinystories").glob("*/manifest.json")
    told = json.loads(manifest.read_text())
    assert told["identity"]["files"] == {
        "hub": [f"hf://datasets/slprl/sTinyStories@{pins['datasets/slprl/sTinyStories']}/**/*.parquet"]
    }
    assert told["facts"]["utterances"] == 4
    assert list((tmp_path / "runs/report").glob("*/report.html"))
    # Nothing is asked of a hub that has gone: everything has its commit and is done.
    alone = Machine(tmp_path, NO_NETWORK)
    planned = alone.slam(*words, "--plan")
    assert planned.returncode == 0 and "to do" not in planned.stdout and "not known" not in planned.stdout
    again = alone.slam(*words)
    assert again.returncode == 0 and again.stdout.startswith("0 of "), again.stderr[-3000:]


def test_a_gated_model_is_one_line_that_names_the_token(tmp_path: Path) -> None:
    publish(tmp_path / "hub", tmp_path / "cache")
    with serve(tmp_path / "hub", gated=("Qwen/Qwen2.5-0.5B",)) as hub:
        done = Machine(tmp_path, hub.address).slam("recipe=slam", "profile=laptop")
    assert done.returncode == 2
    page = "https://huggingface.co/Qwen/Qwen2.5-0.5B"
    assert f"model.base=Qwen/Qwen2.5-0.5B: is gated; accept its terms at {page} and set HF_TOKEN" in done.stderr
