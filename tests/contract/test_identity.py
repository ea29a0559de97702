"""Every field of a recipe is identity unless it is marked, and the stages that it changes are those that see it.

Each field is changed in turn, in recipes that between them use everything. A field that is not marked must change
exactly the stages that `SEEN_BY` names, and what follows from them; one that is marked must change nothing.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import yaml
from pydantic.fields import FieldInfo
from safetensors.torch import save_file

from slamray.config.base import Chosen, Settings, Within, is_execution
from slamray.config.load import load_recipe
from slamray.config.tree import Recipe
from slamray.data.published_corpora import CORPORA
from slamray.data.published_sets import SALMON_PARTS
from slamray.errors import BadInput
from slamray.recipe import assets, slam
from slamray.stage.stage import Stage, order

# The stages that are given a field, by the longest prefix of its key.
SPEAKING = {"units", "preferences", "items", "recordings", "story_questions", "task_sentences"}
READING = {"published", "question_sets"}  # test sets, whose recordings are short
LISTENING = SPEAKING - {"recordings"} | {"recorded", "librispeech"} | READING
SCORES = {"scores_untrained", "scores_pretrained", "scores_aligned", "evaluation"}
GENPPL = {"genppl_pretrained", "genppl_aligned"}
ANSWERS = {"answers_pretrained", "answers_aligned"}
TASKS = {"text_to_token_quality", "tasks_pretrained", "tasks_aligned"}
DECODER = {"decoder", "intelligibility"}
SEEN_BY: dict[str, set[str]] = {
    "name": {"report"},
    "corpus": {"corpus"},
    "corpus.evaluation_share": {"corpus", "preferences"},
    "corpus.validation_share": {"corpus", "preferences"},
    "recorded.paths": {"recorded"},
    **{f"recorded.{name}": {name} for name in CORPORA},
    "recorded.at_most": {"librispeech"},
    "recorded.validation_share": {"packed"},
    **{f"joint.{name}": {"documents"} for name in ("interleave", "pair_pieces", "text_documents")},
    "joint.interleave": {"documents", "spoken_text"},
    "joint.kinds": {"packed"},
    "joint.text": {"text_corpus"},
    "joint.synthetic_documents": {"spoken_text"},
    "joint.text_to_token.model": {"text_to_token_start"},
    "joint.text_to_token.pretrain": {"text_to_token"},
    "joint.text_to_token.pretrain.seed": {"text_to_token", "text_to_token_start"},
    "joint.text_to_token.sampling": {"spoken_text"} | TASKS,
    "speech.tts": SPEAKING,
    "speech.encoder": LISTENING | DECODER,
    "speech.encoder.centroids": LISTENING
    | DECODER
    | SCORES
    | ANSWERS
    | TASKS
    | {"packed"},  # they say who the units are
    "speech.shard_documents": LISTENING - READING,
    "speech.train_documents": {"units", "items"},
    "speech.validation_documents": {"units", "documents", "spoken_text"},
    "pack": {"packed", "text_to_token_rows"},
    "model": {"untrained", "text_to_token_start"},
    "pretrain": {"pretrained", "trunk"},
    "pretrain.seed": {"pretrained", "trunk", "untrained"},
    "pretrain.optim.floor_learning_rate": {"pretrained"},
    "preferences": {"preferences"},
    "dpo": {"aligned"},
    "evaluate": SCORES | GENPPL | ANSWERS | TASKS | {"task_sentences"},
    "evaluate.interval": SCORES | GENPPL | ANSWERS | TASKS | {"task_sentences", "text_quality"},
    "evaluate.scored": set(),  # of a model of text and speech alone
    "evaluate.items": {"items", "text_quality"},
    "evaluate.sets": {"published", "evaluation"},
    "evaluate.genppl": GENPPL,
    "evaluate.questions": ANSWERS,
    "evaluate.questions.seed": {"story_questions"},
    "assets.encoder.train_documents": {"recordings"},
    "assets.encoder.evaluation_documents": {"recordings"},
    "assets.encoder.seed": {"hubert_1", "hubert_2", "encoder"},
    "assets.encoder.mfcc_clusters": {"hubert_1"},
    "assets.encoder.first": {"hubert_1"},
    "assets.encoder.feature_layer": {"hubert_2"},
    "assets.encoder.feature_clusters": {"hubert_2"},
    "assets.encoder.second": {"hubert_2"},
    "assets.encoder.layer": {"encoder"} | DECODER,
    "assets.encoder.n_units": {"encoder"},
    "assets.encoder.kmeans_frames": {"encoder"},
    "assets.text_lm": {"text_rows"},
    "assets.text_lm.text": {"text_lm_corpus"},
    "assets.text_lm.teacher": {"text_rows", "text_lm"},
    "assets.text_lm.pretrain": {"text_lm"},
    "assets.text_lm.pretrain.seed": {"text_rows", "text_lm"},
    "assets.source_filter": {"decoder"},
    "assets.hifigan": {"decoder"},
    "assets.decoder": {"decoder"},
    "assets.intelligibility_documents": {"intelligibility"},
}


@dataclass(frozen=True)
class Leaf:
    """A field of the tree that holds a value, and the groups above it."""

    key: str
    field: FieldInfo
    above: tuple[tuple[str, FieldInfo], ...]  # (key of the group's parent, the group's field)

    @property
    def is_marked(self) -> bool:
        return is_execution(self.field) or any(is_execution(field) for _, field in self.above)


def leaves(kind: type[Settings], prefix: str = "", above: tuple[tuple[str, FieldInfo], ...] = ()) -> Iterator[Leaf]:
    for name, field in kind.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            yield from leaves(field.annotation, f"{prefix}{name}.", (*above, (prefix, field)))
        else:
            yield Leaf(prefix + name, field, above)


LEAVES = {leaf.key: leaf for leaf in leaves(Recipe)}


def test_the_walk_finds_the_whole_tree() -> None:
    assert len(LEAVES) > 200 and {"name", "dpo.optim.beta1", "assets.encoder.second.seed", "root"} <= LEAVES.keys()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_lm: Path, tiny_encoder: Path, tiny_vocoder: Path) -> Path:
    """Everything that the recipes below name: two of each, of different content."""
    folder = tmp_path_factory.mktemp("identity")
    for name in ("one", "two"):
        below = folder / name
        for speaker in ("af_heart", "af_bella"):
            (below / "kokoro" / "voices").mkdir(parents=True, exist_ok=True)
            (below / "kokoro" / "voices" / f"{speaker}.pt").write_text(name)
        for path in ("fastspeech2/config.json", "sounds/a.wav", "asr/a", "judge/a"):
            (below / path).parent.mkdir(parents=True, exist_ok=True)
            (below / path).write_text(name)
        shutil.copytree(tiny_vocoder, below / "vocoder", dirs_exist_ok=True)
        (below / "vocoder" / "more.txt").write_text(name)
        flac = below / "LibriSpeech" / "train-clean-100" / "1" / "2" / f"{name}.flac"
        flac.parent.mkdir(parents=True)
        flac.write_text(name)
        (below / "stories.jsonl").write_text(f'{{"text": "{name * len(list(folder.iterdir()))}"}}\n')
        for part, side in itertools.product(SALMON_PARTS, (0, 1)):
            (below / "salmon" / part).mkdir(parents=True, exist_ok=True)
            (below / "salmon" / part / f"sample_0_{side}.wav").write_text(name)
    for name, model in (("lm", tiny_lm), ("encoder", tiny_encoder)):
        shutil.copytree(model, folder / "two" / name)
        (folder / "two" / name / "more.txt").write_text("other content")
    save_file({"centroids_KD": torch.ones(20, 32)}, folder / "two" / "encoder" / "centroids.safetensors")
    return folder


# Values for a field of which "a little more" is no valid value; {two} is the folder of other content.
OTHER: dict[str, Any] = {
    "corpus.paths": ["{two}/stories.jsonl"],
    "recorded.paths": ["{two}/sounds", "{one}/sounds/a.wav"],
    **{f"recorded.{name}": ["{two}/LibriSpeech/train-clean-100"] for name in CORPORA},
    "recorded.at_most": {"librispeech": 1},
    "speech.encoder.model": "{two}/encoder",
    "speech.encoder.centroids": "{two}/encoder/centroids.safetensors",
    "speech.tts.backend": "hibari",
    "speech.tts.kokoro.model": "{two}/kokoro",
    "speech.tts.kokoro.voice": "af_bella",
    "speech.tts.fastspeech2.model": "{two}/fastspeech2",
    "model.base": "{two}/lm",
    "preferences.path": "{two}/stories.jsonl",
    "assets.text_lm.text": {"paths": ["{two}/stories.jsonl"]},
    "assets.text_lm.teacher": {"path": "{two}/stories.jsonl"},
    "evaluate.vocoder": "{two}/vocoder",
    "evaluate.sets": {"salmon": "{one}/salmon", "salmon-2": "{two}/salmon"},
    "evaluate.questions.ways": ["tt"],
    "evaluate.genppl.asr": "{two}/asr",
    "evaluate.genppl.judge": "{two}/judge",
    "evaluate.genppl.metric": "grammar",
    "pretrain.budget": "steps:3",
    "pretrain.trunk": "steps:40",
    "pretrain.tokens_per_step": 2048,
    "pretrain.optim.warmup_share": 0.02,
    "dpo.pairs_per_step": 8,
    "joint.kinds": {"text": 0.2, "interleaved": 0.4, "synthetic": 0.4},
    "joint.pair_pieces": [3, 9],
    "joint.text": {"paths": ["{two}/stories.jsonl"]},
    "joint.interleave.text_chunk": [3, 9],
    "joint.interleave.speech_chunk": [3, 9],
    "joint.text_to_token.model": {"base": "assets:story-lm", "embedding": "normal"},
    "pack.mixture": {"stories": 0.5, "recordings": 0.25, "librispeech": 0.25},
}


@dataclass(frozen=True)
class Base:
    """A recipe that uses some of what others do not."""

    name: str
    words: tuple[str, ...]
    build: Callable[[Recipe], list[Stage]] = slam.build
    not_given: tuple[str, ...] = ()  # fields that its stages do not see, though they have stages of these names
    seen_by: tuple[tuple[str, set[str]], ...] = ()  # fields that other stages see than elsewhere


BASES = (
    Base(
        "everything",
        (
            "recorded.paths=[{one}/sounds]",
            "recorded.librispeech=[{one}/LibriSpeech]",
            "evaluate.sets={{salmon: {one}/salmon}}",
            "evaluate.genppl.prompts=2",
            "evaluate.genppl.asr={one}/asr",
            "evaluate.genppl.judge={one}/judge",
            "pretrain.trunk=steps:20",
            "pretrain.optim.schedule=wsd",
            "preferences.path={one}/stories.jsonl",
            "compute.dpo_micro_batch=1",
        ),
    ),
    Base(
        "kokoro and AdEMAMix",
        (
            "speech.tts.backend=kokoro",
            "speech.tts.kokoro.model={one}/kokoro",
            "pretrain.optim.name=ademamix",
            "compute.dpo_micro_batch=1",
        ),
    ),
    Base(
        "FastSpeech 2 and AdaLomo",
        (
            "speech.tts.backend=fastspeech2",
            "speech.tts.fastspeech2.model={one}/fastspeech2",
            "pretrain.optim.name=adalomo",
            "compute.dpo_micro_batch=1",
        ),
    ),
    Base(
        "text and speech",
        (
            "model.base=assets:story-lm",
            "model.embedding=mean",
            "joint.kinds={{text: 0.3, interleaved: 0.3, synthetic: 0.4}}",
            "evaluate.questions.stories=2",
            "evaluate.task_sentences=2",
            "compute.dpo_micro_batch=1",
        ),
        seen_by=(
            ("recorded.validation_share", {"documents"}),
            ("evaluate.scored", SCORES - {"evaluation"}),
            # What units mean is a part of the vocabulary there, and so of every stage that knows it.
            (
                "speech.encoder.centroids",
                SEEN_BY["speech.encoder.centroids"]
                | {"documents", "untrained", "text_to_token_start", "text_to_token_rows", "spoken_text"},
            ),
        ),
    ),
    Base("own encoder", (), assets.build, ("speech.encoder",)),
    Base(
        "decoder for a given encoder",
        ("assets.make=decoder", "assets.decoder=hifigan"),
        assets.build,
        ("assets.encoder.layer", "assets.text_lm.text"),
    ),
)


@pytest.fixture(scope="module", params=BASES, ids=lambda base: base.name)
def case(request: pytest.FixtureRequest, folder: Path, tiny_words: list[str]) -> Case:
    base: Base = request.param
    return Case(base, [*tiny_words, *(at(word, folder) for word in base.words)], folder)


@dataclass
class Case:
    base: Base
    words: list[str]
    folder: Path

    def identities(self, *more: str) -> dict[str, Any]:
        """Each stage's own identity by its name."""
        return {stage.name: stage.identity for stage in order(self.base.build(load_recipe([*self.words, *more])))}


def at(value: Any, folder: Path) -> Any:
    """A value with the places of the two folders in it."""
    if isinstance(value, str):
        return value.format(one=folder / "one", two=folder / "two")
    if isinstance(value, list):
        return [at(one, folder) for one in value]
    return {key: at(one, folder) for key, one in value.items()} if isinstance(value, dict) else value


def value_of(recipe: Any, key: str) -> Any:
    for name in filter(None, key.split(".")):
        recipe = getattr(recipe, name)
    return recipe


def others(leaf: Leaf, value: Any, folder: Path) -> Iterator[Any]:
    """Candidates for another value of the field; not all need be valid."""
    if leaf.key in OTHER:
        yield at(OTHER[leaf.key], folder)
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield from (value + 1, value * 2, value * 0.9, value - 1, value + 1e-6)
    elif isinstance(value, tuple):
        yield from ([*value[:-1], value[-1] + 1] if value and isinstance(value[-1], int) else [*value, "af_bella"],)
    choices = [one for one in itertools.chain(get_args(leaf.field.annotation)) if isinstance(one, str)]
    yield from (one for one in choices if one != value)
    yield from (None, 1, 0.5, 7.0, "steps:5", "another")


def changed_by(case: Case, leaf: Leaf, before: Mapping[str, Any]) -> set[str] | None:
    """The stages whose identity the field changes; None where the recipe allows no other value of it."""
    value = value_of(load_recipe(case.words), leaf.key)
    for other in others(leaf, value, case.folder):
        if other == value:
            continue
        try:
            after = case.identities(f"{leaf.key}={yaml.safe_dump(other, default_flow_style=True).split(chr(10))[0]}")
        except BadInput:
            continue
        return {name for name in after if after[name] != before.get(name)}
    return None


