"""Score many checkpoints by many metrics in one process, from the recipe's run or from anywhere.

`python jobs/evaluate.py [checkpoints=[folder,...]] [sets={sblimp: folder}] [metrics=[...]] [a.b=c ...]
[--plan | --verify]`.
"""

import sys
from functools import partial

from slamray.commands.help import is_asked, print_help
from slamray.commands.run import main
from slamray.recipe.evaluation import build, own_words, show

if __name__ == "__main__":
    if is_asked(sys.argv[1:]):
        sys.exit(print_help("evaluate"))
    asked, words = own_words(sys.argv[1:])
    sys.exit(main(words, partial(build, asked=asked), show))
