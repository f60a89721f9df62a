"""How the children show themselves: files in the folder that they are given, and an end to their lives."""

import os
import time

LIFE_S = 20.0  # a test that fails leaves nothing behind for longer
END = time.monotonic() + LIFE_S


def show(folder: str, sign: str) -> None:
    """Make the file `sign-PID`, saying when."""
    path = os.path.join(folder, f"{sign}-{os.getpid()}")
    with open(path + "~", "w") as file:
        file.write(repr(time.monotonic()))
    os.rename(path + "~", path)


def live() -> None:
    while time.monotonic() < END:
        time.sleep(0.05)


def burn() -> None:
    while time.monotonic() < END:
        pass
