"""hopper.py FOLDER: a process that forks itself into a new session and leaves, a thousand times a second."""

import os
import signal
import sys
import time

from _signs import END, live, show

folder = sys.argv[1]
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)

if os.fork() == 0:
    hops = 0
    while time.monotonic() < END:
        if os.fork() != 0:
            os._exit(0)
        os.setsid()
        hops += 1
        if hops == 20:
            show(folder, "ready")
        time.sleep(0.0005)
    os._exit(0)

live()
