"""Stage `text_lm`: a small text LM, trained on packed text by the pre-training loop; TWIST's start on a laptop."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from slamray.config.compute import Compute
from slamray.config.text_lm import TeacherSettings
from slamray.config.training import PretrainSettings
from slamray.config.tree import Recipe
from slamray.data.text import TRAIN, VALIDATION
from slamray.stage.folder import Folder
from slamray.stage.stage import Inputs, Stage
from slamray.stage.work import Machine, Metrics, Report
from slamray.stages.checkpoints import MODEL
from slamray.stages.text_rows import TEACHER, TOKENISER


def stage(recipe: Recipe, rows: Stage) -> Stage:
    """From packed rows of text."""
    text_lm = recipe.assets.text_lm
    return Stage("text_lm", run, {"pretrain": text_lm.pretrain, "teacher": text_lm.teacher}, (rows,))


def run(
    inputs: Inputs, out: Folder, machine: Machine, pretrain: PretrainSettings, teacher: TeacherSettings | None
) -> Metrics:
    """`out/model` is a folder that AutoModelForCausalLM and AutoTokenizer load."""
    rows = inputs["text_rows"]
    share = None if teacher is None else teacher.share
    facts = machine.train("text_lm", partial(_train, rows, out, pretrain, machine.compute, share), out)
    tokeniser = rows / TOKENISER
    for name in tokeniser.files():
        out.write(f"{MODEL}/{name}", tokeniser.read(name))
    return facts


def _train(
    rows: Folder, out: Folder, pretrain: PretrainSettings, compute: Compute, share: float | None, report: Report
) -> Metrics:
    """share: the teacher's weight in the loss; None: there is no teacher."""
    import torch
    import torch.distributed as dist

    from slamray.model.unit_lm import load_unit_lm
    from slamray.train.distil import Distilling
    from slamray.train.pretrain import pretrain as run_loop

    kind = None if share is None else partial(Distilling, rows.fetch(TEACHER), share)
    splits = rows.fetch(TRAIN), rows.fetch(VALIDATION)
    facts = run_loop(pretrain, compute, rows.fetch(MODEL), *splits, out, report, kind=kind)
    if dist.get_rank() == 0:  # TWIST reads it as float32 again; half the bytes are for the repository
        whole = out.fetch(MODEL)
        half = load_unit_lm(whole, dtype=torch.bfloat16)

        def write(path: Path) -> None:
            shutil.copytree(whole, path)
            half.save_pretrained(path)

        out.write_tree(MODEL, write)
    return facts