def expected(case: Case, leaf: Leaf, names: set[str]) -> set[str]:
    recipe = load_recipe(case.words)
    if leaf.is_marked or any(leaf.key.startswith(prefix) for prefix in case.base.not_given):
        return set()
    for above, field in leaf.above:  # a group that another field does not choose
        for mark in field.metadata:
            name = leaf.key.removeprefix(above).split(".")[0]
            if isinstance(mark, Chosen) and value_of(recipe, above + mark.by) != name:
                return set()
    if any(isinstance(mark, Within) for mark in leaf.field.metadata):
        return set()  # of a local folder; of a hub id see below
    table = SEEN_BY | dict(case.base.seen_by)
    prefixes = [prefix for prefix in table if f"{leaf.key}.".startswith(f"{prefix}.")]
    seen_by = table[max(prefixes, key=len)] if prefixes else set()
    bring_stages = leaf.key in BRING_STAGES and (case.base.build is assets.build) == leaf.key.startswith("assets.")
    return seen_by if bring_stages else seen_by & names


# Fields that bring stages of their own where they are given.
BRING_STAGES = {
    "assets.text_lm.text",
    "joint.text",
    "recorded.paths",
    *(f"recorded.{name}" for name in CORPORA),
    "evaluate.sets",
}
# Fields that choose which stages there are, beside what they change in those that stay.
CHOOSE = {
    "assets.make",
    "dpo.budget",
    "evaluate.genppl.prompts",
    "evaluate.questions.sets",
    "evaluate.questions.stories",
    "evaluate.task_sentences",
    "speech.tts.backend",
}


