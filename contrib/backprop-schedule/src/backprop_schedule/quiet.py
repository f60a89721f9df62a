"""Quiet hours, by the clock on the wall."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import NamedTuple

DAY_MINUTES = 24 * 60
_SPAN = re.compile(r"(\d{1,2}):(\d\d)-(\d{1,2}):(\d\d)", re.ASCII)


class Quiet(NamedTuple):
    """Minutes of the day from `begin` to before `end`; over midnight where `end` is not later."""

    begin: int
    end: int

    def holds(self, minute: int) -> bool:
        if self.begin < self.end:
            return self.begin <= minute < self.end
        return minute >= self.begin or minute < self.end


def parse_quiet(text: str) -> tuple[Quiet, ...]:
    """Read "22:00-07:00, 12:30-13:30".

    :raises ValueError: for anything else, saying what.
    """
    return tuple(parse_span(part.strip()) for part in text.split(",") if part.strip())


def parse_span(text: str) -> Quiet:
    found = _SPAN.fullmatch(text)
    if found is None:
        raise ValueError(f"quiet-hours: {text!r} is not of the form HH:MM-HH:MM")
    hours, minutes = (int(found[1]), int(found[3])), (int(found[2]), int(found[4]))
    begin, end = (hour * 60 + minute for hour, minute in zip(hours, minutes, strict=True))
    if max(minutes) > 59 or begin >= DAY_MINUTES or end > DAY_MINUTES:
        raise ValueError(f"quiet-hours: {text!r} holds a time that is on no clock")
    if begin == end % DAY_MINUTES:
        raise ValueError(f"quiet-hours: {text!r} ends when it begins")
    return Quiet(begin, end % DAY_MINUTES)


def quiet_until(spans: Sequence[Quiet], now: time.struct_time) -> str | None:
    """Return when the quiet that holds now is over, as HH:MM; None when it is not quiet."""
    minute = now.tm_hour * 60 + now.tm_min
    end = None
    for _ in spans:  # one may end inside another
        for span in spans:
            if span.holds(minute):
                end = minute = span.end
    return None if end is None else f"{end // 60:02}:{end % 60:02}"
