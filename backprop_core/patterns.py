"""Regular expressions that are compiled when they are first used.

Backprop and its plugins have some eighty, and most commands need few of them: compiling all would take a third of the
time that `backprop list` takes.
"""

from __future__ import annotations

import re
from typing import Any, cast

_METHODS = ("match", "fullmatch", "search", "finditer", "findall", "sub", "split")


def pattern(text: str, flags: int = 0) -> re.Pattern[str]:
    """Return what `re.compile` would, ready to be compiled when one of its methods is first called."""
    return cast("re.Pattern[str]", _Pattern(text, flags))


class _Pattern:
    """Turns its methods into those of the compiled pattern at the first use, so that later ones cost no more."""

    def __init__(self, text: str, flags: int) -> None:
        self._text = text
        self._flags = flags

    def __getattr__(self, name: str) -> Any:
        if name not in _METHODS:
            raise AttributeError(name)
        compiled = re.compile(self._text, self._flags)
        for method in _METHODS:
            setattr(self, method, getattr(compiled, method))
        return getattr(compiled, name)