ONE_VALUE = {"dpo.optim.name", "joint.text_to_token.engine"}  # DPO trains with AdamW; vLLM runs on GPUs alone
NO_VALUE = {"evaluate.items.others"}  # metrics without a field: there are none but those of docs/extend.md, see there
TRIED: set[str] = set()


def test_each_field_changes_the_stages_that_are_given_it_and_no_other(case: Case) -> None:
    before = case.identities()
    wrong = {}
    for key, leaf in LEAVES.items():
        if key in CHOOSE or (leaf.is_marked and key in TRIED):
            continue
        changed = changed_by(case, leaf, before)
        if changed is None:
            continue
        if changed != (wanted := expected(case, leaf, set(before))):
            wrong[key] = (sorted(changed), sorted(wanted))
        if wanted or leaf.is_marked:
            TRIED.add(key)
    assert not wrong, "\n".join(f"{key} changes {found[0]}, should change {found[1]}" for key, found in wrong.items())


def test_every_field_was_tried_and_is_seen_by_a_stage_unless_it_is_marked() -> None:
    commits = {key for key, leaf in LEAVES.items() if any(isinstance(mark, Within) for mark in leaf.field.metadata)}
    other_optimisers = {key for key in LEAVES if ".optim.ad" in key and not key.startswith("pretrain.")}
    assert LEAVES.keys() - TRIED - other_optimisers == CHOOSE | ONE_VALUE | NO_VALUE | commits, (
        "run this file as a whole"
    )


