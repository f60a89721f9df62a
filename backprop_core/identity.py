"""Who is who: this host, this boot, and processes that are more than their number."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from .patterns import pattern

_UNSAFE = pattern(r"[^A-Za-z0-9._-]")
_MOST_BYTES = 4096
RUN_ID = pattern(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class Process(msgspec.Struct, frozen=True):
    """A process as /proc shows it; `pid` and `ticks`, when it started, together are its identity."""

    pid: int
    state: str
    parent: int
    session: int
    ticks: int

    @property
    def is_dead(self) -> bool:
        """Tell whether it has ended and only its number is still taken."""
        return self.state in "ZX"


def host_name() -> str:
    """Return this host's name, in the alphabet of run ids."""
    return _UNSAFE.sub("_", os.uname().nodename).lstrip("._-") or "localhost"


def boot_id() -> str | None:
    """Return what changes with every boot; None where the system does not tell (not Linux)."""
    return _read("/proc/sys/kernel/random/boot_id")


def pid_namespace() -> str | None:
    """Return the pid namespace that pids of ours belong to; None where there is no such thing."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return None


def look_at(pid: int) -> Process | None:
    """Look at a process; None when it is gone, and where there is no /proc.

    :source: proc(5), /proc/PID/stat: field 2, the name, may hold anything, so fields are counted from its end:
        state 3, parent 4, session 6, start time 22, in clock ticks since boot.
    """
    text = _read(f"/proc/{pid}/stat")
    if not text:
        return None
    fields = text.rpartition(")")[2].split()
    return Process(pid, fields[0], int(fields[1]), int(fields[3]), int(fields[19]))


def start_ticks(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None when it is gone."""
    process = look_at(pid)
    return None if process is None else process.ticks


def is_alive(pid: int | None, ticks: int | None) -> bool:
    """Tell whether the process of that identity runs; not so if it is unknown, or its number is another's now."""
    process = look_at(pid) if pid is not None else None
    return process is not None and process.ticks == ticks and not process.is_dead


def send(process: Process, number: signal.Signals) -> bool:
    """Send a signal to the very process that was seen, never to an heir of its number; False when it is gone."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        now = look_at(process.pid)
        if now is None or now.ticks != process.ticks:
            return False
        signal.pidfd_send_signal(descriptor, number)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def processes() -> Iterator[int]:
    """List the pids that /proc shows."""
    try:
        names = os.listdir("/proc")
    except OSError:
        return
    yield from (int(name) for name in names if name.isdigit())


def has_variable(pid: int, assignment: str) -> bool:
    """Tell whether a process was started with this `NAME=VALUE` in its environment."""
    return assignment.encode() in environment_of(pid)


def newest_pid() -> int | None:
    """Return the number that was given out last, in our pid namespace; None where there is no /proc.

    :source: proc(5), /proc/loadavg, the fifth field.
    """
    text = _read("/proc/loadavg")
    return int(text.split()[4]) if text else None


def environment_of(pid: int) -> list[bytes]:
    """Return the `NAME=VALUE` that a process was started with; none where that cannot be read."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def name_of(pid: int) -> str:
    """Return the first words of a process's command line, for a person to recognise it by."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        words = []
    return b" ".join(words[:3]).decode(errors="replace").strip()[:80] or "?"


def descendants(root: int) -> list[int]:
    """List the living descendants of a process, by one look at every process there is."""
    parents = {pid: parent for pid in processes() if (parent := parent_of(pid)) is not None}
    found: list[int] = []
    generation = {root}
    while generation:
        generation = {pid for pid, parent in parents.items() if parent in generation}
        found += generation
    return found


def descendants_among(pids: Iterable[int], root: int) -> list[int]:
    """Pick out the living descendants of a process; only the processes above those in question are looked at."""
    return [pid for pid in pids if root in _ancestors(pid)]


def _ancestors(pid: int) -> Iterator[int]:
    """Yield a process's parent, its parent's parent and so on; nothing for one that has ended."""
    seen = {pid}
    while (parent := parent_of(pid)) and parent not in seen:
        yield parent
        seen.add(parent)
        pid = parent


def parent_of(pid: int) -> int | None:
    """Return the parent of a process that is alive; None for one that is gone or a zombie."""
    process = look_at(pid)
    return None if process is None or process.is_dead else process.parent


def _read(path: str) -> str | None:
    """Read what one of the small files in /proc says."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(descriptor, _MOST_BYTES).decode(errors="replace").strip()
    except OSError:
        return None
    finally:
        os.close(descriptor)
