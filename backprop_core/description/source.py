"""What a script's source calls and names, without running it."""

from __future__ import annotations

import ast
from pathlib import Path

from backprop_core.clock import now_s
from backprop_core.records import Record, Script

from .imports import walk

MOST_S = 1.0


class Call(Record, frozen=True):
    """A call in a source: `trainer.fit(model, ckpt_path=None)` has the receiver "trainer" and the name "fit".

    `receiver` is None where something else than a dotted name is called. `keywords` are the names of its
    keyword arguments, `line` counts from 1.
    """

    name: str
    receiver: str | None
    keywords: frozenset[str]
    line: int
    path: Path


class Source(Record, frozen=True):
    """What a script and the local modules that it imports hold.

    `names` are identifiers: variables, attributes and keyword arguments, and what is called with its receiver
    ("torch.load"). `texts` are whole string constants.
    Files that were not read in a second are left out.
    """

    calls: tuple[Call, ...] = ()
    names: frozenset[str] = frozenset()
    texts: frozenset[str] = frozenset()


def read_source(script: Script) -> Source:
    """Read what a script's source calls and names; what is not there or does not parse has nothing."""
    calls: list[Call] = []
    names: set[str] = set()
    texts: set[str] = set()
    for source, tree, _ in walk(script.path, _root_of(script), now_s() + MOST_S):
        for node in ast.walk(tree):
            match node:
                case (
                    ast.Name(id=name)
                    | ast.Attribute(attr=name)
                    | ast.keyword(arg=str(name))
                    | ast.alias(name=name)
                ):
                    names.add(name)
                case ast.Constant(value=str(text)):
                    texts.add(text)
                case ast.Call(func=ast.Name() | ast.Attribute()):
                    call = _call(node, source.path)
                    calls.append(call)
                    names.add(f"{call.receiver}.{call.name}")
    return Source(calls=tuple(calls), names=frozenset(names), texts=frozenset(texts))


def _root_of(script: Script) -> Path:
    """Return the folder in which absolute imports of the script find local modules."""
    if script.module is None:
        return script.path.parent
    above = len(script.module.split(".")) - (script.path.name != "__main__.py")
    return script.path.parents[min(above, len(script.path.parents) - 1)]


def _call(node: ast.Call, path: Path) -> Call:
    called = node.func
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    return Call(
        name=name,
        receiver=_dotted(called.value) if isinstance(called, ast.Attribute) else None,
        keywords=frozenset(keyword.arg for keyword in node.keywords if keyword.arg),
        line=node.lineno,
        path=path,
    )


def _dotted(node: ast.expr) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        inside = _dotted(node.value)
        return f"{inside}.{node.attr}" if inside else None
    return None
