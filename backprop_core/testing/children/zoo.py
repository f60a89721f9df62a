"""zoo.py FOLDER: eight processes that mind neither SIGINT, SIGTERM nor SIGHUP, each hard to find in its own way.

This one; a plain child; an orphan; a daemon in a session of its own that has let go of the output; one with an
emptied environment; one with that and a session of its own; one that has stopped itself; and one that forks itself
into a new session and leaves, a thousand times a second.
"""

import os
import signal
import sys
import time

import _signs
from _signs import live, show

LIFE_S = 60.0  # long enough for a busy machine to start and end many of these
folder = sys.argv[1]
_signs.END += LIFE_S - _signs.LIFE_S
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)


def settle() -> None:
    show(folder, "ready")
    live()
    os._exit(0)


def child() -> None:
    settle()


def orphan() -> None:
    if os.fork() == 0:
        settle()
    os._exit(0)


def daemon() -> None:
    os.setsid()
    if os.fork() == 0:
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(nothing, number)
        settle()
    os._exit(0)


def emptied() -> None:
    os.execve(sys.executable, [sys.executable, "-S", "-B", __file__, folder, "settled"], {})


def emptied_elsewhere() -> None:
    os.setsid()
    emptied()


def stopped() -> None:
    os.setsid()
    show(folder, "ready")
    while time.monotonic() < _signs.END:
        os.kill(os.getpid(), signal.SIGSTOP)
    os._exit(0)


def hopper() -> None:
    hops = 0
    while time.monotonic() < _signs.END:
        if os.fork() != 0:
            os._exit(0)
        os.setsid()
        hops += 1
        if hops == 20:
            show(folder, "ready")
        time.sleep(0.0005)
    os._exit(0)


if "settled" in sys.argv:
    settle()
for animal in (child, orphan, daemon, emptied, emptied_elsewhere, stopped, hopper):
    if os.fork() == 0:
        animal()
settle()
