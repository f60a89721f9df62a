"""How late the signal at the end of the time box is, in silence and under a flood of output."""

from __future__ import annotations

import time
from collections.abc import Iterator

from .bench import Bench
from .measuring import alternate, wall_s
from .results import Budget, Result, row

NAME = "time box"
LIMIT_S = 1.0


def measure(bench: Bench) -> Iterator[Result]:
    environ = bench.environ(bench.home("time-box"))
    cases = {}
    for pace in ("silent", "100,000 lines/s"):
        cases[pace] = lambda pace=pace: _late_s(bench, environ, pace)
        cases[f"timeout, {pace}"] = lambda pace=pace: _late_under_timeout_s(bench, environ, pace)
    found = alternate(cases, bench.repetitions(7))
    for pace in ("silent", "100,000 lines/s"):
        budget = Budget(5.0, "<= 5 ms late") if pace != "silent" else None
        yield row(
            NAME,
            f"the signal's lateness, {pace}",
            found[pace],
            "ms",
            scale=1e3,
            reference=("timeout", found[f"timeout, {pace}"]),
            budget=budget,
        )


def _late_s(bench: Bench, environ: dict[str, str], pace: str) -> float:
    note = bench.place / "late.txt"
    argv = bench.run(bench.child("flood.py"), "-m", str(LIMIT_S / 60), "--", str(note), pace)
    wall_s(argv, environ, bench.place)
    return float(note.read_text())


def _late_under_timeout_s(bench: Bench, environ: dict[str, str], pace: str) -> float:
    """The same with coreutils; its clock starts a moment after ours, so that it may seem a little late."""
    note = bench.place / "late.txt"
    argv = ["timeout", "-s", "INT", str(LIMIT_S), bench.python, str(bench.child("flood.py")), str(note), pace]
    deadline_s = time.monotonic() + LIMIT_S
    wall_s(argv, {**environ, "DEADLINE": str(deadline_s)}, bench.place, allowed=frozenset({0, 124}))
    return float(note.read_text())
