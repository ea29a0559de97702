"""Continue spoken prompts: `python jobs/generate.py input=FILE|FOLDER out=FOLDER [checkpoint=FOLDER] [a.b=c ...]`."""

import sys

from slamray.commands.door import main

if __name__ == "__main__":
    sys.exit(main("generate", sys.argv[1:]))
