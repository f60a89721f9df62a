"""What it costs to supervise a script that does nothing, with a GPU to watch every 2 seconds."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from .bench import Bench, Skip
from .measuring import Samples, children_of, cpu_s, pss_mb, spawn, wait_until
from .results import Budget, Result, row

NAME = "idle"
SETTLED_S = 4.0


def measure(bench: Bench) -> Iterator[Result]:
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    from stub_nvml.build import StubGpu, StubNvml, build, compiler  # noqa: PLC0415 - it is the tests'

    if compiler() is None:
        raise Skip("there is no C compiler to build the stub of NVIDIA's library with")
    nvml = StubNvml(build(bench.place), bench.place / "machine.txt")
    nvml.set(StubGpu(uuid="GPU-1", name="NVIDIA H100", total=81559, free=80000, temp=40, util=0, throttle=0))
    window_s = 2.0 if bench.quick else 20.0
    repetitions = bench.repetitions(3)
    sleeper = bench.child("sleeper.py")
    environ = bench.environ(bench.home("idle"), **nvml.environment, BACKPROP_GPU_PROBE="nvml")
    own = [watched(bench, bench.run(sleeper), environ, 2, window_s) for _ in range(repetitions)]
    timeout = ["timeout", "600", bench.python, str(sleeper)]
    other = [watched(bench, timeout, environ, 1, window_s) for _ in range(repetitions)]
    cpu, memory = (Samples(tuple(each[place] for each in own)) for place in (0, 1))
    cpu_of_timeout, memory_of_timeout = (Samples(tuple(each[place] for each in other)) for place in (0, 1))
    yield row(
        NAME,
        "processor time, backprop and keeper",
        cpu,
        "% of a core",
        reference=("timeout", cpu_of_timeout),
        budget=Budget(0.15, "<= 0.15 % of a core"),
    )
    yield row(
        NAME,
        "memory (PSS), backprop and keeper",
        memory,
        "MiB",
        reference=("timeout", memory_of_timeout),
        budget=Budget(26.0, "<= 26 MB"),
    )


def watched(
    bench: Bench, argv: Sequence[str], environ: dict[str, str], processes: int, window_s: float
) -> tuple[float, float]:
    """Start a program that supervises a script and return its share of a core in percent, and its memory in MiB.

    :param processes: How many processes, one the parent of the next, belong to it; the script is the next one.
    """
    pid = spawn(argv, environ, bench.place)
    try:
        wait_until(lambda: len(_line_from(pid)) > processes, "the start of the script")
        time.sleep(0.5 if bench.quick else SETTLED_S)
        own = _line_from(pid)[:processes]
        began_s, before = time.perf_counter(), sum(map(cpu_s, own))
        time.sleep(window_s)
        used_s = sum(map(cpu_s, own)) - before
        share = used_s / (time.perf_counter() - began_s) * 100
        return share, sum(map(pss_mb, own))
    finally:
        os.kill(pid, signal.SIGINT if processes > 1 else signal.SIGTERM)
        os.waitpid(pid, 0)


def _line_from(pid: int) -> list[int]:
    """A process, its child, its child's child."""
    found = [pid]
    while children := children_of(found[-1]):
        found.append(children[0])
    return found
