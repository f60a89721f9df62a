"""Amounts as people type and read them."""

from __future__ import annotations

import math
import re

from .patterns import pattern

_LIMIT = pattern(r"\s*(\d+(?:\.\d+)?)\s*(%|GB?|gb?)?\s*")
_DURATION = pattern(r"(\d{1,9}(?:\.\d{1,9})?)([smhdw])", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
MB_PER_GB = 1024


def memory_limit_mb(text: str, total_mb: float | None) -> float | None:
    """Turn a GPU memory limit into MiB.

    :param text: "80%" of the GPU, or "8" (also "8GB") for GiB.
    :param total_mb: What the GPU has, in MiB; None when unknown.
    :returns: None for a percentage of an unknown total.
    :raises ValueError: for anything else, for 0, and for more than 100 %.
    """
    found = _LIMIT.fullmatch(text)
    amount = float(found[1]) if found else 0.0
    is_share = found is not None and found[2] == "%"
    if not 0 < amount < math.inf or (is_share and amount > 100):
        raise ValueError(f"{text!r} is neither a share such as '80%' nor GB such as '8'")
    if is_share:
        return None if total_mb is None else total_mb * amount / 100
    return amount * MB_PER_GB


def format_duration(seconds: float) -> str:
    """Write a duration in two units at most: 45s, 9m 30s, 2h 05m, 3d 4h."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}m {rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h {minutes:02d}m"
    days, hours = divmod(hours, 24)
    return f"{days}d {hours}h"


def duration_s(text: str) -> float:
    """Turn what people type, such as 30d, 12h or 1.5w, into seconds.

    :raises ValueError: for anything else.
    """
    found = _DURATION.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is no time such as 45m, 12h, 30d or 8w")
    return float(found[1]) * _SECONDS[found[2]]


def format_size(size_bytes: int) -> str:
    """Write a size shortly, in powers of 1000."""
    amount = float(size_bytes)
    for unit in ("bytes", "kB", "MB", "GB"):
        if amount < 1000 or unit == "GB":
            break
        amount /= 1000
    return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.1f} {unit}"


def format_amount(value: float | None, unit: str, digits: int = 1) -> str:
    """Write a measured amount with its unit; unknown stays unknown."""
    return "unknown" if value is None else f"{value:.{digits}f} {unit}"


def escape(text: str) -> str:
    r"""Make text from a name, a path or a record harmless to show on a terminal.

    Control, format, surrogate, private and line-separator characters become backslash escapes
    (Unicode categories C*, Zl and Zp).
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )
