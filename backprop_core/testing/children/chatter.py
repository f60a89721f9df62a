"""chatter.py FOLDER: print as fast as the pipe takes it; when interrupted print more still, then save."""

import os
import sys
import time

from _signs import END, show

LINE = b"x" * 4095 + b"\n"
try:
    show(sys.argv[1], "ready")
    while time.monotonic() < END:
        os.write(1, LINE)
except KeyboardInterrupt:
    for _ in range(200):  # more than a pipe holds
        os.write(1, LINE)
    show(sys.argv[1], "saved")
