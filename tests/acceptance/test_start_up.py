"""What commands load: imports are most of the time that a short command takes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from kit import Project

NOTHING_BUT = "print(*sorted({name.partition('.')[0] for name in __import__('sys').modules}))"
COMMAND = """
import sys
sys.argv = ["backprop", *sys.argv[1:]]
from backprop_core.cli import main
try:
    main()
finally:
    print(*sorted({name.partition(".")[0] for name in sys.modules}), file=sys.__stderr__)
"""
LIBRARIES = "import msgspec, pluggy, pathlib"
OF_ANY_COMMAND = {"backprop_builtin", "backprop_core"} | set(
    "__future__ _heapq _queue _weakrefset atexit copy fcntl gc heapq queue shlex signal threading weakref zlib "
    "_json json".split()
)
OF_A_RUN = set(
    "_blake2 _ctypes _hashlib _socket hashlib select _sha1 _sha2 _sha256 _sha3 _sha512 _md5 math".split()
)


def loaded(*arguments: str, env: dict[str, str] | None = None, cwd: Path | None = None) -> set[str]:
    """Return the top-level modules that a Python has loaded, which its last line on either stream lists."""
    command = [sys.executable, "-c", *arguments]
    done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, check=False)
    return set((done.stderr or done.stdout).splitlines()[-1].split())


@pytest.fixture
def environment(project: Project) -> dict[str, str]:
    return dict(project.environ())


@pytest.mark.parametrize("module", ["backprop_core", "backprop_core.script"])
def test_what_scripts_import_costs_them_nothing(module: str) -> None:
    own = {"backprop_core", "__future__", "importlib", "warnings", "time"}
    assert loaded(f"import {module}; {NOTHING_BUT}") - loaded(NOTHING_BUT) <= own


def test_version_is_answered_before_anything_is_loaded(environment: dict[str, str]) -> None:
    found = loaded(COMMAND, "--version", env=environment)
    assert found - loaded(f"import signal; {NOTHING_BUT}") <= {
        "backprop_core",
        "__future__",
        "gc",
        "importlib",
        "warnings",
    }


@pytest.mark.parametrize("arguments", [("list",), ("status",), ("stop", "nobody"), ("run", "train.py")])
def test_a_plain_command_loads_its_libraries_and_little_else(
    arguments: Sequence[str], project: Project, environment: dict[str, str]
) -> None:
    project.write("train.py", "")
    found = loaded(COMMAND, *arguments, env=environment, cwd=project.folder) - loaded(
        f"{LIBRARIES}; {NOTHING_BUT}"
    )
    assert found <= OF_ANY_COMMAND | OF_A_RUN
    if arguments == ("list",):
        assert found <= OF_ANY_COMMAND


@pytest.mark.parametrize("arguments", [("list",), ("run", "train.py")])
def test_nothing_is_loaded_that_libraries_import_and_hardly_use(
    arguments: Sequence[str], project: Project, environment: dict[str, str]
) -> None:
    project.write("train.py", "")
    found = loaded(COMMAND, *arguments, env=environment, cwd=project.folder) - loaded(NOTHING_BUT)
    assert {"msgspec", "pluggy", "pathlib"} <= found
    assert not found & {"typing_extensions", "inspect", "dis", "platform", "ipaddress", "textwrap"}


@pytest.mark.parametrize(
    "works",
    [
        "typing_extensions.__name__ == 'typing_extensions'",
        "inspect.signature(str.join).parameters",
        "msgspec.inspect.type_info(int) == msgspec.inspect.IntType()",
        "platform.python_implementation()",
        "urllib.parse.urlsplit('http://[::1]/').hostname == '::1'",
    ],
)
def test_what_was_put_off_is_there_for_whoever_wants_it(works: str, environment: dict[str, str]) -> None:
    module = works.partition("(")[0].partition(" ")[0].rpartition(".")[0]
    afterwards = f"{COMMAND}\n    import {module}; print(bool({works}), file=sys.__stderr__)"
    assert loaded(afterwards, "list", env=environment) == {"True"}
