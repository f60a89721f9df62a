"""What a plugin's source shows without being run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from .findings import Problem

_NEED_TIMEOUT = {
    *(f"subprocess.{name}" for name in ("run", "call", "check_call", "check_output")),
    *(f"requests.{name}" for name in ("get", "post", "put", "patch", "delete", "head", "request")),
    "urllib.request.urlopen",
    "socket.create_connection",
}
_PROMISED = {"backprop_core.script", "backprop_core.testing"}
_AVOID = {
    "os._exit": (
        "ends Backprop without a word",
        "raise an error: the plugin is then named, and the run goes on",
    ),
    "sys.exit": ("ends nothing and counts as a failure", "raise an error that says what is wrong, or return"),
    "signal.signal": ("takes Ctrl-C and SIGTERM away from Backprop", "use backprop_run_finished to clean up"),
    "os.chdir": ("moves everything that Backprop does", "use absolute paths"),
    "os.fork": ("leaves a copy of Backprop behind", "use subprocess"),
}


def look_at(path: Path) -> Iterator[Problem]:
    """Yield what stands in a plugin's source, all files of it where it is a package."""
    files = sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
    for file in files:
        try:
            tree = ast.parse(file.read_bytes())
        except (OSError, SyntaxError, ValueError):  # the import says so, better
            continue
        yield from _calls(tree, file)
    yield from _about(files[0])


def _about(file: Path) -> Iterator[Problem]:
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    if not ast.get_docstring(tree):
        yield Problem(
            what="nothing says what this plugin is for",
            mend="begin the file with a docstring of one sentence",
            where=file.name,
        )


def _calls(tree: ast.Module, file: Path) -> Iterator[Problem]:
    meant = dict(_imported(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from _call(node, _dotted(node.func, meant), f"{file.name}, line {node.lineno}")
        elif isinstance(node, ast.FunctionDef) and node.name.startswith("backprop_"):
            yield from _prints(node, file)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from _private(node.module or "", f"{file.name}, line {node.lineno}")
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield from _private(alias.name, f"{file.name}, line {node.lineno}")


def _call(node: ast.Call, called: str, where: str) -> Iterator[Problem]:
    given = {keyword.arg for keyword in node.keywords}
    if called in _NEED_TIMEOUT and not given & {"timeout", None}:
        yield Problem(
            what=f"{called} may wait for ever, and the run with it", mend="give it a timeout", where=where
        )
    if called in _AVOID:
        what, mend = _AVOID[called]
        yield Problem(what=f"{called} {what}", mend=mend, where=where)


def _private(module: str, where: str) -> Iterator[Problem]:
    if module.startswith("backprop_core.") and module not in _PROMISED:
        yield Problem(
            what=f"{module} may change with any release",
            mend="import names from backprop_core itself; what is missing there, ask for in an issue",
            where=where,
        )


def _prints(hook: ast.FunctionDef, file: Path) -> Iterator[Problem]:
    for node in ast.walk(hook):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"):
            continue
        if not {keyword.arg for keyword in node.keywords} & {"file", None}:
            yield Problem(
                what=f"{hook.name} prints on stdout, which is the script's output, or a JSON document",
                mend="print(..., file=sys.stderr), or write to a file of the plugin's own",
                where=f"{file.name}, line {node.lineno}",
            )


def _imported(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield what imported names stand for: ("run", "subprocess.run")."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.asname, alias.name) for alias in node.names if alias.asname)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from ((alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names)


def _dotted(node: ast.expr, meant: dict[str, str]) -> str:
    if isinstance(node, ast.Name):
        return meant.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value, meant)}.{node.attr}"
    return ""
