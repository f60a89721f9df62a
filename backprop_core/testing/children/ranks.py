"""ranks.py FOLDER COUNT: start workers as torchrun does, each in a session of its own, all of them computing."""

import os
import subprocess
import sys

from _signs import burn, live, show

folder, count = sys.argv[1], int(sys.argv[2])
if count:
    for _ in range(count):
        subprocess.Popen([sys.executable, "-S", "-B", __file__, folder, "0"], start_new_session=True)
    show(folder, "ready")
    live()
else:
    show(folder, "ready")
    burn()
