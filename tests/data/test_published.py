"""Published sets: labels alone tell right from wrong, scores depend on nothing else, and what is broken is named."""

from __future__ import annotations

import csv
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from support import published_sets as made
from support.machine import InProcess
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from slamray import store
from slamray.commands.run import main
from slamray.config.base import Located
from slamray.config.compute import Compute
from slamray.config.evaluation import ScoringSettings
from slamray.config.load import load_recipe
from slamray.config.speech import EncoderSettings, ListeningSettings
from slamray.data.item_pairs import ItemPair
from slamray.data.published_sets import KINDS, SALMON_PARTS, read_set
from slamray.errors import BadInput
from slamray.evaluate.metrics import corpus_metrics
from slamray.evaluate.pair_scores import judge_pairs, pair_documents
from slamray.evaluate.summary import PairScore, bootstrap, summarise_items
from slamray.recipe.evaluation import build, own_words
from slamray.recipe.slam import build as build_run
from slamray.report.page import ReportData, write_report
from slamray.runtime.engine import Engine
from slamray.speech.encoders.base import EncoderFacts
from slamray.stage.folder import Folder
from slamray.stage.stage import order
from slamray.stage.work import Machine
from slamray.stages import evaluation, published, scoring, units

N_UNITS = 500
ENCODER = EncoderFacts(N_UNITS, 25.0, "")
VOCABULARY = ENCODER.vocabulary
IN_PROCESS = InProcess()
LISTENING = ListeningSettings(encoder=EncoderSettings(dtype="float32"), shard_documents=64, sample_documents=0)


def right_sides(pairs: Sequence[ItemPair], known: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The token ids of each pair's right sequence."""
    return [document.ids for document in pair_documents(pairs, known, VOCABULARY)[::2]]


class Oracle(nn.Module):
    """Knows the right sequences: after the beginning of one its next token has the logit `weight`, and all else 0."""

    def __init__(self, right: Sequence[np.ndarray], weight: float) -> None:
        super().__init__()
        self.config = SimpleNamespace(_attn_implementation="sdpa")
        self.weight = nn.Parameter(torch.tensor(weight))
        self.next: dict[tuple[int, ...], set[int]] = {}
        for tokens in right:
            for place, token in enumerate(tokens.tolist()):
                self.next.setdefault(tuple(tokens[:place].tolist()), set()).add(token)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, logits_to_keep: int = 0, **_: object
    ) -> SimpleNamespace:
        logits = torch.zeros(*input_ids.shape, N_UNITS + 2)
        for i, tokens in enumerate(input_ids):
            for place, seen in enumerate(attention_mask[i, 0]):
                for token in self.next.get(tuple(tokens[seen].tolist()), ()):
                    logits[i, place, token] = self.weight
        return SimpleNamespace(logits=logits[:, -logits_to_keep:])


@pytest.fixture(scope="session")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A folder of each layout, as published."""
    root = tmp_path_factory.mktemp("sets")
    made.write_sblimp(root / "syntactic")
    made.write_swuggy(root / "lexical")
    made.write_stories(root / "sSC")
    made.write_salmon(root / "salmon_benchmark")
    for speaker in ("bm", "af"):
        shutil.copytree(root / "sSC", root / "ms_sSC" / speaker)
    folders = {
        "sblimp": "syntactic",
        "swuggy": "lexical",
        "ssc": "sSC",
        "ms_ssc": "ms_sSC",
        "salmon": "salmon_benchmark",
    }
    return {name: str(root / folder) for name, folder in folders.items()}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two small unit LMs of 500 units, as save_pretrained leaves them."""
    root = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        config = LlamaConfig(vocab_size=N_UNITS + 2, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                             num_attention_heads=4, max_position_embeddings=512, initializer_range=0.3)  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(root / name)
    return {name: root / name for name in ("one", "two")}


def encode(sets: dict[str, str], out: Path, machine: Machine = IN_PROCESS) -> published.PublishedFacts:
    found = published.Sets(tuple(sorted(sets.items())))
    return published.run({}, Folder(out), machine, Located(lambda: None, found), LISTENING)


