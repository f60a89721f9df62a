"""Do nothing until SIGINT comes."""

import signal
import sys

signal.signal(signal.SIGINT, lambda *_: sys.exit())
while True:
    signal.pause()
