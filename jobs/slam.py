"""Run a recipe: `python jobs/slam.py [recipe=NAME] [profile=NAME] [a.b=c ...] [--plan | --verify]`."""

import sys

from slamray.commands.run import main
from slamray.recipe.slam import build

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], build))
