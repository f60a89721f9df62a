"""`backprop pause`."""

from __future__ import annotations

from .control import request
from .declared import Command, Given
from .options import Run


def pause(given: Given, run: Run) -> int:
    return request(given, run, "pause", "is asked to pause; continue it with `backprop unpause`")


COMMAND = Command(pause)
