"""A project folder, a home, a machine with room, and the real command."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep  # bound here: a fake clock must not stop whoever waits for something real
from typing import Any, NamedTuple, TypeVar

from .in_process import call
from .scripted_gpus import FakeGpu, FakeNvidiaSmi

LIMIT_S = 30.0
"""How long to wait for anything; only reached when something is wrong."""

CHILDREN = Path(__file__).parent / "children"
"""Scripts that misbehave; `Project.child` brings one into the project."""

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

    @property
    def json(self) -> Any:
        """What it wrote to stdout, as one JSON document."""
        return json.loads(self.out)


def wait_for(condition: Callable[[], Value], what: str, limit_s: float = LIMIT_S) -> Value:
    """Return the condition's first value that is true; fail when the time is up."""
    end_s = monotonic() + limit_s
    while not (value := condition()):
        assert monotonic() < end_s, f"waited {limit_s:g} s in vain for {what}"
        sleep(0.01)
    return value


def command() -> list[str]:
    """The installed command, as a person types it."""
    beside = Path(sys.executable).with_name("backprop")
    return [str(beside)] if beside.is_file() else [sys.executable, "-m", "backprop_core"]


class Project:
    """A person's project on a machine with room and without GPUs, whatever the real one is like.

    `folder` is the project, `home` is Backprop's, `env` what every command's environment has besides the tests' own
    (None takes a variable out of it). Plugins that are installed are loaded, as for anybody.

    :param place: An empty folder; it becomes the person's home folder, the project lies inside it.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self.folder = place / "project"
        self.home = place / "backprop-home"
        self.env: dict[str, str | None] = {"BACKPROP_GPU_PROBE": "none"}
        self._host = place / "host.json"
        self._smi: FakeNvidiaSmi | None = None
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

    def settings(self, **values: Any) -> Path:
        """Write the project's settings file, backprop.toml; names as there: `max_run_minutes`, `gpu={...}`."""
        import tomli_w

        return self.write("backprop.toml", tomli_w.dumps(values))

    def child(self, name: str) -> str:
        """Bring one of the misbehaving scripts into the project, and return what to give to `run`."""
        for file in ("_signs.py", f"{name}.py"):
            shutil.copy(CHILDREN / file, self.folder / file)
        return f"{name}.py"

    def machine(self, **host: float | None) -> None:
        """Change what Backprop measures of the host, also for commands that run already.

        :param host: Fields of `Host`, None for one that cannot be measured; all others are as on a machine with room.
        """
        fresh = self._host.with_suffix(".new")
        fresh.write_text(json.dumps({**ROOMY, **host}))
        fresh.replace(self._host)

    def gpus(self, *gpus: FakeGpu | Mapping[str, Any]) -> None:
        """Have these GPUs from now on, also for commands that run already.

        They are told by a program `nvidia-smi`, the first on PATH, which the probe of that name asks.
        """
        if self._smi is None:
            self._smi = FakeNvidiaSmi(self.place / "scripted-nvidia")
            path = os.pathsep.join([self._smi.path_entry, os.environ.get("PATH", os.defpath)])
            self.env |= {"PATH": path, "BACKPROP_GPU_PROBE": "nvidia-smi"}
        self._smi.set(gpus)

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
            **self.env,
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
        """Run the command to its end, in a process of its own, as a person does."""
        return self.end(self.start(*words, env=env, cwd=cwd, before=before), timeout)

    def end(self, process: subprocess.Popen[bytes], timeout: float = LIMIT_S) -> Done:
        """Wait for a command that was started; what goes wrong inside it must never look like a crash."""
        raw = process.communicate(timeout=timeout)
        return _checked(process.returncode, *((part or b"") for part in raw))

    def call(
        self, *words: object, env: Mapping[str, str | None] | None = None, cwd: Path | None = None
    ) -> Done:
        """Run the command to its end inside this process: for a debugger, and for what a test has patched.

        Modules that were imported stay so: a plugin whose file has changed since is not loaded anew.
        """
        code, out, err = call(list(map(str, words)), environ=self.environ(env), cwd=cwd or self.folder)
        return _checked(code, out, err)

    # --- what it left ---

    def records(self) -> list[dict[str, Any]]:
        """Every record in experiments.json, oldest first; none where there is no such file.

        With another storage than the default, ask the command: `project.run("list", "--json").json`.
        """
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
        """The run's own folder, with its output.log."""
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
        """End whatever a command has started and left; the fixture does it."""
        for process in self._started:
            with process:
                process.kill()
        for pid in self.processes():
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def _checked(code: int, out: bytes, err: bytes) -> Done:
    done = Done(code, *(part.decode("utf-8", "surrogateescape") for part in (out, err)))
    assert "Traceback (most recent call last)" not in done.err, done.err
    return done


def _processes_of(place: Path) -> list[int]:
    """Find processes by a path that they were given. Without /proc (macOS) there are none to be found."""
    mark = os.fsencode(place)
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        if int(entry.name) != os.getpid():
            with suppress(OSError):
                if mark in (entry / "cmdline").read_bytes() or mark in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
    return found
