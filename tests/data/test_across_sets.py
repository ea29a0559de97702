"""StoryCloze in slamkit's cross-modal layout: what is read, and what a joint model's scores are by both rules."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from support import published_sets as made
from support.machine import InProcess
from transformers import AutoTokenizer, PreTrainedModel

from slamray.config.base import Located, asset_path
from slamray.config.evaluation import Scored, ScoringSettings
from slamray.config.load import load_recipe
from slamray.config.model import BaseSettings, ModelSettings
from slamray.config.speech import EncoderSettings, ListeningSettings
from slamray.data.published_sets import metrics_of_set, read_set
from slamray.errors import BadInput
from slamray.evaluate.metrics import PairMetric, metric_of
from slamray.evaluate.summary import PairScore
from slamray.model.text_tokeniser import TextTokeniser
from slamray.model.unit_lm import build_unit_lm, load_unit_lm, save_unit_lm
from slamray.recipe.slam import build
from slamray.speech.encoders.base import Encoder
from slamray.speech.encoders.table import check_encoder, open_encoder
from slamray.stage.folder import Folder
from slamray.stage.stage import order
from slamray.stages import evaluation, published
from slamray.stages.scoring import read_scores
from slamray.tokens.vocabulary import Vocabulary

BASE = "assets:story-lm"
METRICS = ("cm_tsc_ss-few", "cm_tsc_st-few", "cm_tsc_ts-few", "cm_tsc_tt-few")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("cross_tSC")
    made.write_across(found, 3)
    return found


@pytest.fixture(scope="module")
def hearing(tiny_encoder: Path) -> EncoderSettings:
    return EncoderSettings(
        model=str(tiny_encoder),
        centroids=str(tiny_encoder / "centroids.safetensors"),
        layer=2,
        pad_samples=40,
        dtype="float32",
    )


@pytest.fixture(scope="module")
def vocabulary(hearing: EncoderSettings) -> Vocabulary:
    return Vocabulary.joint(TextTokeniser(BASE).vocabulary, check_encoder(hearing).vocabulary)


@pytest.fixture(scope="module")
def checkpoint(vocabulary: Vocabulary, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("joint")
    model = build_unit_lm(ModelSettings(base=BASE, embedding="normal"), vocabulary, 0)
    save_unit_lm(model, out)
    return out


def scores(
    rule: Scored, sets: dict[str, Path], metrics: tuple[str, ...], hearing: EncoderSettings, checkpoint: Path, out: Path
) -> dict[str, dict[str, PairScore]]:
    """By metric and pair, as the stages `published` and `evaluation` make them."""
    machine = InProcess()
    named = tuple((name, str(at)) for name, at in sorted(sets.items()))
    found = published.Sets(named, joined=rule == "sequence")
    listening = ListeningSettings(encoder=hearing, shard_documents=64, sample_documents=0)
    published.run({}, Folder(out / "heard"), machine, Located(lambda: None, found), listening)
    vocabulary = Vocabulary.joint(TextTokeniser(BASE).vocabulary, check_encoder(hearing).vocabulary)
    given = {"mine": Located(lambda: None, checkpoint)}
    evaluation.run(
        {"published": Folder(out / "heard")},
        Folder(out / "scores"),
        machine,
        given,
        metrics,
        ScoringSettings(),
        check_encoder(hearing),
        vocabulary,
        Located(lambda: None, BaseSettings(base=BASE)),
        rule,
    )
    rows = read_scores(Folder(out / "scores"), "mine")
    return {metric: {row.pair_id: row for row in rows if row.metric == metric} for metric in metrics}


class ByHand:
    """What slamkit computes, from the files: its sequences, and the model's own logits."""

    def __init__(self, folder: Path, hearing: EncoderSettings, model: PreTrainedModel, vocabulary: Vocabulary) -> None:
        self.folder, self.model, self.vocabulary = folder, model, vocabulary
        self.encoder: Encoder = open_encoder(hearing, "cpu")
        self.text = AutoTokenizer.from_pretrained(asset_path(BASE))

    def units(self, *names: str) -> list[int]:
        """Of files that are heard as one sound, each run once."""
        sound = np.concatenate([soundfile.read(self.folder / f"{name}.wav", dtype="float32")[0] for name in names])
        (frames,) = self.encoder([sound], batch_seconds=0)
        return [self.vocabulary.first_unit + int(unit) for unit, _ in itertools.groupby(frames.tolist())]

    def words(self, text: str) -> list[int]:
        return list(self.text(text, add_special_tokens=False)["input_ids"])

    def read(self, name: str) -> str:
        return (self.folder / f"{name}.txt").read_text().strip()

    def nats(self, ids: list[int]) -> np.ndarray:
        with torch.no_grad():
            logits = self.model(torch.tensor([ids])).logits[0].double()
        return logits.log_softmax(-1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].numpy()


