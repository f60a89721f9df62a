"""What the texts in a source tell: the options of its command line, and where it may save."""

from __future__ import annotations

import _ast as ast  # what `ast` adds in Python takes as long to load as a script to read
from collections.abc import Iterator

import msgspec

from backprop_core.patterns import pattern

MOST_PLACES = 500
MOST_PLACE_LENGTH = 300
_OPTION = pattern(r"--[a-z][a-z0-9_-]*")
_PLACE = pattern(rf"[^\s\0:*?\"<>|]{{1,{MOST_PLACE_LENGTH}}}")
_WITHOUT_VALUE = frozenset({"store_true", "store_false", "store_const", "count", "append_const"})


class Texts(msgspec.Struct, frozen=True):
    """What stands as whole string constants in a source; parts of f-strings do not count.

    `options` are long options, `valued` those of them that are declared as taking a value, `switches` those that
    take none, and `places` are texts that could be a folder's name.
    """

    options: frozenset[str] = frozenset()
    valued: frozenset[str] = frozenset()
    switches: frozenset[str] = frozenset()
    places: frozenset[str] = frozenset()


def texts_in(tree: ast.Module) -> Texts:
    """Read the texts of a source."""
    options: set[str] = set()
    valued: set[str] = set()
    switches: set[str] = set()
    places: set[str] = set()
    for node in _outside_f_strings(tree):
        match node:
            case ast.Constant(value=str(text)):
                if _OPTION.fullmatch(text):
                    options.add(text)
                elif len(places) < MOST_PLACES and _PLACE.fullmatch(text):
                    places.add(text)
            case ast.Call(func=ast.Attribute(attr="add_argument" | "option")):
                declared = switches if _takes_no_value(node) else valued
                declared |= {text for text in map(_text, node.args) if text and _OPTION.fullmatch(text)}
    return Texts(frozenset(options), frozenset(valued), frozenset(switches), frozenset(places))


def _outside_f_strings(tree: ast.Module) -> Iterator[ast.AST]:
    waiting: list[ast.AST] = [tree]
    for node in waiting:
        yield node
        if not isinstance(node, ast.JoinedStr):
            waiting.extend(inside(node))


def inside(node: ast.AST) -> Iterator[ast.AST]:
    """List the nodes right inside a node."""
    for name in node._fields:
        found = getattr(node, name, None)
        for each in found if isinstance(found, list) else (found,):
            if isinstance(each, ast.AST):
                yield each


def _text(node: ast.expr) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _takes_no_value(call: ast.Call) -> bool:
    """Tell what argparse calls `action="store_true"` or BooleanOptionalAction, and click `is_flag=True`."""
    for keyword in call.keywords:
        match keyword.arg, keyword.value:
            case "action", ast.Constant(value=str(action)):
                return action in _WITHOUT_VALUE
            case "action", ast.Attribute(attr="BooleanOptionalAction") | ast.Name(id="BooleanOptionalAction"):
                return True
            case "is_flag", ast.Constant(value=True):
                return True
    return False
