"""`backprop extend`."""

from __future__ import annotations

import math
from typing import Annotated

from backprop_core.errors import UsageError
from backprop_core.units import escape

from .control import request
from .declared import Command, Given, argument
from .options import Run

A_YEAR = 366 * 24 * 60.0


def extend(
    given: Given,
    run: Run,
    minutes: Annotated[str, argument("How many minutes longer its time box lasts.", metavar="MINUTES")],
) -> int:
    more = _minutes_in(minutes)
    return request(given, run, "extend", f"is given {more:g} minutes more", more)


def _minutes_in(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = math.nan
    if not 0 < minutes <= A_YEAR:
        raise UsageError(f"{escape(text)} is no number of minutes", "give a number above 0")
    return minutes


COMMAND = Command(extend)