@pytest.fixture(scope="module")
def by_hand(folder: Path, hearing: EncoderSettings, checkpoint: Path, vocabulary: Vocabulary) -> ByHand:
    return ByHand(folder, hearing, load_unit_lm(checkpoint).eval(), vocabulary)


def test_a_folder_in_slamkits_layout_is_read_as_pairs_after_a_prompt(folder: Path) -> None:
    found = read_set("cm_tsc-few", folder)
    pair = found.pairs[0]
    assert len(found.pairs) == 3 and found.facts["note"] == "3 items, a subset: published are 1,871 (test)"
    assert (pair.prompt_text, pair.chosen_text, pair.rejected_text) == made.ENDINGS[0]
    paths = {one.utterance_id: Path(one.path).name for one in found.recordings}
    assert [paths[key] for key in (*pair.prompt, *pair.chosen, *pair.rejected)] == [
        f"0000-story_{label}.wav" for label in ("mutual", "correct", "incorrect")
    ]
    assert len(found.recordings) == 9 and len(read_set("cm_tsc-few", folder, joined=True).recordings) == 15
    assert tuple(metrics_of_set("cm_tsc-few")) == METRICS and metrics_of_set("sblimp-dev") == ["sblimp-dev"]
    row = metric_of("cm_tsc_st-few")
    assert isinstance(row, PairMetric) and row.title == "Topic StoryCloze S→T" and row.across == ("speech", "text")


def test_a_speaker_is_a_folder_and_a_part(folder: Path, tmp_path: Path) -> None:
    for speaker in ("af", "bm"):
        shutil.copytree(folder, tmp_path / speaker)
    found = read_set("cm_ms_tsc", tmp_path)
    assert len(found.pairs) == 6 and found.facts["items"] == 3 and {pair.part for pair in found.pairs} == {"af", "bm"}


def test_a_text_is_part_of_who_a_set_is(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "set")
    before = read_set("cm_tsc", tmp_path / "set").identity
    (tmp_path / "set" / "0000-story_correct.txt").write_text("The dog ran off.")
    assert read_set("cm_tsc", tmp_path / "set").identity != before


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("0001-story_mutual.txt", r"0001-story_mutual\.txt: missing beside 0001-story_correct\.wav"),
        ("0001-story_incorrect.wav", r"0001-story_incorrect\.wav: missing beside"),
        ("0001-story_correct.wav", r"0001-story_incorrect\.wav: of no story"),
    ],
)
def test_a_file_that_is_missing_is_named(folder: Path, tmp_path: Path, broken: str, message: str) -> None:
    shutil.copytree(folder, tmp_path / "set")
    (tmp_path / "set" / broken).unlink()
    with pytest.raises(BadInput, match=message):
        read_set("cm_tsc", tmp_path / "set")


def test_an_empty_text_is_named(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "set")
    (tmp_path / "set" / "0002-story_incorrect.txt").write_text("\n")
    with pytest.raises(BadInput, match=r"0002-story_incorrect\.txt: nothing is written in it"):
        read_set("cm_tsc", tmp_path / "set")


