"""Commands typed plainly, called without typer, whose import would double the time that most of them take.

What is understood here is a part of what typer understands, to the letter: declared names spelled out, values
that begin with no dash. Everything else (help, mistakes, plugins' commands and options) is left to typer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

from .declared import Argument, Command, Option, Parameter

_NOT_PLAIN = object()


def values_of(command: Command, words: Sequence[str]) -> dict[str, Any] | None:
    """Read the words that follow a command's name; None where only typer can tell what they mean."""
    option_of = {
        name: each
        for each in command.parameters
        if isinstance(each.declared, Option)
        for name in each.declared.names
    }
    arguments = [each for each in command.parameters if isinstance(each.declared, Argument)]
    values: dict[str, Any] = {}
    left = iter(words)
    for word in left:
        name, has_equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
        parameter = option_of.get(name)
        if parameter is None:
            if word.startswith("-") or not arguments:
                return None
            parameter, value = arguments.pop(0), word
        elif _without_none(parameter.kind) is bool:
            if has_equals:
                return None
            values[parameter.name] = True
            continue
        elif not has_equals:
            value = next(left, "")
        if not _put(values, parameter, value):
            return None
    if any(each.is_required for each in arguments):
        return None
    return values


def _put(values: dict[str, Any], parameter: Parameter, text: str) -> bool:
    """Note a value; False where it is for typer to judge."""
    converted = _converted(parameter, text)
    if converted is _NOT_PLAIN or not text or text.startswith("-"):
        return False
    if isinstance(converted, list):
        values.setdefault(parameter.name, []).extend(converted)
        return True
    is_new = parameter.name not in values
    values[parameter.name] = converted
    return is_new


def _converted(parameter: Parameter, text: str) -> Any:
    kind = _without_none(parameter.kind)
    if kind is str:
        return text
    if kind is Path:
        return Path(text)
    if get_origin(kind) is list:
        return [text]
    least = parameter.declared.least if isinstance(parameter.declared, Option) else None
    is_number = kind is int and text.isascii() and text.isdecimal() and len(text) < 10
    return int(text) if is_number and int(text) >= (least or 0) else _NOT_PLAIN


def _without_none(kind: Any) -> Any:
    if isinstance(kind, UnionType):
        return next(each for each in get_args(kind) if each is not type(None))
    return kind
