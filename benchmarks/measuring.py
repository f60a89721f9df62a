"""Repetitions, medians and spread, and what one process costs."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec


class Samples(msgspec.Struct, frozen=True):
    """The values of alternated repetitions."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        return min(self.values)

    @property
    def high(self) -> float:
        return max(self.values)


def alternate(cases: Mapping[str, Callable[[], float]], repetitions: int) -> dict[str, Samples]:
    """Measure every case once, then every case again, so that a slow moment of the machine meets all alike.

    The first round warms caches and is thrown away, unless it is the only one.
    """
    found: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(repetitions + (repetitions > 1)):
        for name, measure in cases.items():
            found[name].append(measure())
    return {name: Samples(tuple(values[1:] or values)) for name, values in found.items()}


def wall_s(
    argv: Sequence[str], environ: Mapping[str, str], cwd: Path, *, allowed: frozenset[int] = frozenset({0})
) -> float:
    """Run a program to its end, output to nowhere, and return how many seconds it took."""
    log = cwd / "stderr.txt"
    began_s = time.perf_counter()
    pid = spawn(argv, environ, cwd, errors=log)
    _, status = os.waitpid(pid, 0)
    took_s = time.perf_counter() - began_s
    code = os.waitstatus_to_exitcode(status)
    if code not in allowed:
        raise RuntimeError(f"{' '.join(argv)} ended with {code}: {log.read_text('utf-8', 'replace')[-500:]}")
    return took_s


def spawn(
    argv: Sequence[str],
    environ: Mapping[str, str],
    cwd: Path,
    *,
    output: str | Path = os.devnull,
    errors: str | Path = os.devnull,
) -> int:
    """Start a program with its output in files; return its pid."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(output), flags, 0o600),
        (os.POSIX_SPAWN_OPEN, 2, str(errors), flags, 0o600),
    ]
    before = os.getcwd()
    os.chdir(cwd)
    try:
        return os.posix_spawnp(argv[0], list(argv), dict(environ), file_actions=actions)
    finally:
        os.chdir(before)


def cpu_s(pid: int) -> float:
    """Seconds of processor time that all threads of a process have had, to the nanosecond."""
    tasks = Path(f"/proc/{pid}/task")
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9


def pss_mb(pid: int) -> float:
    """Memory of a process in MiB, its part of what it shares with others."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def children_of(pid: int) -> list[int]:
    """The direct children of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_until(is_so: Callable[[], bool], what: str, limit_s: float = 60.0) -> None:
    """Wait for a condition.

    :raises RuntimeError: when it does not come about in time.
    """
    end_s = time.monotonic() + limit_s
    while not is_so():
        if time.monotonic() > end_s:
            raise RuntimeError(f"{what} did not come about within {limit_s:g} s")
        time.sleep(0.01)


def own_cpu_s(argv: Sequence[str], environ: Mapping[str, str], cwd: Path) -> float:
    """Processor time of a program alone, without its children's, to the next microsecond.

    :source: /proc/PID/schedstat of the program after its end, before it is waited for.
    """
    pid = spawn(argv, environ, cwd)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    used_s = int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
    os.waitpid(pid, 0)
    return used_s
