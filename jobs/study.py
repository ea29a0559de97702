"""Run a study: `python jobs/study.py recipe=study_context_laptop [profile=NAME] [a.b=c ...] [--plan | --verify]`."""

import sys

from slamray.commands.door import main

if __name__ == "__main__":
    sys.exit(main("study", sys.argv[1:]))
