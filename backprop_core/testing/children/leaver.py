"""leaver.py FOLDER [CODE [wait|inside]]: leave workers behind in the process group and outside of it.

Half of them end when they are asked to, the others do not. `wait`: end only when interrupted. `inside`: all of
them in the process group.
"""

import os
import signal
import sys
import time

from _signs import live, show

folder = sys.argv[1]
code = int(sys.argv[2]) if len(sys.argv) > 2 else 0


def heed(*_: object) -> None:
    show(folder, "terminated")
    os._exit(0)


signal.signal(signal.SIGINT, signal.SIG_IGN)
for is_stubborn in (False, True):
    for is_outside in (False, True):
        if os.fork() == 0:
            if is_outside and "inside" not in sys.argv:
                os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_IGN if is_stubborn else heed)
            show(folder, "ready")
            live()
            os._exit(0)

while len([name for name in os.listdir(folder) if name.startswith("ready")]) < 4:
    time.sleep(0.005)
if "wait" in sys.argv:
    signal.signal(signal.SIGINT, lambda *_: os._exit(code))
    show(folder, "waiting")
    live()
os._exit(code)
