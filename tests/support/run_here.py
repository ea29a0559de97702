"""Make a recipe in this process, without Ray: `python run_here.py FOLDER WORD ...`; prints the stages' facts as JSON.

For tests that run a changed copy of the package, which needs an interpreter of its own.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

from slamray.config.load import load_recipe
from slamray.recipe.slam import build
from slamray.stage.materialise import materialise
from support.machine import InProcess
from support.processes import join_group


def main(folder: Path, words: list[str]) -> None:
    torch.set_num_threads(1)
    recipe = load_recipe([*words, f"root={folder / 'runs'}"])
    targets = build(recipe)
    join_group(os.environ.__setitem__, 0, 1, folder / "store")
    manifests = materialise(targets, Path(recipe.root), InProcess(recipe.compute), {"words": words})
    report = targets[0].folder(Path(recipe.root)).fetch("report.html")
    facts = {name: manifest["facts"] for name, manifest in manifests.items()}
    print(json.dumps({"report": str(report), "facts": facts}))
    sys.stdout.flush()
    os._exit(0)  # not through the threads of the process group


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
