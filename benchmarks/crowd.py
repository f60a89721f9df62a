"""A hundred supervised runs at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from .bench import Bench
from .measuring import Samples, children_of, pss_mb, spawn, wait_until
from .results import Budget, Result, row

NAME = "crowd"
SETTLED_S = 3.0


def measure(bench: Bench) -> Iterator[Result]:
    count = 4 if bench.quick else 100
    found = [_crowd(bench, count) for _ in range(bench.repetitions(1))]
    up, memory, recorded, bare = (Samples(tuple(each[place] for each in found)) for place in range(4))
    yield row(
        NAME,
        f"{count} runs, until the last script runs",
        up,
        "s",
        reference=("as many under timeout", bare),
        budget=Budget(10.0, "<= 10 s"),
    )
    yield row(
        NAME,
        f"memory (PSS) of {count} runs, scripts apart",
        memory,
        "MiB",
        budget=Budget(1600.0 / 1.048576, "<= 1.6 GB"),
    )
    yield row(
        NAME,
        f"of {count} runs, recorded to their end",
        recorded,
        "runs",
        budget=Budget(float(count), "all", is_least=True),
    )


def _crowd(bench: Bench, count: int) -> tuple[float, float, float, float]:
    """Start everything at once, and end it.

    :returns: Seconds until all are up, MiB, how many were recorded, and seconds for as many under `timeout`.
    """
    signs = bench.place / "signs"
    script = bench.child("waiter.py")
    environ = bench.environ(bench.home("crowd"))
    bare_s = _started_s(
        bench,
        [["timeout", "600", bench.python, str(script), str(signs / str(n))] for n in range(count)],
        environ,
        signs,
    )[0]
    runs = [bench.run(script, "--run-id", f"crowd-{n}", "--", str(signs / str(n))) for n in range(count)]
    up_s, memory, _ = _started_s(bench, runs, environ, signs)
    done = subprocess.run([*bench.backprop, "list", "--json"], env=environ, capture_output=True, check=True)
    recorded = sum(record["status"] == "stopped" for record in json.loads(done.stdout))
    return up_s, memory, float(recorded), bare_s


def _started_s(
    bench: Bench, commands: list[list[str]], environ: dict[str, str], signs: Path
) -> tuple[float, float, list[int]]:
    signs.mkdir()
    began_s = time.perf_counter()
    pids = [
        spawn(argv, environ, bench.place, errors=bench.place / f"crowd-{number}.txt")
        for number, argv in enumerate(commands)
    ]
    try:
        wait_until(lambda: len(os.listdir(signs)) == len(commands), "the start of every script", 120.0)
        up_s = time.perf_counter() - began_s
        time.sleep(0.5 if bench.quick else SETTLED_S)
        is_timeout = commands[0][0] == "timeout"
        memory = 0.0 if is_timeout else sum(pss_mb(each) for pid in pids for each in (pid, *children_of(pid)))
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        for pid in pids:
            os.waitpid(pid, 0)
        for sign in signs.iterdir():
            sign.unlink()
        signs.rmdir()
    return up_s, memory, pids
