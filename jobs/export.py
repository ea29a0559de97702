"""Export a checkpoint: `python jobs/export.py out=FOLDER [checkpoint=FOLDER | recipe=NAME a.b=c ...] [layout=...]`."""

import sys

from slamray.commands.door import main

if __name__ == "__main__":
    sys.exit(main("export", sys.argv[1:]))
