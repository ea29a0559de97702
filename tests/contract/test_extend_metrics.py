"""docs/extend.md, followed: its metrics are measured through the tiny recipe, its sweep loads and plans."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from support.machine import InProcess
from support.pages import code_blocks

from slamray import data, evaluate
from slamray.commands import sweep
from slamray.config.load import load_recipe
from slamray.errors import BadInput
from slamray.evaluate import metrics
from slamray.recipe.slam import build
from slamray.stage.materialise import materialise
from slamray.stage.stage import Stage, order

METRIC = code_blocks("extend.md", "A metric")
SWEEP = code_blocks("extend.md", "A sweep")


def add_module(patch: pytest.MonkeyPatch, package: ModuleType, folder: Path, path: str, code: str) -> ModuleType:
    """The module that the page would have at `path`, a file of `package`."""
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(code)
    patch.setattr(package, "__path__", [*package.__path__, str(file.parent)])
    name = path.removesuffix(".py").replace("/", ".")
    patch.delitem(sys.modules, name, raising=False)
    return importlib.import_module(name)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Both metrics of the page in the table."""
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        names: dict[str, object] = dict(vars(metrics))
        for place, code in METRIC:
            if place != "slamray/evaluate/metrics.py":
                package = data if place.startswith("slamray/data/") else evaluate
                module = add_module(patch, package, folder, place, code)
                names[Path(place).stem] = module
            else:
                rows = eval(f"{{{code}}}", names)
                for name, row in rows.items():
                    patch.setitem(metrics.METRICS, name, row)
        yield
    for name in ("slamray.evaluate.top1", "slamray.data.backwards_items"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def finished(
    page: None, group: None, tiny_words: list[str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Stage]]:
    """The tiny recipe without DPO, made in this process: its root and its stages."""
    root = tmp_path_factory.mktemp("runs")
    words = [word for word in tiny_words if not word.startswith("dpo.budget")]
    more = ["dpo.budget=null", "evaluate.items.others.backwards=6", f"root={root}"]
    recipe = load_recipe([*words, *more])
    targets = build(recipe)
    provenance = {"words": []}
    materialise(targets, root, InProcess(recipe.compute), provenance)
    return root, {stage.name: stage for stage in order(targets)}


def test_a_scalar_metric_of_a_few_lines_is_measured_of_every_checkpoint(
    finished: tuple[Path, dict[str, Stage]],
) -> None:
    from slamray.model.unit_lm import load_unit_lm
    from slamray.tokens.rows import RowStore

    root, stages = finished
    rows = RowStore(stages["packed"].folder(root).fetch("validation")).pieces()
    for name in ("untrained", "pretrained"):
        found = stages[f"scores_{name}"].manifest(root)["facts"]["figures"]["top1"]
        model, right, targets = load_unit_lm(stages[name].folder(root).fetch("model")).eval(), 0, 0
        for row in rows:
            tokens = torch.as_tensor(row.ids.astype("int64"))
            with torch.no_grad():
                logits = model(tokens[None]).logits[0]
            right += sum(int(logits[i].argmax()) == int(tokens[i + 1]) for i in range(len(tokens) - 1))
            targets += len(tokens) - 1
        assert found == {"share": right / targets, "targets": targets}


def test_a_metric_of_pairs_of_a_few_lines_is_spoken_and_scored(finished: tuple[Path, dict[str, Stage]]) -> None:
    root, stages = finished
    found = stages["scores_pretrained"].manifest(root)["facts"]["figures"]["backwards"]
    assert (found["n"], found["pairs"]) == (6, 6) and 0 <= found["low"] <= found["accuracy"] <= found["high"] <= 1


def test_both_appear_in_the_table_of_the_run_and_in_the_report(finished: tuple[Path, dict[str, Stage]]) -> None:
    root, stages = finished
    table = stages["report"].manifest(root)["facts"]["table"]
    assert "top1" in table[0] and "backwards" in table[0] and "backwards n=6" in table[-1]
    share = stages["scores_pretrained"].manifest(root)["facts"]["figures"]["top1"]["share"]
    assert table[2].startswith("pre-trained") and f" {100 * share:.1f} " in table[2]
    page = stages["report"].folder(root).fetch("report.html").read_text()
    assert "Top-1 accuracy" in page and "share right" in page and "Sentence backwards" in page


def test_a_count_for_a_metric_that_is_no_row_is_refused(tiny_words: list[str]) -> None:
    with pytest.raises(BadInput, match=r"evaluate\.items\.others\.backword: no such metric is made of text"):
        build(load_recipe([*tiny_words, "evaluate.items.others.backword=6"]))


def test_a_sweep_of_a_file_and_a_section_loads_and_plans(
    tiny_words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As one does who has no clone: the space lies in a folder `tuning` of the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tuning").mkdir()
    for place, code in SWEEP:
        (tmp_path / ("tuning" if place.endswith(".py") else "") / Path(place).name).write_text(code)
    varied = ("pack.context", "dpo.budget")
    words = [word for word in tiny_words if not word.startswith(varied)]
    asked = [f"recipe={tmp_path}/context.yaml", *words, f"root={tmp_path}/runs", "--plan"]
    assert sweep.main(asked) == 0
    shown = capsys.readouterr().out
    assert "'How long should a packed row be?': 2 points x 2 seeds" in shown
    assert "context 128 tokens" in shown and "pack.context=256" in shown
    assert not (tmp_path / "runs").exists()
