"""`backprop stop`."""

from __future__ import annotations

from .control import request
from .declared import Command, Given
from .options import Run


def stop(given: Given, run: Run) -> int:
    return request(given, run, "stop", "is asked to stop")


COMMAND = Command(stop)
