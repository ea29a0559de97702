"""Recipe files and studies: what extends what, which word wins, and what a wrong file is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from slamray.config.load import load_recipe, load_study
from slamray.errors import BadInput

STUDY = """
extends: demo
name: mine
study:
  title: T
  of: figure 0
  seeds: [3, 5]
  metrics: [perplexity]
  variants:
    small: {pack.context: 128, dpo.optim.learning_rate: 1.0e-4}
    as it is: {}
"""


def write(folder: Path, **files: str) -> dict[str, Path]:
    paths = {name: folder / f"{name}.yaml" for name in files}
    for name, text in files.items():
        paths[name].write_text(text)
    return paths


def test_a_recipe_lies_over_the_one_it_extends_and_that_over_its_own(tmp_path: Path) -> None:
    files = write(tmp_path, low="extends: demo\nname: low\ndpo: {beta: 0.3, pairs_per_step: 8}\n")
    high = tmp_path / "high.yaml"
    high.write_text(f"extends: {files['low']}\ndpo: {{beta: 0.4}}\n")
    recipe = load_recipe([f"recipe={high}", "dpo.context=256"])
    assert (recipe.name, recipe.dpo.beta, recipe.dpo.pairs_per_step, recipe.dpo.context) == ("low", 0.4, 8, 256)
    assert recipe.model.base == "assets:story-lm"  # the demo's


def test_recipes_that_extend_in_a_circle_are_refused(tmp_path: Path) -> None:
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text(f"extends: {two}\n")
    two.write_text(f"extends: {one}\n")
    with pytest.raises(BadInput, match=r"extends runs in a circle: .*one\.yaml -> .*two\.yaml -> .*one\.yaml"):
        load_recipe([f"recipe={one}"])


def test_a_parent_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, mine="extends: slamm\n")["mine"]
    with pytest.raises(BadInput, match=r"recipe=.*mine\.yaml extends slamm: no such recipe; packaged are .*slam "):
        load_recipe([f"recipe={path}"])


def test_a_parent_may_not_hold_execution_either(tmp_path: Path) -> None:
    low = write(tmp_path, low="root: /elsewhere\n")["low"]
    high = write(tmp_path, high=f"extends: {low}\n")["high"]
    with pytest.raises(BadInput, match=r"low\.yaml: compute, root, tracking, rates and prices are execution"):
        load_recipe([f"recipe={high}"])


def test_a_study_is_each_variant_with_each_seed(tmp_path: Path) -> None:
    study, members = load_study([f"recipe={write(tmp_path, s=STUDY)['s']}", "pretrain.budget=steps:4"])
    assert (study.title, study.seeds, study.checkpoint) == ("T", (3, 5), "pretrained")
    assert [(m.variant, m.seed) for m in members] == [("small", 3), ("small", 5), ("as it is", 3), ("as it is", 5)]
    first, last = members[0].recipe, members[-1].recipe
    assert (first.pack.context, last.pack.context) == (128, 512)
    assert (first.dpo.optim.learning_rate, first.dpo.optim.schedule) == (1e-4, "cosine")  # the rest of the demo's group
    assert (first.pretrain.seed, first.dpo.seed, last.pretrain.seed) == (3, 3, 5)
    assert first.name == "mine/small/3" and last.name == "mine/as it is/5"
    assert {m.recipe.pretrain.budget for m in members} == {"steps:4"}
    assert first.model_copy(update={"name": ""}) == members[1].recipe.model_copy(
        update={"name": "", "pretrain": first.pretrain, "dpo": first.dpo}
    )  # seeds differ in nothing else


def test_a_study_is_no_part_of_a_recipe_that_extends_it(tmp_path: Path) -> None:
    parent = write(tmp_path, parent=STUDY)["parent"]
    child = write(tmp_path, child=f"extends: {parent}\nname: child\n")["child"]
    assert load_recipe([f"recipe={child}"]).name == "child"


def test_words_may_change_the_study_itself(tmp_path: Path) -> None:
    study, members = load_study([f"recipe={write(tmp_path, s=STUDY)['s']}", "study.seeds=[0]"])
    assert study.seeds == (0,) and len(members) == 2


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        (STUDY, ["pack.context=64"], r"pack\.context: this is what the study varies \(small\); leave it out"),
        (STUDY, ["pack={}"], r"pack: this is what the study varies"),
        (STUDY, ["pretrain.seed=1"], r"pretrain\.seed: this is what the study varies \(study\.seeds\)"),
        (STUDY, ["study.seeds=[]"], r"study\.seeds=\[\]"),
        (STUDY, ["study.sedes=[1]"], r"study\.sedes: no such key; did you mean seeds\?"),
        ("name: x\n", [], r"is no study: it has no `study`; run it with jobs/slam\.py"),
        ("study: {title: T, variants: {a: {}}}\n", [], r"study\.of is missing: the figure or table"),
        (STUDY.replace("pack.context: 128", "pack.contxt: 128"), [], r"variant small: pack\.contxt: no such key"),
        (STUDY.replace("as it is: {}", "wrong: {dpo.beta: -1}"), [], r"variant wrong: dpo\.beta=-1: "),
    ],
)
def test_what_is_wrong_with_a_study_is_one_line(tmp_path: Path, text: str, words: list[str], message: str) -> None:
    path = write(tmp_path, s=text)["s"]
    with pytest.raises(BadInput, match=message):
        load_study([f"recipe={path}", *words])


def test_a_study_is_not_run_as_a_recipe(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"is a study; run it with jobs/study\.py"):
        load_recipe([f"recipe={write(tmp_path, s=STUDY)['s']}"])


def test_a_group_that_stands_twice_in_a_recipe_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nevaluate: {normalise: sum}\ndpo:\n  beta: 0.2\nevaluate: {interval: 0.9}\n")
    with pytest.raises(BadInput, match=r"not YAML \(evaluate stands twice in a group, again in line 5\)"):
        load_recipe([f"recipe={path}"])
    path.write_text("name: mine\nevaluate: {normalise: sum, interval: 0.9}\ndpo:\n  beta: 0.2\n")
    assert load_recipe([f"recipe={path}"]).evaluate.interval == 0.9
