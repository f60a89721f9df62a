"""Whether what a plugin's code hands over is of use: a part that has what such a part needs, variables, arguments."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from .interfaces import NEEDS


def problem_with_part(hook: str, part: object) -> str | None:
    """Say what a part that this hook handed over lacks to be of use; None where it lacks nothing.

    A property of the part may raise anything.
    """
    if isinstance(part, type):
        return f"{part.__name__} is a class, not an object of it"
    kind = type(part).__name__
    missing = [name for name in NEEDS[hook] if not hasattr(part, name)]
    if missing:
        return f"{kind} lacks {', '.join(missing)}"
    for name in NEEDS[hook]:
        value: object = getattr(part, name)
        wanted, is_right = _MEANT.get(name, ("a method", callable))
        if not is_right(value):
            return f"{kind}.{name} is {value!r:.80}, not {wanted}"
    return None


def is_name(value: object) -> bool:
    """Tell whether people can type it."""
    return isinstance(value, str) and value.isprintable() and value.strip() == value != ""


def is_number(value: object) -> bool:
    """Tell whether it can be calculated with; an infinite one can."""
    return isinstance(value, int | float) and not math.isnan(value)


def is_text_or_none(value: object) -> bool:
    """Tell whether it is a text, or nothing."""
    return value is None or isinstance(value, str)


def are_texts(value: object) -> bool:
    """Tell whether it is a list of texts."""
    return isinstance(value, list | tuple) and all(
        isinstance(each, str) for each in cast("Sequence[object]", value)
    )


_MEANT: Mapping[str, tuple[str, Callable[[object], bool]]] = {
    "name": ("a name that people can type", is_name),
    "order": ("a number", is_number),
    "schemes": ("a tuple of texts", are_texts),
}


def are_variables(value: object) -> bool:
    """Tell whether an answer can be put into an environment."""
    if not isinstance(value, Mapping):
        return False
    texts = [text for pair in value.items() for text in pair]
    has_only_texts = all(isinstance(text, str) and "\0" not in text for text in texts)
    return has_only_texts and not any("=" in name or not name for name in value)


def are_arguments(value: object) -> bool:
    """Tell whether an answer can be put onto a command line."""
    return are_texts(value) and not any("\0" in text for text in cast("Sequence[str]", value))
