"""Runs beside the paper: `python jobs/compare.py [root=runs] [runs=[a,b]] [price_per_device_hour=1.2] [out=x.png]`.

Or beside each other, on a page: `python jobs/compare.py out=page.html`.
"""

import sys

from slamray.commands.door import main

if __name__ == "__main__":
    sys.exit(main("compare", sys.argv[1:]))
