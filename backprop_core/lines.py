"""Output cut into lines, whatever the boundaries of its reads."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

LINE_CAP_BYTES = 64 * 1024


class Lines:
    r"""Cuts output into lines of text at `\n` and `\r`, whatever the boundaries of the reads.

    A line longer than 64 KiB is dropped and counted in `dropped`; bytes that are not UTF-8 become U+FFFD.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._skipping = False
        self.dropped = 0

    def feed(self, data: bytes) -> list[str]:
        """Return the lines that this chunk completes, without their ends; empty ones are left out."""
        return as_text(self.cut(data))

    def cut(self, data: bytes) -> bytes:
        r"""Return the lines that this chunk completes, as they are, with `\n` between them."""
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        whole, end, rest = data.rpartition(b"\n")
        if not end:
            self._keep(self._rest + rest)
            return b""
        whole = self._rest + whole if self._rest else whole
        if self._skipping:
            _, _, whole = whole.partition(b"\n")
            self._skipping = False
        self._rest = b""
        self._keep(rest)
        return self._without_overlong(whole) if len(whole) > LINE_CAP_BYTES else whole

    def end(self) -> bytes:
        """Return what stands after the last line end."""
        return self.cut(b"\n")

    def _keep(self, rest: bytes) -> None:
        if self._skipping or len(rest) > LINE_CAP_BYTES:
            self.dropped += not self._skipping
            self._skipping, rest = True, b""
        self._rest = rest

    def _without_overlong(self, whole: bytes) -> bytes:
        if not _has_overlong(whole):
            return whole
        lines = whole.split(b"\n")
        kept = [line for line in lines if len(line) <= LINE_CAP_BYTES]
        self.dropped += len(lines) - len(kept)
        return b"\n".join(kept)


def _has_overlong(lines: bytes) -> bool:
    """Leap from line end to line end, as far as a line may be long."""
    begin = 0
    while begin + LINE_CAP_BYTES < len(lines):
        end = lines.rfind(b"\n", begin, begin + LINE_CAP_BYTES + 1)
        if end < 0:
            return True
        begin = end + 1
    return False


def as_text(lines: bytes) -> list[str]:
    """Decode lines, leaving empty ones out."""
    return [line for line in lines.decode("utf-8", "replace").split("\n") if line]


Run = tuple[bool, bytes]
"""Lines that follow one another, and whether each of them holds a sign; otherwise none does."""


def runs_by_sign(lines: bytes, signs: Collection[bytes]) -> list[Run]:
    """Tell lines with one of these signs from those without; without signs to look for, every line counts as with."""
    if not signs:
        return [(True, lines)]
    runs: list[Run] = []
    seen = 0
    for begin, end in _spans_with(lines, signs):
        if between := lines[seen:begin].strip(b"\n"):
            runs.append((False, between))
        runs.append((True, lines[begin:end]))
        seen = end + 1
    if rest := lines[seen:].strip(b"\n"):
        runs.append((False, rest))
    return runs


def _spans_with(lines: bytes, signs: Collection[bytes]) -> list[list[int]]:
    """Find where lines with a sign begin and end; those that follow one another are one span."""
    find = re.compile(b"|".join(map(re.escape, signs))).search
    spans: list[list[int]] = []
    seen = 0
    while (found := find(lines, seen)) is not None:
        begin = lines.rfind(b"\n", seen, found.start()) + 1 or seen
        end = lines.find(b"\n", found.end())
        end = len(lines) if end < 0 else end
        if spans and begin == seen:
            spans[-1][1] = end
        else:
            spans.append([begin, end])
        seen = end + 1
    return spans


def joined(runs: Sequence[Run], *, has_sign: bool) -> bytes:
    """Return the lines with a sign, or those without."""
    return b"\n".join(run for has, run in runs if has is has_sign)
