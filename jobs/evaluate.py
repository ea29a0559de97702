"""Score many checkpoints by many metrics in one process, from the recipe's run or from anywhere.

`python jobs/evaluate.py [checkpoints=[folder,...]] [sets={sblimp: folder}] [metrics=[...]] [a.b=c ...]
[--plan | --verify]`.
"""

import sys

from slamray.commands.door import main

if __name__ == "__main__":
    sys.exit(main("evaluate", sys.argv[1:]))
