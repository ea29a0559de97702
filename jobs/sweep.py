"""Search a space of recipes: `python jobs/sweep.py [recipe=dpo_budget_laptop] [profile=NAME] [a.b=c ...] [--plan]`."""

import sys
from pathlib import Path

from slamray.commands.sweep import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Path(__file__).parent.parent / "tuning"))
