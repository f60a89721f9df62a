"""polite.py FOLDER [CODE]: save and leave when interrupted."""

import sys

from _signs import live, show

try:
    show(sys.argv[1], "ready")
    live()
except KeyboardInterrupt:
    show(sys.argv[1], "saved")
    sys.exit(int(sys.argv[2]) if len(sys.argv) > 2 else 0)
