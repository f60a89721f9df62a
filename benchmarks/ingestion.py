"""How fast output is taken in, and how much of that the script feels."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from .bench import Bench
from .measuring import Samples, alternate, own_cpu_s, wall_s
from .results import Budget, Result, row

NAME = "ingestion"
EVENTS = 10_000
# The original took 5.6 s where `cat` took 0.049 s for the same lines.
ORIGINAL_OVER_CAT = 5.6 / 0.049


def measure(bench: Bench) -> Iterator[Result]:
    yield from _bulk(bench)
    yield from _felt(bench)
    yield _events(bench)


def _bulk(bench: Bench) -> Iterator[Result]:
    lines = 20_000 if bench.quick else 1_000_000
    home = bench.home("bulk")
    for kind in ("json", "text", "mixed"):
        cases = {
            "backprop": lambda kind=kind: _written_s(bench, home, kind, lines, "bulk"),
            "reader": lambda kind=kind: _read_by_python_s(bench, home, kind, lines),
            "cat": lambda kind=kind: _into_cat_s(bench, home, kind, lines, "bulk"),
        }
        found = alternate(cases, bench.repetitions(5))
        speed = {
            name: Samples(tuple(lines / value / 1e6 for value in each.values)) for name, each in found.items()
        }
        budget = Budget(3.0, ">= 3 million/s", is_least=True) if kind == "json" else None
        yield row(
            NAME,
            f"{kind} lines, bulk",
            speed["backprop"],
            "million/s",
            reference=("bare reader", speed["reader"]),
            budget=budget,
        )
        yield row(NAME, f"{kind} lines, bulk, into cat", speed["cat"], "million/s")


def _felt(bench: Bench) -> Iterator[Result]:
    lines = 5_000 if bench.quick else 300_000
    home = bench.home("felt")
    for how in ("flushed", "buffered"):
        cases = {
            "backprop": lambda how=how: _written_s(bench, home, "json", lines, how),
            "cat": lambda how=how: _into_cat_s(bench, home, "json", lines, how),
        }
        found = alternate(cases, bench.repetitions(5))
        budget = Budget(1.05, "<= 1.05 x cat", is_ratio=True)
        yield row(
            NAME,
            f"{lines:,} print() calls, {how}, as the script feels it",
            found["backprop"],
            "ms",
            scale=1e3,
            reference=("cat", found["cat"]),
            budget=budget,
        )


def _events(bench: Bench) -> Result:
    """The whole run of a script that prints 10,000 events, from the command to its end."""
    home = bench.home("events")
    arguments = [str(bench.place / "note.txt"), "json", str(EVENTS), "flushed"]
    text = bench.child("writer.py").read_text("utf-8")
    writer = bench.script("ten_thousand.py", f"import sys\nsys.argv[1:] = {arguments}\n{text}")
    environ = bench.environ(home)
    cases = {
        "backprop": lambda: wall_s(bench.run(writer), environ, bench.place),
        "cat": lambda: _into_cat_s(bench, home, "json", EVENTS, "flushed", is_whole=True),
    }
    if bench.original:
        whole = [*bench.original, "run", str(writer)]  # which passes no arguments to a script
        store = bench.environ_of_original(bench.home("events-original"))
        cases["original"] = lambda: wall_s(whole, store, bench.place)
    found = alternate(cases, bench.repetitions(5))
    case = f"{EVENTS:,} events, the whole run"
    if original := found.get("original"):
        budget = Budget(1 / 50, "50 x faster than the original", is_ratio=True)
        return row(
            NAME,
            case,
            found["backprop"],
            "ms",
            scale=1e3,
            reference=("the original", original),
            budget=budget,
        )
    limit = ORIGINAL_OVER_CAT / 50
    budget = Budget(
        limit,
        f"<= {limit:.1f} x cat (50 x faster than the original's {ORIGINAL_OVER_CAT:.0f})",
        is_ratio=True,
    )
    return row(NAME, case, found["backprop"], "ms", scale=1e3, reference=("cat", found["cat"]), budget=budget)


def _written_s(bench: Bench, home: Path, kind: str, lines: int, how: str) -> float:
    """How long the script took to write its lines under Backprop."""
    note = bench.place / "note.txt"
    script = bench.child("writer.py")
    wall_s(
        bench.run(script, "--", str(note), kind, str(lines), how), _as_buffered(bench, home, how), bench.place
    )
    return float(note.read_text())


def _into_cat_s(
    bench: Bench, home: Path, kind: str, lines: int, how: str, *, is_whole: bool = False
) -> float:
    """How long it took to write the same into `cat`, or with `is_whole` both programs together."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as cat:
        assert cat.stdin
        return _written_into_s(bench, home, cat.stdin.fileno(), kind, lines, how, is_whole=is_whole)


def _read_by_python_s(bench: Bench, home: Path, kind: str, lines: int) -> float:
    """How long it took to write the same into a Python that reads and forgets."""
    reader = "import os\nwhile os.read(0, 262144): pass"
    with subprocess.Popen([bench.python, "-c", reader], stdin=subprocess.PIPE) as python:
        assert python.stdin
        time.sleep(0.1)  # the reader's own start is not what is measured
        return _written_into_s(bench, home, python.stdin.fileno(), kind, lines, "bulk")


def _written_into_s(
    bench: Bench, home: Path, pipe: int, kind: str, lines: int, how: str, *, is_whole: bool = False
) -> float:
    note = bench.place / "note.txt"
    argv = [bench.python, str(bench.child("writer.py")), str(note), kind, str(lines), how]
    began_s = time.perf_counter()
    subprocess.run(argv, env=_as_buffered(bench, home, how), stdout=pipe, check=True)
    whole_s = time.perf_counter() - began_s
    return whole_s if is_whole else float(note.read_text())


def _as_buffered(bench: Bench, home: Path, how: str) -> dict[str, str]:
    """Give the script the same buffering under Backprop and without."""
    is_unbuffered = how == "flushed"
    environ = bench.environ(home, BACKPROP_UNBUFFERED="true" if is_unbuffered else "false")
    if is_unbuffered:
        environ["PYTHONUNBUFFERED"] = "1"
    return environ


def lines_s(bench: Bench, home: Path, lines: int, storage: str) -> float:
    """Processor time that Backprop spends on a run of so many flushed progress lines, less an empty run's."""
    environ = {**_as_buffered(bench, home, "flushed"), "BACKPROP_STORAGE": storage}
    note = str(bench.place / "note.txt")
    script = bench.child("writer.py")

    def busy_s(count: int) -> float:
        return own_cpu_s(bench.run(script, "--", note, "json", str(count), "flushed"), environ, bench.place)

    return max(0.0, busy_s(lines) - busy_s(0))
