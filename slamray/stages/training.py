"""Stages `untrained`, `trunk`, `pretrained` and `aligned`: the unit LM before and after pre-training, and after DPO.

The loops are imported where they run: on a worker. The driver loads no torch.
"""

from __future__ import annotations

import hashlib
import json
from functools import partial
from pathlib import Path

from slamray.config.base import identity
from slamray.config.budget import parse_budget
from slamray.config.compute import Compute
from slamray.config.model import ModelSettings
from slamray.config.training import DpoSettings, PretrainSettings
from slamray.runtime.engine import Engine
from slamray.stage import store
from slamray.stage.stage import MANIFEST, Facts, Folders
from slamray.stage.work import Metrics, Report
from slamray.stages import packed, preferences

MODEL = "model"  # in the folder of each of these stages but the trunk: a plain transformers checkpoint
STATE = "state"  # in a trunk's: a checkpoint that training goes on from


def untrained(folders: Folders, out: Path, config: ModelSettings, n_units: int, seed: int, engine: Engine) -> Facts:
    """Turn the text LM into a unit LM (TWIST), untrained."""
    return engine.call("untrained", partial(_untrained, config, n_units, seed, out / MODEL))


def _untrained(config: ModelSettings, n_units: int, seed: int, out: Path) -> Facts:
    from slamray.model.unit_lm import build_unit_lm, count_parameters, save_unit_lm
    from slamray.tokens.vocabulary import Vocabulary

    # Who the units are is not known here: training makes embeddings mean units, and marks the model with the rows'.
    model = build_unit_lm(config, Vocabulary.of_units(n_units), seed)
    save_unit_lm(model, out)
    return {"parameters": count_parameters(model)}


def pretrain(folders: Folders, out: Path, config: PretrainSettings, engine: Engine) -> Facts:
    """Pre-train on packed rows; where there is a trunk, from its end."""
    after = folders["trunk"] / STATE if "trunk" in folders else None
    work = partial(_pretrain, config, engine.compute, folders["untrained"] / MODEL, folders["packed"], out, after, None)
    return engine.train("pretrained", work, out)


def trunk(folders: Folders, out: Path, config: PretrainSettings, until: str, engine: Engine) -> Facts:
    """Train what runs of several budgets have in common, up to `until`.

    It goes on from the longest shorter one that lies beside it: same config, same inputs. What comes out is the same
    (but for budgets of time, which no two runs spend alike). Only one of such stages trains at a time.
    """
    family = hashlib.sha256(
        json.dumps([identity(config), sorted(folder.name for folder in folders.values())]).encode()
    ).hexdigest()[:16]
    with store.locked(out.parent / f".{family}.lock", wait=True):
        after = longest_shorter(out, family, parse_budget(until, "pretrain.trunk").amount)
        work = partial(
            _pretrain, config, engine.compute, folders["untrained"] / MODEL, folders["packed"], out, after, until
        )
        facts = engine.train("trunk", work, out)
        return facts | {"family": family, "until": parse_budget(until, "pretrain.trunk").amount}


def longest_shorter(out: Path, family: str, until: float) -> Path | None:
    """The state of the finished trunk of a family that ends nearest before `until`; None where there is none."""
    found = [store.read_json(path) | {"folder": path.parent} for path in sorted(out.parent.glob(f"*/{MANIFEST}"))]
    shorter = [one for one in found if one["facts"]["family"] == family and one["facts"]["until"] < until]
    shorter = [one for one in shorter if (one["folder"] / STATE).is_dir()]
    return max(shorter, key=lambda one: one["facts"]["until"])["folder"] / STATE if shorter else None


def _pretrain(
    config: PretrainSettings, compute: Compute, model: Path, rows: Path, out: Path, after: Path | None,
    until: str | None, report: Report,
) -> Metrics:  # fmt: skip
    from slamray.tokens.rows import RowStore
    from slamray.train.cost import pretraining_cost
    from slamray.train.pretrain import Part, pretrain

    part = Part(after, until)
    facts = pretrain(config, compute, model, rows / packed.TRAIN, rows / packed.VALIDATION, out, report, part)
    return facts | pretraining_cost(config, compute.workers, model, RowStore(rows / packed.TRAIN), facts)


def dpo(folders: Folders, out: Path, config: DpoSettings, engine: Engine) -> Facts:
    """Align on spoken preference pairs."""
    return engine.train(
        "aligned",
        partial(_dpo, config, engine.compute, folders["pretrained"] / MODEL, folders["preferences"], out),
        out,
    )


def _dpo(config: DpoSettings, compute: Compute, model: Path, pairs: Path, out: Path, report: Report) -> Metrics:
    from slamray.model.saved_vocabulary import read_unit_vocabulary
    from slamray.tokens.vocabulary import read_vocabulary, reconcile
    from slamray.train.cost import dpo_cost
    from slamray.train.dpo.align import train_dpo

    if known := read_vocabulary(pairs):
        reconcile(read_unit_vocabulary(model, "dpo"), known, str(model), str(pairs))
    training = preferences.read(pairs, "train")
    facts = train_dpo(config, compute, model, training, preferences.read(pairs, "heldout"), out, report)
    return facts | dpo_cost(config, compute.workers, model, training, facts)
