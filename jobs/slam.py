"""Run a recipe: `python jobs/slam.py [recipe=NAME] [profile=NAME] [a.b=c ...] [--plan | --verify]`."""

import sys

from slamray.commands.door import main

if __name__ == "__main__":
    sys.exit(main("slam", sys.argv[1:]))
