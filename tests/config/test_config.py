"""The recipe tree: where values come from, and what a wrong word is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from slamray.config.base import asset_path
from slamray.config.load import load_recipe
from slamray.config.profiles import PROFILES
from slamray.config.tree import Recipe
from slamray.errors import BadInput


def test_words_override_the_recipe_file_which_overrides_defaults(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\ndpo: {beta: 0.3, pairs_per_step: 8}\n")
    recipe = load_recipe([f"recipe={path}", "dpo.beta=0.2"])
    assert (recipe.name, recipe.dpo.beta, recipe.dpo.pairs_per_step, recipe.dpo.context) == ("mine", 0.2, 8, 1024)


def test_a_group_named_in_part_keeps_its_own_defaults() -> None:
    optim = load_recipe(["recipe=slam", "dpo.optim.learning_rate=1e-4"]).dpo.optim
    assert (optim.learning_rate, optim.schedule) == (1e-4, "inverse_sqrt")  # pre-training's default is cosine


def test_the_profile_changes_compute_and_nothing_else() -> None:
    laptop, cluster = load_recipe(["profile=laptop"]), load_recipe(["profile=cluster"])
    assert laptop.compute == PROFILES["laptop"] and cluster.compute == PROFILES["cluster"]
    assert laptop.model_copy(update={"compute": cluster.compute}) == cluster


def test_defaults_are_the_papers_tables_4_and_5() -> None:
    recipe = Recipe()
    pretrain, dpo = recipe.pretrain, recipe.dpo
    # Table 4: 23.5 h, 1024 x 128, AdamW 1e-3, warm-up 1 %, cosine to 5e-5, clip 0.5, RoPE 10 000
    assert (pretrain.budget, pretrain.tokens_per_step, recipe.pack.context) == ("time:23h30m", 128 * 1024, 1024)
    optim = pretrain.optim
    assert (optim.learning_rate, optim.warmup_share, optim.schedule) == (1e-3, 0.01, "cosine")
    assert (optim.floor_learning_rate, optim.clip_norm, recipe.model.rope_theta) == (5e-5, 0.5, 10_000)
    # Table 5: 0.5 h, 64 pairs, 5e-5, inverse square root, beta 0.1, context 1024; auto-BLEU: docs/paper.md 1.6
    assert (dpo.budget, dpo.pairs_per_step, dpo.beta, dpo.context) == ("time:30m", 64, 0.1, 1024)
    assert (dpo.optim.learning_rate, dpo.optim.schedule) == (5e-5, "inverse_sqrt")
    assert recipe.preferences.max_auto_bleu == 0.3
    # Table 6
    sampling = recipe.evaluate.sampling
    assert (sampling.temperature, sampling.top_k, sampling.max_new_tokens) == (0.8, 25, 150)
    assert sampling.repetition_penalty == 1.1


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("dpo.bata=0.2", r"dpo\.bata: no such key; did you mean beta\?"),
        ("speech.encoder.layr=3", r"speech\.encoder\.layr: no such key; did you mean layer\?"),
        ("dpo.beta=-1", r"dpo\.beta=-1: .*greater than 0"),
        ("pretrain.budget=5 minutes", r"pretrain\.budget='5 minutes': .*steps:200"),
        ("pretrain.optim.floor_learning_rate=1", r"pretrain\.optim.*floor_learning_rate 1\.0 is above"),
        ("profile=mainframe", r"profile=mainframe: choose one of laptop"),
        ("recipe=nope", r"recipe=nope: no such recipe; packaged are .*demo"),
        ("dpo.beta", r"'dpo\.beta' is not a word of the form a\.b=c"),
        ("dpo.beta.x=1", r"dpo\.beta=\{'x': 1\}|dpo\.beta\.x"),
        ("compute.zero_stage=7", r"compute\.zero_stage=7"),
        ("dpo.beta=[1", r"dpo\.beta=\[1: not a value"),
    ],
)
def test_a_wrong_word_is_named_with_what_it_may_be(word: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        load_recipe([word])


def test_a_recipe_file_may_not_hold_execution(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("compute: {workers: 2}\n")
    with pytest.raises(BadInput, match="are execution"):
        load_recipe([f"recipe={path}"])


def test_a_recipe_file_that_is_not_yaml_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("a: [1\n")
    with pytest.raises(BadInput, match=r"not YAML"):
        load_recipe([f"recipe={path}"])


def test_the_root_is_absolute_so_that_a_worker_elsewhere_finds_it() -> None:
    assert load_recipe(["root=here"]).root == str(Path.cwd() / "here")
    assert Path(Recipe().root).is_absolute()


def test_asset_paths_lie_in_the_package() -> None:
    assert Path(asset_path("assets:stories.jsonl.gz")).is_file()
    assert asset_path("/elsewhere") == "/elsewhere"


@pytest.mark.parametrize("word", ["dpo.beta=2026-13-01", "dpo.beta=[", "name=" + "[" * 3000])
def test_a_word_that_is_no_value_is_one_line(word: str) -> None:
    with pytest.raises(BadInput, match=rf"^{word.partition('=')[0]}=.*: not a value \(.+\)$"):
        load_recipe([word])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_recipe_file_is_read_as_an_editor_saves_it(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "own.YAML").write_bytes("extends: demo\nname: caf\u00e9\n".encode(encoding))
    assert load_recipe([f"recipe={tmp_path}/own.YAML"]).name == "caf\u00e9"
    (tmp_path / "own.YAML").write_bytes("name: caf\u00e9\n".encode("latin-1"))
    with pytest.raises(BadInput, match=r"own\.YAML: cannot be read \('utf-8' codec can't decode"):
        load_recipe([f"recipe={tmp_path}/own.YAML"])
