"""Who is who: this host, this boot, and processes that are more than their number."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


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


def start_ticks(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot: with the pid it names the process.

    None for a process that is gone, and where there is no /proc.

    :source: proc(5), field 22 of /proc/PID/stat; field 2, the name, may hold anything: count from its end.
    """
    text = _read(f"/proc/{pid}/stat")
    return int(text.rpartition(")")[2].split()[19]) if text else None


def processes() -> Iterator[int]:
    """List the pids that /proc shows."""
    try:
        names = os.listdir("/proc")
    except OSError:
        return
    yield from (int(name) for name in names if name.isdigit())


def session_of(pid: int) -> int | None:
    """Return the session of a process; None when it is gone."""
    try:
        return os.getsid(pid)
    except OSError:
        return None


def has_variable(pid: int, assignment: str) -> bool:
    """Tell whether a process was started with this `NAME=VALUE` in its environment."""
    try:
        return assignment.encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def descendants(root: int) -> list[int]:
    """List the living descendants of a process, by one look at every process there is."""
    parents = {pid: parent for pid in processes() if (parent := parent_of(pid)) is not None}
    found: list[int] = []
    generation = {root}
    while generation:
        generation = {pid for pid, parent in parents.items() if parent in generation}
        found += generation
    return found


def parent_of(pid: int) -> int | None:
    """Return the parent of a process that is alive; None for one that is gone or a zombie.

    :source: proc(5), /proc/PID/stat: state is field 3, the parent field 4.
    """
    text = _read(f"/proc/{pid}/stat")
    state, parent, *_ = text.rpartition(")")[2].split() if text else ("Z", "0")
    return None if state == "Z" else int(parent)


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return None
