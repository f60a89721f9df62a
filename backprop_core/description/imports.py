"""Imports and options, read from source by the parser alone; nothing is imported or executed."""

from __future__ import annotations

import _ast as ast
import os
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from backprop_core.clock import now_s

from .texts import Texts, inside, texts_in

DEPTH_WEIGHTS = (1.0, 0.6, 0.3)
"""What an import counts in the script, in a local module it imports, and in a module that one imports."""
CONDITIONAL = 0.3
"""What an import counts that may never run: in a function, under TYPE_CHECKING, or allowed to fail."""
NAMED = 0.5
"""What `import_module("name")` counts."""
MAX_FILES = 100
MAX_SCAN_S = 0.2
MAX_SOURCE_BYTES = 500_000
"""Above this a source is left unread: a table of numbers takes 0.8 s and 300 MB to parse for each MB."""

_CAUGHT = frozenset({"ImportError", "ModuleNotFoundError", "Exception", "BaseException"})


class Import(msgspec.Struct, frozen=True):
    """One import statement; `level` counts the dots of a relative one."""

    module: str
    names: tuple[str, ...]
    level: int
    weight: float


class Source(msgspec.Struct, frozen=True):
    """A file to be read; `weight` is what an unconditional import in it counts."""

    path: Path
    depth: int
    weight: float


def scan(entry: Path, root: Path) -> tuple[dict[str, float], Texts]:
    """Read a script's imports, those of the local modules it imports, and the texts that it holds itself.

    :param root: The folder in which absolute imports find local modules.
    :returns: Every dotted prefix and imported name with the greatest weight found, and the texts.
    """
    weights: dict[str, float] = {}
    texts = Texts()
    for source, tree, found in walk(entry, root, now_s() + MAX_SCAN_S):
        if source.depth == 0:
            texts = texts_in(tree)
        for each in found:
            _note(each, source.weight, weights)
    return weights, texts


def walk(entry: Path, root: Path, until_s: float) -> Iterator[tuple[Source, ast.Module, Sequence[Import]]]:
    """Parse a script and the local modules that it imports, the nearest first; those that do not parse are left out.

    :param until_s: When to end, on the monotonic clock.
    """
    seen = {entry}
    waiting = deque([Source(entry, 0, DEPTH_WEIGHTS[0])])
    while waiting and now_s() < until_s:
        source = waiting.popleft()
        text = _read(source.path)
        tree = _parse(text)
        if tree is None:
            continue
        found = sorted(_imports_in(tree, text), key=lambda each: -each.weight)
        yield source, tree, found
        for file, next_source in _followed(found, source, root):
            if file not in seen and len(seen) < MAX_FILES:
                seen.add(file)
                waiting.append(next_source)


def _followed(found: list[Import], source: Source, root: Path) -> Iterator[tuple[Path, Source]]:
    depth = source.depth + 1
    if depth == len(DEPTH_WEIGHTS):
        return
    for each in found:
        weight = source.weight * each.weight * DEPTH_WEIGHTS[depth] / DEPTH_WEIGHTS[source.depth]
        for file in _local_files(each, source.path, root):
            yield file, Source(file, depth, weight)


def _read(path: Path) -> bytes:
    """Read a source; one that is unreadable or too big is empty."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_SOURCE_BYTES + 1)
    except OSError:
        return b""
    return text if len(text) <= MAX_SOURCE_BYTES else b""


def _parse(text: bytes) -> ast.Module | None:
    with warnings.catch_warnings():
        # What the compiler finds odd in the script is for the script's own interpreter to say.
        warnings.simplefilter("ignore")
        try:
            tree = compile(text, "<script>", "exec", ast.PyCF_ONLY_AST, dont_inherit=True)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None
    assert isinstance(tree, ast.Module)
    return tree


def _imports_in(tree: ast.Module, text: bytes) -> Iterator[Import]:
    waiting: list[tuple[ast.AST, float]] = [(tree, 1.0)]
    for node, weight in waiting:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, (), 0, weight) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = tuple(alias.name for alias in node.names if alias.name != "*")
            yield Import(node.module or "", names, node.level, weight)
        else:
            waiting.extend(_statements_in(node, weight))
    if b"import_module" in text or b"__import__" in text:
        yield from _named_imports_in(tree)


def _statements_in(node: ast.AST, weight: float) -> Iterator[tuple[ast.AST, float]]:
    """List the statements right inside a statement, and what imports among them count."""
    for field in ("body", "handlers", "orelse", "finalbody", "cases"):
        inside = getattr(node, field, None)
        if inside:
            share = CONDITIONAL if _is_conditional(node, field) else weight
            yield from ((statement, share) for statement in inside)


def _is_conditional(node: ast.AST, field: str) -> bool:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            return True
        case ast.If(test=ast.Name(id=name) | ast.Attribute(attr=name)):
            return field == "body" and name == "TYPE_CHECKING"
        case ast.Try(handlers=handlers) | ast.TryStar(handlers=handlers):
            return field == "handlers" or (field == "body" and any(map(_catches_import_error, handlers)))
    return False


def _catches_import_error(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(isinstance(name, ast.Name) and name.id in _CAUGHT for name in caught)


def _named_imports_in(tree: ast.Module) -> Iterator[Import]:
    """Find `importlib.import_module("name")` and `__import__("name")`."""
    waiting: list[ast.AST] = [tree]
    for node in waiting:
        waiting.extend(inside(node))
        match node:
            case ast.Call(
                func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                # The text may hold anything, a path too: only what can be a module is looked for on disk.
                if all(part.isidentifier() for part in name.split(".")):
                    yield Import(name, (), 0, NAMED)


def _note(found: Import, share: float, weights: dict[str, float]) -> None:
    if found.level:
        return
    parts = found.module.split(".")
    names = [".".join(parts[:length]) for length in range(1, len(parts) + 1)]
    names += [f"{found.module}.{name}" for name in found.names]
    for name in names:
        weights[name] = max(weights.get(name, 0.0), round(found.weight * share, 4))


def _local_files(found: Import, importer: Path, root: Path) -> Iterator[Path]:
    """Name the files beside the script that an import would execute."""
    folder = root
    if found.level:
        folder = importer.parents[min(found.level, len(importer.parents)) - 1]
    for part in filter(None, found.module.split(".")):
        yield from _module_file(folder, part)
        folder /= part
    if found.names and folder.is_dir():
        for name in found.names:
            yield from _module_file(folder, name)


def _module_file(folder: Path, name: str) -> Iterator[Path]:
    for file in (folder / name / "__init__.py", folder / f"{name}.py"):
        if os.path.isfile(file):  # not Path.is_file, which raises where a folder may not be entered
            yield file
            return
