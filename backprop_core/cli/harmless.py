"""What of a script's output a terminal is given: text, colours and carriage returns."""

from __future__ import annotations

import codecs
import re

# Colours pass, and carriage returns; every other escape sequence and control character does not.
_UNSAFE = re.compile(
    r"\x1b(?!\[[0-9:;]*m)"  # an escape that sets no colour: ESC [ > 4 m and ESC [ ? 4 m are about the keyboard
    r"(?:\[[0-?]*[ -/]*[@-~]|\[|[^\r\n\x1b])?"  # the whole sequence, the start of an unfinished one, or one character
    r"|[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f]"  # C0, DEL and C1, but tab, LF, CR and ESC
)
_UNFINISHED = re.compile(r"\x1b(?:\[[0-?]{0,32}[ -/]{0,8})?\Z")


def harmless(text: str) -> str:
    """Keep text, colours and carriage returns; drop every other control sequence."""
    return _UNSAFE.sub("", text)


class HarmlessStream:
    """Makes output harmless as it comes: a sequence or a character may arrive in two pieces."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    def feed(self, data: bytes, *, is_last: bool = False) -> bytes:
        """Return what of this piece, and of what was held back before, may be shown now."""
        text = self._rest + self._decoder.decode(data, is_last)
        unfinished = None if is_last else _UNFINISHED.search(text)
        self._rest = unfinished[0] if unfinished else ""
        return harmless(text[: len(text) - len(self._rest)]).encode()
