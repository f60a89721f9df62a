"""An agent for the keeper's tests: it starts a keeper, talks with it, and looks at what it leaves behind."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from backprop_core.testing import CHILDREN

LIMIT_S = 15.0  # to wait for anything; only reached when something is wrong

Message = dict[str, Any]
Command = Callable[[int], list[str]]


def covered(fd: int, before: str = "", after: str = "") -> list[str]:
    """Start a keeper so that coverage can look on; the statements stand around the import of it as `k`."""
    return [sys.executable, "-c", f"{before}\nimport backprop_core.keeper as k\n{after}\nk.main({fd})"]


def until(condition: Callable[[], Any], what: str, *, limit_s: float = LIMIT_S) -> Any:
    """Return the condition's first value that is true; fail when the time is up."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.003)
    raise AssertionError(f"waited {limit_s} s in vain for {what}")


def child(name: str, *arguments: object) -> list[str]:
    """The command that runs one of the kit's children."""
    return [sys.executable, "-S", "-B", str(CHILDREN / f"{name}.py"), *map(str, arguments)]


def stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def is_running(pid: int) -> bool:
    return stat(pid)[:1] not in ([], ["Z"], ["X"])


def cpu_ticks(pid: int) -> int:
    return sum(map(int, stat(pid)[11:13]))


def processes_of(folder: Path) -> list[int]:
    """The processes that were given the folder as an argument, wherever they went since."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if os.fsencode(folder) in command.split(b"\0"):
                found.append(int(entry.name))
    return found


def signs(folder: Path, sign: str) -> dict[int, float]:
    """When (on the monotonic clock) each process showed the sign, as the children do."""
    return {
        int(path.name.removeprefix(f"{sign}-")): float(path.read_text())
        for path in folder.glob(f"{sign}-*")
        if not path.name.endswith("~")
    }


def wait_for(folder: Path, sign: str, count: int = 1) -> dict[int, float]:
    until(lambda: len(signs(folder, sign)) >= count, f"{count} x {sign}")
    return signs(folder, sign)


class Agent:
    """One keeper and our end of its socket; as a context it leaves nothing behind.

    :param command: What starts the keeper; a run uses `keeper.command`.
    :param lines: What is written at once, instead of the plan alone.
    :param plan: What differs from a plan with a short ladder and much time.
    """

    def __init__(
        self,
        argv: Sequence[str],
        cwd: Path,
        /,
        *,
        command: Command = covered,
        lines: bytes = b"PLAN\n",
        locks: Sequence[int] = (),
        prepare: Callable[[], None] | None = None,
        **plan: Any,
    ) -> None:
        self.heard: list[Message] = []
        self.output = b""
        self._passed = 0
        self._received = b""
        self.socket, theirs = socket.socketpair()
        self.pipe, output = os.pipe()
        drain = os.dup(self.pipe)
        fd = theirs.fileno()
        self.process = subprocess.Popen(
            command(fd),
            pass_fds=(fd, output, drain, *locks),
            stdin=subprocess.DEVNULL,
            preexec_fn=prepare,  # noqa: PLW1509 - the tests have one thread
        )
        for ours in (theirs.detach(), output, drain):
            os.close(ours)
        self.plan = {
            "argv": list(argv),
            "env": {"PATH": os.environ["PATH"]},
            "cwd": str(cwd),
            "output": output,
            "drain": drain,
            "locks": list(locks),
            "limit_s": 60.0,
            "grace_s": 0.2,
            "term_s": 0.2,
            "max_pause_s": 60.0,
            "time_box_file": None,
            **plan,
        }
        self.write(lines.replace(b"PLAN", json.dumps(self.plan).encode()))

    def write(self, content: bytes) -> None:
        self.socket.sendall(content)

    def say(self, do: str, **more: Any) -> None:
        self.write(json.dumps({"do": do, **more}).encode() + b"\n")

    def hear(self, kind: str) -> Message:
        """Return the next message of that kind; what came before it is passed over."""
        end = time.monotonic() + LIMIT_S
        while True:
            while self._passed < len(self.heard):
                self._passed += 1
                if self.heard[self._passed - 1]["is"] == kind:
                    return self.heard[self._passed - 1]
            assert self._receive(end - time.monotonic()), f"no {kind!r} in {self.heard}"

    def hear_out(self) -> list[str]:
        """Listen until the keeper has ended; return the kinds of all that it ever said."""
        end = time.monotonic() + LIMIT_S
        while self._receive(end - time.monotonic()):
            pass
        assert self.process.wait(LIMIT_S) == 0
        return [message["is"] for message in self.heard]

    def hear_output(self, text: bytes) -> None:
        """Listen until the script has written that."""
        end = time.monotonic() + LIMIT_S
        while text not in self.output:
            assert self._receive(end - time.monotonic()), f"no {text!r} in {self.output[-200:]!r}"

    def _receive(self, limit_s: float) -> bool:
        """Take in what the keeper and the script write; False at the end of the keeper's, or of the time."""
        sources = [self.socket.fileno(), self.pipe] if self.pipe >= 0 else [self.socket.fileno()]
        ready, _, _ = select.select(sources, [], [], max(limit_s, 0))
        if self.pipe in ready:
            chunk = os.read(self.pipe, 1 << 16)
            self.output += chunk
            if not chunk:
                self._close_pipe()
        if self.socket.fileno() in ready:
            chunk = self.socket.recv(1 << 16)
            *lines, self._received = (self._received + chunk).split(b"\n")
            self.heard += [json.loads(line) for line in lines]
            return bool(chunk)
        return bool(ready)

    def _close_pipe(self) -> None:
        if self.pipe >= 0:
            os.close(self.pipe)
        self.pipe = -1

    def vanish(self) -> None:
        """Die, as far as the keeper can see."""
        self.socket.close()
        self._close_pipe()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.vanish()
        try:
            self.process.wait(LIMIT_S)
        finally:
            self.process.kill()
            self.process.wait()
