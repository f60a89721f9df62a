"""Pieces of text to look for in output, all at once and at a fraction of what a search for each would cost."""

from __future__ import annotations

from collections.abc import Collection

_EVERY_BYTE = bytes(range(256))
_COMMON = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789 .,-=\n")
"""What most of any output consists of."""


class Signs:
    """Looks for signs, pieces of text, in output.

    Output is thinned out first: of its bytes only those are kept that are in a sign and uncommon. Most is gone then,
    and a sign can only be where its uncommon bytes still stand in a row. Signs of common bytes alone are looked for
    in what is left when all bytes but theirs are taken out.
    """

    def __init__(self, signs: Collection[bytes]) -> None:
        marked = {sign: _without(sign, _COMMON) for sign in signs}
        plain = {sign: sign for sign, marks in marked.items() if not marks}
        self._searches = [
            (_all_but(b"".join(needles.values())), needles)
            for needles in ({sign: marks for sign, marks in marked.items() if marks}, plain)
            if needles
        ]

    def found_in(self, output: bytes) -> set[bytes]:
        """Return the signs that the output holds."""
        found = set()
        for others, needles in self._searches:
            thin = output.translate(None, others)
            found |= {sign for sign, needle in needles.items() if needle in thin and sign in output}
        return found


def _without(text: bytes, left_out: Collection[int]) -> bytes:
    return bytes(byte for byte in text if byte not in left_out)


def _all_but(kept: bytes) -> bytes:
    return _without(_EVERY_BYTE, kept)