def test_slamkits_rule_gives_the_mean_over_the_whole_sequence_four_ways(
    folder: Path, hearing: EncoderSettings, checkpoint: Path, vocabulary: Vocabulary, by_hand: ByHand, tmp_path: Path
) -> None:
    found = scores("sequence", {"cm_tsc-few": folder}, METRICS, hearing, checkpoint, tmp_path)
    begin, speech, text = vocabulary.bos, vocabulary.size - 2, vocabulary.size - 1
    for number in range(3):
        story, key = f"{number:04x}-story", f"cm_tsc-few/{number:04x}-story"
        for label in ("correct", "incorrect"):
            prompt, ending = f"{story}_mutual", f"{story}_{label}"
            heard, read = [speech, *by_hand.units(prompt)], [text, *by_hand.words(by_hand.read(prompt))]
            said, written = by_hand.units(ending), by_hand.words(f" {by_hand.read(ending)}")
            sequences = {
                "ss": [speech, *by_hand.units(prompt, ending)],  # one sound, as slamkit encodes it
                "st": [*heard, text, *written],
                "ts": [*read, speech, *said],
                "tt": [*read, *written],
            }
            for way, ids in sequences.items():
                score = found[f"cm_tsc_{way}-few"][key]
                ll = score.ll_chosen if label == "correct" else score.ll_rejected
                assert ll == pytest.approx(by_hand.nats([begin, *ids, begin]).mean(), rel=1e-4), (story, label, way)


def test_by_default_an_ending_alone_is_scored_among_the_ids_of_its_modality(
    folder: Path, hearing: EncoderSettings, checkpoint: Path, vocabulary: Vocabulary, by_hand: ByHand, tmp_path: Path
) -> None:
    found = scores("continuation", {"cm_tsc-few": folder}, METRICS, hearing, checkpoint, tmp_path)
    before = [vocabulary.bos, vocabulary.size - 2, *by_hand.units("0000-story_mutual"), vocabulary.size - 1]
    written = by_hand.words(f" {made.ENDINGS[0][1]}")
    with torch.no_grad():
        logits = by_hand.model(torch.tensor([before + written])).logits[0, len(before) - 1 : -1].double()
    among_text = logits[:, : vocabulary.first_unit].log_softmax(-1)
    nats = among_text[torch.arange(len(written)), torch.tensor(written)].mean().item()
    assert found["cm_tsc_st-few"]["cm_tsc-few/0000-story"].ll_chosen == pytest.approx(nats, rel=1e-4)


def test_a_published_set_of_sounds_is_scored_by_units_among_the_joint_ids(
    hearing: EncoderSettings, checkpoint: Path, vocabulary: Vocabulary, by_hand: ByHand, tmp_path: Path
) -> None:
    made.write_stories(tmp_path / "sSC")
    found = scores("continuation", {"ssc": tmp_path / "sSC"}, ("ssc",), hearing, checkpoint, tmp_path)["ssc"]
    stories = ByHand(tmp_path / "sSC", hearing, by_hand.model, vocabulary)
    for number in (0, 5):
        (name,) = (path.stem for path in (tmp_path / "sSC").glob(f"{2 * number}_*_correct.wav"))
        ids = [vocabulary.bos, vocabulary.size - 2, *stories.units(name), vocabulary.bos]
        (score,) = (one for one in found.values() if one.pair_id.startswith(f"ssc/{number:04x}"))
        assert score.ll_chosen == pytest.approx(stories.nats(ids).mean(), rel=1e-4)


def test_a_joint_recipe_measures_its_checkpoints_by_sets_of_both_sorts(tiny_words: list[str], folder: Path) -> None:
    own = [word for word in tiny_words if not word.startswith("model.base")]
    words = [*own, "recipe=interleaved_laptop", f"evaluate.sets={{cm_tsc: {folder}}}"]
    stages = {stage.name: stage for stage in order(build(load_recipe(words)))}
    assert stages["evaluation"].settings["metrics"] == ["cm_tsc_ss", "cm_tsc_st", "cm_tsc_ts", "cm_tsc_tt"]
    assert stages["evaluation"].settings["vocabulary"].is_joint
    with pytest.raises(BadInput, match=r"evaluate\.sets\.cm_tsc: a model of units alone does not read"):
        build(load_recipe([*tiny_words, f"evaluate.sets={{cm_tsc: {folder}}}"]))


def test_both_rules_share_what_is_heard_but_for_sounds_joined(folder: Path) -> None:
    plain, joined = (published.Sets((("cm_tsc", str(folder)),), value).content() for value in (False, True))
    assert joined["cm_tsc"] == plain["cm_tsc"] | {"joined": True}
