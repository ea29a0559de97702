"""Run a recipe: `python jobs/slam.py [recipe=NAME] [profile=NAME] [a.b=c ...] [--plan | --verify]`."""

import sys

from slamray.recipe import build
from slamray.run import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], build))
