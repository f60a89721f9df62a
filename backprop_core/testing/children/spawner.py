"""spawner.py FOLDER: a process that starts short-lived ones without a break, by fork and by vfork."""

import os
import subprocess
import sys
import time

from _signs import END, show

folder = sys.argv[1]
show(folder, "ready")
beat = os.open(os.path.join(folder, "beat"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
while time.monotonic() < END:
    if os.fork() == 0:
        os.write(beat, b".")
        if os.fork() == 0:
            os.write(beat, b".")
        os._exit(0)
    subprocess.run(["true"])
    os.wait()
