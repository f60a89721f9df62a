"""How much of its time a run spends on writing all of experiments.json, as the past grows."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from .bench import CHILDREN, Bench
from .measuring import Samples, spawn
from .past import home_with
from .results import Budget, Result, row

NAME = "saving"
OPTIONS = ("--plugin", "timed_storage", "--storage", "timed", "--")


def measure(bench: Bench) -> Iterator[Result]:
    counts = (100,) if bench.quick else (100, 1_000, 10_000)
    train_s = 2 if bench.quick else 60
    homes = {count: home_with(bench, count) for count in counts}
    shares = [_shares(bench, homes, train_s) for _ in range(bench.repetitions(3))]
    for count in counts:
        yield row(
            NAME,
            f"whole-file saves of a run of {train_s} s, {count:,} runs",
            Samples(tuple(share[count] for share in shares)),
            "% of its time",
            scale=100,
            budget=None if bench.quick else Budget(1.0, "<= 1 % of its time"),
        )


def _shares(bench: Bench, homes: dict[int, Path], train_s: float) -> dict[int, float]:
    """Train in steady steps in each home, side by side, and return the saves' parts of the runs' time."""
    began_s = time.perf_counter()
    pids = {spawn_in(bench, home, train_s): count for count, home in homes.items()}
    shares = {}
    while pids:
        pid, status = os.wait()
        count = pids.pop(pid)
        if status:
            raise RuntimeError(f"a run in {homes[count]} ended with {os.waitstatus_to_exitcode(status)}")
        saves_s = float((homes[count] / "saves.txt").read_text("utf-8"))
        shares[count] = saves_s / (time.perf_counter() - began_s)
    return shares


def spawn_in(bench: Bench, home: Path, train_s: float) -> int:
    """Start a run that writes down how long its saves took."""
    environ = bench.environ(home, TIMED_SAVES=str(home / "saves.txt"), PYTHONPATH=str(CHILDREN))
    return spawn(bench.run(bench.child("steady.py"), *OPTIONS, str(train_s)), environ, bench.place)