def score(
    heard: Path, out: Path, models: dict[str, Path], metrics: Sequence[str], machine: Machine = IN_PROCESS
) -> evaluation.EvaluationFacts:
    checkpoints = {name: Located(lambda: None, folder) for name, folder in models.items()}
    inputs = {"published": Folder(heard)}
    return evaluation.run(inputs, Folder(out), machine, checkpoints, metrics, ScoringSettings(), ENCODER)


@pytest.fixture(scope="session")
def heard(sets: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All sets, encoded by the offline default's HuBERT."""
    out = tmp_path_factory.mktemp("heard")
    facts = encode(sets, out)
    assert facts.utterances == 400 + 20 + 12 + 24 + 48 and facts.quarantined == 0
    return out


@pytest.fixture(scope="session")
def scored(
    heard: Path, models: dict[str, Path], sets: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("scored")
    score(heard, out, models, list(sets))
    return out


def read_gold(folder: Path) -> list[dict[str, Any]]:
    with (folder / "gold.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def by_pair(folder: Path, metric: str) -> dict[tuple[str, str], tuple[float, float, float]]:
    return {
        (checkpoint, score.pair_id): (score.ll_chosen, score.ll_rejected, score.correct)
        for checkpoint in ("one", "two")
        for score in scoring.read_scores(Folder(folder), checkpoint)
        if score.metric == metric
    }


def a_score(metric: str, part: str, pair_id: str, correct: float, item: str = "") -> PairScore:
    return PairScore(pair_id, metric, part, item, 0.0, 0.0, correct)


def assert_same(first: dict[Any, Any], second: dict[Any, Any]) -> None:
    assert first.keys() == second.keys() and len(first) > 0
    for key in first:
        assert first[key] == pytest.approx(second[key], rel=1e-5), key


def test_labels_tell_right_from_wrong_in_every_layout(sets: dict[str, str]) -> None:
    said = {name: [(p.chosen_text, p.rejected_text) for p in read_set(name, Path(sets[name])).pairs] for name in sets}
    assert ("The dogs run.", "The dogs runs.") in said["sblimp"] and ("The dog runs.", "The dog run.") in said["sblimp"]
    assert ("brick", "blick") in said["swuggy"] and len(said["sblimp"]) == 200
    for name in ("ssc", "ms_ssc"):
        assert all(a.endswith("_correct") and b.endswith("_incorrect") for a, b in said[name])
        assert all(a.split("_")[1] == b.split("_")[1] for a, b in said[name])  # of one story
    assert all(a.endswith("_0") and b.endswith("_1") for a, b in said["salmon"])


def test_voices_of_an_item_and_parts_are_told_apart(sets: dict[str, str]) -> None:
    words = read_set("swuggy", Path(sets["swuggy"]))
    assert words.facts["pairs"] == 10 and words.facts["parts"] == {"in_vocabulary": 4, "out_of_vocabulary": 1}
    stories = read_set("ms_ssc", Path(sets["ms_ssc"]))
    assert (stories.facts["pairs"], stories.facts["items"]) == (12, 6) and set(stories.facts["parts"]) == {"bm", "af"}
    assert read_set("salmon", Path(sets["salmon"])).facts["parts"] == dict.fromkeys(SALMON_PARTS, 3)


def test_a_subset_is_said_to_be_one_with_both_numbers(sets: dict[str, str], tmp_path: Path) -> None:
    note = read_set("sblimp-dev", Path(sets["sblimp"])).facts["note"]
    assert note == "200 items, a subset: published are 6,300 (dev) or 63,000 (test)"
    for story in range(1871):
        for label in ("correct", "incorrect"):
            (tmp_path / f"{story}_{label}.wav").touch()
    assert read_set("tsc", tmp_path).facts["note"] == ""


@pytest.mark.parametrize("name", ["sblimp", "swuggy", "ssc", "ms_ssc", "salmon"])
@pytest.mark.parametrize(("weight", "accuracy"), [(3.0, 1.0), (-3.0, 0.0), (0.0, 0.5)])
def test_an_oracle_gets_100_its_mirror_0_and_a_constant_50_all_ties(
    heard: Path, name: str, weight: float, accuracy: float
) -> None:
    pairs, known = [pair for pair in published.read(Folder(heard)) if pair.metric == name], units.by_id(Folder(heard))
    model = Oracle(right_sides(pairs, known), weight)
    whole, *parts = summarise_items(judge_pairs(model, pairs, known, VOCABULARY), KINDS[name].average)
    assert [part.accuracy for part in parts] == [accuracy] * len(parts) and len(parts) != 1
    assert whole.accuracy == accuracy
    if name in ("sblimp", "ssc"):  # every item is one pair
        wilson = stats.binomtest(int(accuracy * len(pairs)), len(pairs)).proportion_ci(0.95, "wilson")
        assert (whole.low, whole.high) == pytest.approx((wilson.low, wilson.high))
    else:  # all items agree, so every resample does
        assert (whole.low, whole.high) == (accuracy, accuracy)
    assert whole.ties == (len(pairs) if accuracy == 0.5 else 0) and whole.pairs == len(pairs)


@pytest.mark.parametrize("metric", [*corpus_metrics(), *KINDS])
def test_every_metric_has_the_known_answers_on_sequences_made_for_it(metric: str) -> None:
    draw = np.random.default_rng(0)
    known = {f"{i}{side}": draw.integers(0, N_UNITS, 5 + i) for i in range(20) for side in "p+-"}
    pairs = [
        ItemPair(str(i), metric, f"part {i % 2}", (f"{i}p",), (f"{i}+",), (f"{i}-",), "", "", "") for i in range(20)
    ]
    for weight, accuracy in ((3.0, 1.0), (-3.0, 0.0), (0.0, 0.5)):
        scores = judge_pairs(Oracle(right_sides(pairs, known), weight), pairs, known, VOCABULARY)
        whole, *parts = summarise_items(scores)
        assert whole.accuracy == accuracy and len(parts) == 2
        assert whole.ties == (20 if accuracy == 0.5 else 0)


@pytest.mark.parametrize("name", ["swuggy", pytest.param("sblimp", marks=pytest.mark.slow)])
def test_scores_do_not_depend_on_file_names(
    scored: Path, sets: dict[str, str], models: dict[str, Path], tmp_path: Path, name: str
) -> None:
    old, new = Path(sets[name]), tmp_path / "set"
    rows = read_gold(old)
    names = [row["filename"] for row in rows]
    other = dict(zip(names, random.Random(7).sample(names, len(names)), strict=True))
    new.mkdir()
    for file in names:
        shutil.copy(old / f"{file}.wav", new / f"{other[file]}.wav")
    made.write_gold(new, rows[0], [row | {"filename": other[row["filename"]]} for row in reversed(rows)])
    encode({name: str(new)}, tmp_path / "heard")
    score(tmp_path / "heard", tmp_path / "scored", models, [name])
    assert_same(by_pair(tmp_path / "scored", name), by_pair(scored, name))


def test_a_renamed_folder_is_the_same_set_and_scores_the_same(
    scored: Path, sets: dict[str, str], models: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(sets["ssc"], tmp_path / "another name")
    before, after = read_set("ssc", Path(sets["ssc"])), read_set("ssc", tmp_path / "another name")
    assert after.identity == before.identity and after.pairs == before.pairs
    encode({"ssc": str(tmp_path / "another name")}, tmp_path / "heard")
    score(tmp_path / "heard", tmp_path / "scored", models, ["ssc"])
    assert_same(by_pair(tmp_path / "scored", "ssc"), by_pair(scored, "ssc"))


def test_a_flipped_label_is_another_set_of_the_same_files(sets: dict[str, str], tmp_path: Path) -> None:
    shutil.copytree(sets["sblimp"], tmp_path / "set")
    rows = read_gold(tmp_path / "set")
    made.write_gold(tmp_path / "set", rows[0], [row | {"correct": 1 - int(row["correct"])} for row in rows])
    before, after = read_set("sblimp", Path(sets["sblimp"])), read_set("sblimp", tmp_path / "set")
    assert [(p.chosen, p.rejected) for p in after.pairs] == [(p.rejected, p.chosen) for p in before.pairs]
    assert {key for key in before.identity if before.identity[key] != after.identity[key]} == {"labels"}


@pytest.mark.parametrize("sequences_in_batch", [1, 32])
def test_scores_do_not_depend_on_the_batch(
    scored: Path, heard: Path, models: dict[str, Path], sets: dict[str, str], tmp_path: Path, sequences_in_batch: int
) -> None:
    documents = pair_documents(published.read(Folder(heard)), units.by_id(Folder(heard)), VOCABULARY)
    longest = max(map(len, documents))
    budget = 1 if sequences_in_batch == 1 else sequences_in_batch * longest
    score(heard, tmp_path, models, list(sets), InProcess(Compute(score_batch_tokens=budget)))
    for name in sets:
        assert_same(by_pair(tmp_path, name), by_pair(scored, name))


def test_a_score_is_the_mean_log_likelihood_of_the_models_own_logits(
    scored: Path, heard: Path, models: dict[str, Path]
) -> None:
    model, known = LlamaForCausalLM.from_pretrained(models["one"]).eval(), units.by_id(Folder(heard))
    found = by_pair(scored, "salmon")
    for pair in [pair for pair in published.read(Folder(heard)) if pair.metric == "salmon"][::5]:
        for document, ll in zip(pair_documents([pair], known, VOCABULARY), found["one", pair.pair_id], strict=False):
            ids = torch.as_tensor(document.ids.astype(np.int64))[None]
            with torch.no_grad():
                assert ll == pytest.approx(-model(ids, labels=ids).loss.item(), rel=1e-4)


def test_the_hubs_parquet_gives_the_same_scores_as_wav_files(
    scored: Path, sets: dict[str, str], models: dict[str, Path], tmp_path: Path
) -> None:
    salmon, stories = Path(sets["salmon"]), Path(sets["ssc"])
    found = {part: [(salmon / part / f"sample_{i}_0.wav", salmon / part / f"sample_{i}_1.wav") for i in range(3)]
             for part in SALMON_PARTS}  # fmt: skip
    made.to_hub(tmp_path / "SALMon", found, "positive_audio", "ind")
    right = sorted(stories.glob("*_correct.wav"))
    pairs = [(path, next(stories.glob(f"*_{path.name.split('_')[1]}_incorrect.wav"))) for path in right]
    made.to_hub(tmp_path / "storycloze", {"bm": pairs, "af": pairs}, "correct_audio", "id")
    on_hub = {"salmon": str(tmp_path / "SALMon"), "ms_ssc": str(tmp_path / "storycloze")}
    encode(on_hub, tmp_path / "heard")
    score(tmp_path / "heard", tmp_path / "scored", models, ["salmon", "ms_ssc"])
    assert_same(by_pair(tmp_path / "scored", "salmon"), by_pair(scored, "salmon"))
    hub, wav = (sorted(by_pair(folder, "ms_ssc").values()) for folder in (tmp_path / "scored", scored))
    np.testing.assert_allclose(hub, wav, rtol=1e-5)  # sorted: here the ids are the hub's row numbers


def test_a_killed_evaluation_does_only_what_is_left(heard: Path, models: dict[str, Path], tmp_path: Path) -> None:
    score(heard, tmp_path, models, ["ssc", "salmon"])
    results = sorted(tmp_path.glob("*/tasks/*.json"))
    assert [path.parent.parent.name for path in results] == ["one", "one", "two", "two"]
    before = {path: path.stat().st_mtime_ns for path in results}
    results[0].unlink()
    score(heard, tmp_path, models, ["ssc", "salmon"])
    assert [path for path in results if path.stat().st_mtime_ns != before[path]] == [results[0]]


def drop(folder: Path, name: str) -> None:
    (folder / name).unlink()


def edit_gold(folder: Path, change: Callable[[list[str]], list[str]]) -> None:
    lines = (folder / "gold.csv").read_text().splitlines()
    (folder / "gold.csv").write_text("\n".join(change(lines)) + "\n")


BROKEN: list[tuple[str, Callable[[Path], None], str]] = [
    ("swuggy", lambda f: edit_gold(f, lambda x: x[:-1]), r"rimmerB\.wav: no label; it has no row in .*gold\.csv"),
    ("swuggy", lambda f: edit_gold(f, lambda x: [*x, x[1]]), r"gold\.csv:22: brickA\.wav is named twice"),
    ("swuggy", lambda f: drop(f, "blickA.wav"), r"gold\.csv:\d+: .*blickA\.wav is missing"),
    ("swuggy", lambda f: (drop(f, "blickA.wav"), edit_gold(f, lambda x: [r for r in x if "blickA" not in r]))[0],
     r"brickA\.wav: its partner, the wrong recording of 0, is missing"),
    ("swuggy", lambda f: edit_gold(f, lambda x: [*x[:1], x[1][:-1] + "right", *x[2:]]),
     r"gold\.csv:2: brickA\.wav: correct is 'right', not 0 or 1"),
    ("swuggy", lambda f: edit_gold(f, lambda x: [x[0].replace("frequency", "count"), *x[1:]]),
     r"gold\.csv: no column frequency; it has id"),
    ("swuggy", lambda f: edit_gold(f, lambda x: [r.replace(",7,", ",often,") for r in x]),
     r"gold\.csv:2: brickA\.wav: frequency is 'often', no number"),
    ("sblimp", lambda f: drop(f, "gold.csv"), r"gold\.csv: no such file; give the folder"),
    ("ssc", lambda f: drop(f, "0_0000-tom_correct.wav"),
     r"1_0000-tom_incorrect\.wav: its partner, the right recording of 0000-tom, is missing"),
    ("ssc", lambda f: shutil.copy(f / "0_0000-tom_correct.wav", f / "9_0000-tom_correct.wav"),
     r"9_0000-tom_correct\.wav: 0000-tom has two right recordings, this and 0_0000-tom_correct\.wav"),
    ("ssc", lambda f: shutil.copy(f / "0_0000-tom_correct.wav", f / "30_0000-tom.wav"),
     r"30_0000-tom\.wav: no label; a story's name ends in"),
    ("salmon", lambda f: drop(f, "rir_consistency/sample_1_1.wav"),
     r"sample_1_0\.wav: its partner, the wrong recording of rir_consistency/1, is missing"),
    ("salmon", lambda f: shutil.copytree(f / "bg_alignment", f / "noise"), r"noise is no part of SALMon"),
    ("salmon", lambda f: shutil.copy(f / "bg_alignment/sample_0_0.wav", f / "bg_alignment/sample_0_2.wav"),
     r"sample_0_2\.wav: no label; names are sample_N_0\.wav"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "harm", "message"), BROKEN)
def test_what_is_broken_is_named_before_any_work(
    sets: dict[str, str], tmp_path: Path, name: str, harm: Callable[[Path], None], message: str
) -> None:
    shutil.copytree(sets[name], tmp_path / "set")
    harm(tmp_path / "set")
    with pytest.raises(BadInput, match=message):
        read_set(name, tmp_path / "set")


def test_a_set_of_no_kind_no_folder_or_no_recordings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"evaluate\.sets\.blimp: no such kind of set; a name starts with one of sblimp"):
        read_set("blimp", tmp_path)
    with pytest.raises(BadInput, match=r"evaluate\.sets\.ssc=/nowhere: no such folder"):
        read_set("ssc", Path("/nowhere"))
    with pytest.raises(BadInput, match=r"no recording of a tsc set in it"):
        read_set("tsc", tmp_path)


def test_the_bootstrap_is_scipys_percentile_interval() -> None:
    values = np.random.default_rng(3).choice([0.0, 0.25, 0.5, 1.0], 120)
    expected = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=1).confidence_interval
    assert bootstrap([values]) == pytest.approx((expected.low, expected.high), abs=4e-3)
    assert bootstrap([values]) == bootstrap([values[::-1]]) != bootstrap([values], seed=1)


def test_voices_of_one_item_do_not_make_the_interval_narrower() -> None:
    scores = [a_score("sblimp", "all", str(i), float(i % 3 > 0), item=str(i)) for i in range(60)]
    found = []
    for voices in (1, 2, 4):
        said = [replace(score, pair_id=f"{score.pair_id}/{voice}") for score in scores for voice in range(voices)]
        found += summarise_items(said)
    one, two, four = found
    assert [(summary.n, summary.pairs) for summary in found] == [(60, 60), (60, 120), (60, 240)]
    assert one.accuracy == two.accuracy == four.accuracy and (two.low, two.high) == (four.low, four.high)
    as_240_items = stats.binomtest(160, 240).proportion_ci(0.95, "wilson")
    assert four.high - four.low == pytest.approx(one.high - one.low, rel=0.1)
    assert four.high - four.low > 1.8 * (as_240_items.high - as_240_items.low)


def test_the_mean_of_parts_weighs_each_part_alike() -> None:
    parts = (("a", 10, 1.0), ("b", 30, 0.0))
    scores = [a_score("salmon", part, f"{part}{i}", correct) for part, n, correct in parts for i in range(n)]
    assert summarise_items(scores, "parts")[0].accuracy == 0.5 and summarise_items(scores)[0].accuracy == 0.25


def test_the_report_shows_published_sets_with_their_parts(tmp_path: Path) -> None:
    parts = ("in_vocabulary", "out_of_vocabulary")
    scores = [a_score("swuggy", part, f"{part}{i}", float(i < 3)) for part in parts for i in range(4)]
    shown = [asdict(summary) | {"checkpoint": "after DPO"} for summary in summarise_items(scores)]
    write_report(ReportData("title", published=shown), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "Published test sets" in page and "swuggy: in_vocabulary" in page and "<b>75.0</b>" in page
    write_report(ReportData("title"), tmp_path / "report.html")
    assert "Published test sets" not in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["checkpoints=[/nowhere]"], r"checkpoints: nowhere: /nowhere holds no model: config\.json is missing"),
        (["checkpoints=3"], r"checkpoints=3: neither \[folder, \.\.\.\] nor"),
        (["checkpoints=[{one}, {one}]"], r"give each checkpoint, and a name of its own"),
        (["checkpoints=[{one}]", "metrics=[grammer]"], r"no such metric grammer; there are ssc perplexity"),
        (["checkpoints=[{one}]", "sets={{sc: /nowhere}}"], r"evaluate\.sets\.sc: no such kind of set"),
        (
            ["checkpoints=[{small}]"],
            r"small \(2 specials, 62 units\) and speech\.encoder .*: 62 units here, 500 there",
        ),
        ([], r"holds none of untrained pretrained aligned for this recipe; run jobs/slam\.py"),
    ],
)
def test_the_job_says_in_one_line_what_is_wrong(
    models: dict[str, Path], tiny_lm: Path, sets: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    words: list[str], message: str,
) -> None:  # fmt: skip
    shutil.copytree(tiny_lm, tmp_path / "small")
    given = [word.format(one=models["one"], small=tmp_path / "small") for word in words]
    asked, rest = own_words([f"root={tmp_path / 'runs'}", f"sets={{ssc: {sets['ssc']}}}", *given])
    assert main(rest, partial(build, asked=asked)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    with pytest.raises(BadInput, match=message):
        raise BadInput(error)
    assert not (tmp_path / "runs").exists()


def test_the_plan_says_that_a_set_is_a_subset(
    models: dict[str, Path], sets: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"checkpoints=[{models['one']}, {models['two']}]", f"sets={{ssc: {sets['ssc']}}}", f"root={tmp_path}"]
    asked, rest = own_words([*words, "--plan"])
    assert main(rest, partial(build, asked=asked)) == 0
    shown = capsys.readouterr().out
    assert "6 items, a subset: published are 1,871 (test)" in shown and "2 checkpoints by 1 metrics" in shown


def test_a_set_in_a_recipe_adds_two_stages_and_redoes_the_report_alone(
    tiny_words: list[str], sets: dict[str, str]
) -> None:
    def fingerprints(words: list[str]) -> dict[str, str]:
        recipe = load_recipe(words)
        return {stage.name: stage.fingerprint for stage in order(build_run(recipe))}

    without, with_set = fingerprints(tiny_words), fingerprints([*tiny_words, f"evaluate.sets.ssc={sets['ssc']}"])
    assert with_set.keys() - without.keys() == {"published", "evaluation"}
    assert {name for name in without if with_set[name] != without[name]} == {"report"}


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("workers", [1, 2])
def test_scores_do_not_depend_on_the_number_of_workers(
    engine: Engine, scored: Path, sets: dict[str, str], models: dict[str, Path], tmp_path: Path, workers: int
) -> None:
    compute = Compute(score_actors=workers, encoder_actors=1, tts_actors=1)
    assert engine.compute.cpus_per_worker == 1  # the session's cluster is up, and this engine uses it
    crew = Engine(compute)
    (seat,) = crew.seats(1)
    encode({name: sets[name] for name in ("sblimp", "salmon")}, tmp_path / "heard", seat)
    score(tmp_path / "heard", tmp_path / "scored", models, ["sblimp", "salmon"], seat)
    for name in ("sblimp", "salmon"):
        assert_same(by_pair(tmp_path / "scored", name), by_pair(scored, name))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_job_scores_checkpoints_from_anywhere_by_all_sets(
    scored: Path, sets: dict[str, str], models: dict[str, Path], tmp_path: Path
) -> None:
    folders = ", ".join(f"{name}: {folder}" for name, folder in sets.items())
    command = [sys.executable, "jobs/evaluate.py", f"checkpoints={{one: {models['one']}, two: {models['two']}}}",
               f"sets={{{folders}}}", "speech.encoder.dtype=float32", "tracking.enabled=false",
               f"root={tmp_path}"]  # fmt: skip
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "sblimp: 200 items, a subset: published are 6,300 (dev) or 63,000 (test)" in done.stdout
    (folder,) = tmp_path.glob("evaluation/*")
    for name in sets:
        assert_same(by_pair(folder, name), by_pair(scored, name))
    figures = store.read_json(folder / evaluation.SUMMARY)
    shown = figures["one"]["figures"]["sblimp"]
    assert f"{100 * shown['accuracy']:.1f} [{100 * shown['low']:.1f}, {100 * shown['high']:.1f}]" in done.stdout
    again = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert "0 of 2 stages made" in again.stdout


def test_a_set_is_read_as_spreadsheets_and_file_managers_leave_it(sets: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "syntactic"
    shutil.copytree(sets["sblimp"], folder)
    plain = read_set("sblimp", folder)
    gold = (folder / "gold.csv").read_text()
    for name in ("._gold.csv", "._x.wav", ".DS_Store", "__MACOSX"):
        (folder / name).write_text("left behind")
    first = min(folder.glob("[!.]*.wav"))
    first.rename(first.with_suffix(".WAV"))
    for encoding in ("utf-8-sig", "utf-16"):
        (folder / "gold.csv").write_bytes(gold.replace("\n", "\r\n").encode(encoding))
        found = read_set("sblimp", folder)
        assert len(found.pairs) == len(plain.pairs) and found.facts == plain.facts
    (folder / "gold.csv").write_bytes(gold.encode() + "caf\xe9".encode("latin-1"))
    with pytest.raises(BadInput, match=r"gold\.csv: cannot be read \(.*utf-8.*\); repair or remove it"):
        read_set("sblimp", folder)


def test_an_edit_of_a_recording_of_the_same_size_makes_another_set(sets: dict[str, str], tmp_path: Path) -> None:
    shutil.copytree(sets["ssc"], tmp_path / "sSC")
    before = read_set("ssc", tmp_path / "sSC").identity
    assert before == read_set("ssc", Path(sets["ssc"])).identity
    wav = min((tmp_path / "sSC").rglob("*.wav"))
    content = bytearray(wav.read_bytes())
    content[-2:] = bytes(255 - byte for byte in content[-2:])
    wav.write_bytes(content)
    assert read_set("ssc", tmp_path / "sSC").identity != before
