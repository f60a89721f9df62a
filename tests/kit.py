"""What the acceptance tests work with: a project folder, a home, a machine with room, and the real command."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

LIMIT_S = 30.0  # to wait for anything; only reached when something is wrong
CHILDREN = Path(__file__).parent / "children"
ROOMY = {"ram_free_gb": 64.0, "ram_total_gb": 128.0, "cpu_load_per_core": 0.1, "cpu_count": 8.0}
_HIDDEN = ("BACKPROP_", "PYTHON", "CUDA_", "VIRTUAL_ENV", "CONDA_", "NO_COLOR", "FORCE_COLOR", "COLUMNS")

Value = TypeVar("Value")


class Done(NamedTuple):
    """How a command ended. Bytes that are no UTF-8 stand in `out` and `err` as surrogates."""

    code: int
    out: str
    err: str

    @property
    def raw(self) -> bytes:
        """What it wrote to stdout, byte for byte."""
        return self.out.encode("utf-8", "surrogateescape")


def wait_for(condition: Callable[[], Value], what: str, limit_s: float = LIMIT_S) -> Value:
    """Return the condition's first value that is true; fail when the time is up."""
    end_s = time.monotonic() + limit_s
    while not (value := condition()):
        assert time.monotonic() < end_s, f"waited {limit_s:g} s in vain for {what}"
        time.sleep(0.01)
    return value


def command() -> list[str]:
    """The installed command, as a person types it."""
    beside = Path(sys.executable).with_name("backprop")
    return [str(beside)] if beside.is_file() else [sys.executable, "-m", "backprop_core"]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


class Project:
    """A person's project on a machine with room, whatever the real one is like.

    :param place: An empty folder; it becomes the person's home folder, the project lies inside it.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self.folder = place / "project"
        self.home = place / "backprop-home"
        self._host = place / "host.json"
        self._started: list[subprocess.Popen[bytes]] = []
        self.folder.mkdir()
        self.machine()

    # --- before the command ---

    def write(self, name: str, source: str) -> Path:
        """Write a file into the project, without the indentation that it has in a test."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source).lstrip("\n"))
        return path

    def child(self, name: str) -> str:
        """Bring one of tests/children into the project, and return what to give to `run`."""
        for file in ("_signs.py", f"{name}.py"):
            shutil.copy(CHILDREN / file, self.folder / file)
        return f"{name}.py"

    def machine(self, **host: float | None) -> None:
        """Change what Backprop measures of the host, also for commands that run already."""
        fresh = self._host.with_suffix(".new")
        fresh.write_text(json.dumps({**ROOMY, **host}))
        fresh.replace(self._host)

    def environ(self, more: Mapping[str, str | None] | None = None) -> dict[str, str]:
        """The environment of a command: the tests' own, without what would change Backprop's behaviour.

        :param more: What else is set; None removes a variable.
        """
        own = {name: value for name, value in os.environ.items() if not name.startswith(_HIDDEN)}
        values: dict[str, str | None] = {
            **own,
            "HOME": str(self.place),
            "TERM": "xterm-256color",
            "BACKPROP_HOME": str(self.home),
            "BACKPROP_TEST_HOST": str(self._host),
            "BACKPROP_GPU_PROBE": "none",
            "BACKPROP_DISABLE_PLUGIN_AUTOLOAD": "1",
            **(more or {}),
        }
        return {name: value for name, value in values.items() if value is not None}

    # --- the command ---

    def start(
        self,
        *words: object,
        env: Mapping[str, str | None] | None = None,
        cwd: Path | None = None,
        before: Sequence[str] = (),
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.PIPE,
        stderr: int = subprocess.PIPE,
    ) -> subprocess.Popen[bytes]:
        """Start the command and go on; it is killed with all that it started when the test ends.

        :param before: A command that is to start it, such as a shell.
        """
        process = subprocess.Popen(
            [*before, *command(), *map(str, words)],
            cwd=cwd or self.folder,
            env=self.environ(env),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
        )
        self._started.append(process)
        return process

    def run(
        self,
        *words: object,
        env: Mapping[str, str | None] | None = None,
        cwd: Path | None = None,
        before: Sequence[str] = (),
        timeout: float = LIMIT_S,
    ) -> Done:
        """Run the command to its end."""
        return self.end(self.start(*words, env=env, cwd=cwd, before=before), timeout)

    def end(self, process: subprocess.Popen[bytes], timeout: float = LIMIT_S) -> Done:
        """Wait for a command that was started; what goes wrong inside it must never look like a crash."""
        raw = process.communicate(timeout=timeout)
        out, err = ((part or b"").decode("utf-8", "surrogateescape") for part in raw)
        assert "Traceback (most recent call last)" not in err, err
        return Done(process.returncode, out, err)

    # --- what it left ---

    def records(self) -> list[dict[str, Any]]:
        """Every record in experiments.json, oldest first; none where there is no such file."""
        try:
            text = (self.home / "experiments.json").read_bytes()
        except FileNotFoundError:
            return []
        return sorted(json.loads(text).values(), key=lambda record: int(record["startTime"]))

    def record(self, reference: str = "last") -> dict[str, Any]:
        """The record of that id or name."""
        matching = self._named(reference)
        assert matching, f"no run {reference!r} among {self.records()}"
        return matching[-1]

    def _named(self, reference: str) -> list[dict[str, Any]]:
        return [one for one in self.records() if reference in (one["id"], one.get("name"), "last")]

    def run_folder(self, reference: str = "last") -> Path:
        return self.home / "runs" / str(self.record(reference)["id"])

    def wait_for_state(self, state: str, reference: str = "last") -> dict[str, Any]:
        """Wait until the record says that it is in that state."""

        def found() -> dict[str, Any]:
            newest = self._named(reference)[-1:]
            return newest[0] if newest and newest[0]["status"] == state else {}

        return wait_for(found, f"{reference} to be {state}")

    def holder(self, reference: str = "last") -> dict[str, Any]:
        """Who holds a run: `agent` and `keeper` are the processes."""
        return dict(json.loads((self.run_folder(reference) / "lock").read_text()))

    def processes(self) -> list[int]:
        """The processes that have this place in their command line or environment, wherever they went since."""
        return list(_processes_of(self.place))

    def clean_up(self) -> None:
        for process in self._started:
            with process:
                process.kill()
        for pid in self.processes():
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def _processes_of(place: Path) -> list[int]:
    mark = os.fsencode(place)
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                if mark in (entry / "cmdline").read_bytes() or mark in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
    return found
