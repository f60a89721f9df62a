"""Read many JSON lines at once that hold numbers under the same names in the same order, as most scripts print them.

Nothing is done for a single line: the lines are compared with the first of them with their numbers taken out, made
into lines of a series by replacing names, and decoded in one call, which checks every name and number once more.
"""

from __future__ import annotations

import re

import msgspec

from backprop_core import ProgressBatch

_IN_NUMBERS = b"0123456789+-.eE"
_SHAPE = re.compile(rb'\{"[^"\\{}\x00-\x1f]*": ?(?:, ?"[^"\\{}\x00-\x1f]*": ?)*\}')
_NAME = re.compile(rb'([{,] ?)("([^"\\]*)": ?)')
_FIELDS = {b"step": b"step", b"epoch": b"epoch", b"loss": b"loss"} | dict.fromkeys(
    (b"total_steps", b"totalSteps"), b"totalSteps"
)
_OF_CHECKPOINTS = {b"event", b"path"}
NOT_PLAIN = (msgspec.DecodeError, ValueError, RecursionError)
"""What decoding raises: no JSON or of other types, no UTF-8, nested too deeply."""


def parse_alike(lines: bytes) -> ProgressBatch | None:
    """Decode lines that hold numbers under the same names; None where one of them is different.

    Other names than those of a step are metrics. They have to stand next to one another.
    """
    count = _count_alike(lines)
    if not count:
        return None
    text = _as_series(lines, _NAME.findall(first_lines(lines)), count)
    if text is None:
        return None
    try:
        batch = ProgressBatch.read(text, is_alike=True)
    except NOT_PLAIN:
        return None
    return batch if len(batch) == count else None


def first_lines(lines: bytes, least_bytes: int = 0) -> bytes:
    """Return the first line, or the first lines that take as many bytes together."""
    end = lines.find(b"\n", least_bytes)
    return lines if end < 0 else lines[:end]


def _count_alike(lines: bytes) -> int:
    """Count the lines if all are the first one with other numbers; 0 if not, or if there is more than numbers."""
    shape = first_lines(lines).translate(None, _IN_NUMBERS)
    if not _SHAPE.fullmatch(shape):
        return 0
    shapes = lines.translate(None, _IN_NUMBERS)
    count, rest = divmod(len(shapes) + 1, len(shape) + 1)
    return count if not rest and ((shape + b"\n") * count).startswith(shapes) else 0


def _as_series(lines: bytes, found: list[tuple[bytes, bytes, bytes]], count: int) -> bytes | None:
    """Write lines as a series has them, metrics in an object of their own; None where that takes more than this.

    A name of the first line that another line lacks stays as it is there, and is refused by the decoder; but for
    names of metrics, so these are counted.
    """
    names = [_FIELDS.get(name, b"") for _, _, name in found]
    known = [name for name in names if name]
    spelled = {name for _, _, name in found}
    if len(spelled) < len(found) or len(set(known)) < len(known) or spelled & _OF_CHECKPOINTS:
        return None
    if b"total_steps" in spelled:
        lines = lines.replace(b'"total_steps"', b'"totalSteps"')
    places = [place for place, name in enumerate(names) if not name]
    if not places:
        return lines
    begin, end = places[0], places[-1] + 1
    if end - begin != len(places) or any(lines.count(found[place][1]) != count for place in places):
        return None
    before, name, _ = found[begin]
    lines = lines.replace(before + name, before + b'"metrics": {' + name)
    if end == len(found):
        return lines.replace(b"}", b"}}")
    before, name, _ = found[end]
    name = name.replace(b'"total_steps"', b'"totalSteps"')
    return lines.replace(before + name, b"}" + before + name)
