"""The Python that will run the script, and what is installed for it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from backprop_core.errors import UsageError
from backprop_core.records import Record

ANSWER_TIMEOUT_S = 10.0


class Interpreter(Record, frozen=True):
    """The Python that will run the script, and what made it the choice ("--python", "VIRTUAL_ENV", ...)."""

    path: str
    origin: str


def find_interpreter(
    chosen: str | None, project_root: Path | None, environ: Mapping[str, str]
) -> Interpreter:
    """Find the Python that will run the script.

    Links are left as they are: what makes a venv's Python one is the place of the link.

    :param chosen: What `--python` says: a path, or a name looked up on PATH.
    :raises UsageError: when `chosen` is not there, and when there is no Python at all.
    """
    if chosen is not None:
        return Interpreter(path=_chosen_interpreter(chosen, environ), origin="--python")
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        if (folder := environ.get(variable)) and _is_executable(
            path := Path(folder, "bin", "python").absolute()
        ):
            return Interpreter(path=str(path), origin=variable)
    if project_root and _is_executable(path := project_root.absolute() / ".venv" / "bin" / "python"):
        return Interpreter(path=str(path), origin=".venv")
    if sys.executable and not is_tool_environment(Path(sys.prefix)):
        return Interpreter(path=sys.executable, origin="Backprop's own")
    if found := _on_path("python3", environ):
        return Interpreter(path=found, origin="PATH")
    raise UsageError("there is no Python to run the script with", "give one with --python")


def is_tool_environment(prefix: Path) -> bool:
    """Tell whether pipx or uv made an environment for one command alone: no place for a framework."""
    pairs = set(zip(prefix.parts, prefix.parts[1:], strict=False))
    if pairs & {("pipx", "venvs"), ("pipx", ".cache"), ("uv", "tools"), ("uv", "archive-v0")}:
        return True
    return any((prefix / mark).is_file() for mark in ("pipx_metadata.json", "uv-receipt.toml"))


def _chosen_interpreter(chosen: str, environ: Mapping[str, str]) -> str:
    if os.sep not in chosen:
        found = _on_path(chosen, environ)
        if found is None:
            raise UsageError(
                f"--python {chosen}: there is no such command on PATH", "give the path of a Python"
            )
        return found
    # os.path's, since Path.expanduser raises for an unknown ~user.
    path = Path(os.path.expanduser(chosen)).absolute()
    if not _is_executable(path):
        raise UsageError(
            f"--python {chosen}: there is no executable file {path}", "give the path of a Python"
        )
    return str(path)


def _on_path(name: str, environ: Mapping[str, str]) -> str | None:
    for folder in map(Path, environ.get("PATH", os.defpath).split(os.pathsep)):
        if folder.is_absolute() and _is_executable(folder / name):
            return str(folder / name)
    return None


def _is_executable(path: Path) -> bool:
    # Not Path.is_file, which raises where a folder may not be entered.
    return os.path.isfile(path) and os.access(path, os.X_OK)


def versions_in(interpreter: str, names: Sequence[str]) -> Mapping[str, str | None]:
    """Read the versions of distributions as a script run by `interpreter` would find them.

    :returns: None for what is not installed, and for everything when the interpreter does not answer in 10 s.
    """
    if interpreter == sys.executable:
        return _installed_versions(names)
    return dict(zip(names, _versions_from_child(interpreter, tuple(names)), strict=True))


def _installed_versions(names: Iterable[str]) -> dict[str, str | None]:
    from importlib import metadata

    versions: dict[str, str | None] = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


# The script will see PYTHONPATH and the user's site packages, so this does too; only the current folder is no
# place to import from. The answer is the last line, whatever a sitecustomize may have printed before it.
_READ_VERSIONS = """
import sys
sys.path[:] = [folder for folder in sys.path if folder]
from importlib import metadata
import json
versions = []
for name in sys.argv[1:]:
    try:
        versions.append(metadata.version(name))
    except metadata.PackageNotFoundError:
        versions.append(None)
print()
print(json.dumps(versions))
"""


@lru_cache(maxsize=8)
def _versions_from_child(interpreter: str, names: tuple[str, ...]) -> tuple[str | None, ...]:
    import json
    import signal
    import subprocess

    unknown = (None,) * len(names)
    try:
        child = subprocess.Popen(
            [interpreter, "-c", _READ_VERSIONS, *names],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        return unknown
    with child:
        try:
            output, _ = child.communicate(timeout=ANSWER_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            # The interpreter may be a wrapper whose own child holds the pipe: the whole group ends.
            os.killpg(child.pid, signal.SIGKILL)
            return unknown
    try:
        versions = json.loads(output.splitlines()[-1])
    except (IndexError, ValueError):
        return unknown
    if not isinstance(versions, list) or len(versions) != len(names):
        return unknown
    return tuple(version if isinstance(version, str) else None for version in versions)
