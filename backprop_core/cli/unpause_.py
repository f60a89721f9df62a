"""`backprop unpause`."""

from __future__ import annotations

from .control import request
from .declared import Command, Given
from .options import Run


def unpause(given: Given, run: Run) -> int:
    return request(given, run, "unpause", "is asked to continue")


COMMAND = Command(unpause)
