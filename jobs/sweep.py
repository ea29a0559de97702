"""Search a space of recipes: `python jobs/sweep.py [recipe=dpo_budget_laptop] [profile=NAME] [a.b=c ...] [--plan]`."""

import sys

from slamray.commands.door import main

if __name__ == "__main__":
    sys.exit(main("sweep", sys.argv[1:]))
