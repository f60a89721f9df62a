"""stubborn.py FOLDER: five processes that do not mind SIGINT and SIGTERM.

One is a plain child, one an orphan in a session of its own, one has an emptied environment and a child in yet
another session.
"""

import os
import signal
import sys

from _signs import live, show


def settle(folder: str) -> None:
    show(folder, "ready")
    live()
    os._exit(0)


folder = sys.argv[1]
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)

if "emptied" in sys.argv:
    if os.fork() == 0:
        os.setsid()
        settle(folder)
    settle(folder)

if os.fork() == 0:
    settle(folder)

if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        settle(folder)
    os._exit(0)

if os.fork() == 0:
    os.setsid()
    os.execve(sys.executable, [sys.executable, "-S", "-B", __file__, folder, "emptied"], {})

settle(folder)