def test_only_these_fields_are_said_to_change_no_result() -> None:
    """A mark keeps a field out of every fingerprint: a wrong one would have stale work pass for new."""
    whole = ("compute", "tracking", "rates", "prices")  # parts of a recipe that are execution altogether
    marked = {key for key, leaf in LEAVES.items() if leaf.is_marked and key.split(".")[0] not in whole}
    # How much bad data ends a run.
    bounds = {f"{part}.max_bad_share" for part in ("corpus", "preferences", "recorded", "speech")}
    assert marked == {"note", "root", "speech.sample_documents", "joint.text_tokens", *bounds}


@pytest.mark.parametrize(
    ("key", "value", "stage"),
    [("model.revision", "abc", "untrained"), ("evaluate.genppl.asr_revision", "abc", "genppl_pretrained")],
)
def test_the_commit_of_a_hub_id_is_part_of_its_content(tiny_words: list[str], key: str, value: str, stage: str) -> None:
    words = [*tiny_words, "model.base=Qwen/Qwen2.5-0.5B", "model.revision=def", "evaluate.genppl.prompts=2"]
    before, after = (
        {one.name: one.identity for one in order(slam.build(load_recipe([*words, *more])))}
        for more in ([], [f"{key}={value}"])
    )
    assert before[stage] != after[stage]
