"""What the storages cost as the past grows: the newest runs, one record, one line of metrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from backprop_core import Progress, Storage
from backprop_core.opening import Ask, close, open_all, open_storage

from .bench import Bench, forget
from .measuring import Samples, alternate
from .past import home_with
from .results import Budget, Result, row

NAME = "storage"
NEWEST = 20


def measure(bench: Bench) -> Iterator[Result]:
    counts = (100, 1_000) if bench.quick else (100, 1_000, 10_000, 100_000)
    for name in ("json", "sqlite"):
        found: dict[int, dict[str, Samples]] = {}
        for count in counts:
            home = home_with(bench, count, name)
            found[count] = _measured(bench, home, name)
            forget(home)
        for what in ("the newest 20", "saving a record", "1,000 lines of metrics"):
            for count in counts:
                is_last = count == counts[-1]
                is_promised = name == "sqlite" and what == "the newest 20" and is_last
                budget = Budget(1.5, f"<= 1.5 x of {counts[0]} runs", is_ratio=True) if is_promised else None
                first = (f"{counts[0]} runs", found[counts[0]][what])
                yield row(
                    NAME,
                    f"{what}, {count:,} runs, {name}",
                    found[count][what],
                    "ms",
                    scale=1e3,
                    reference=first,
                    budget=budget,
                )


def _measured(bench: Bench, home: Path, name: str) -> dict[str, Samples]:
    environ = bench.environ(home, BACKPROP_STORAGE=name)
    cases = {
        "the newest 20": lambda: _timed_s(environ, lambda storage: storage.runs(limit=NEWEST)),
        "saving a record": lambda: _timed_s(environ, _save),
        "1,000 lines of metrics": lambda: _timed_s(environ, _append),
    }
    return alternate(cases, bench.repetitions(7))


def _save(storage: Storage) -> None:
    record = storage.get("example")
    assert record
    storage.save(record)


def _append(storage: Storage) -> None:
    storage.append_metrics("example", [Progress(step=step, loss=0.5) for step in range(1_000)])


def _timed_s(environ: dict[str, str], use: Callable[[Storage], object]) -> float:
    """Open the storage, use it once and close it; loading plugins and settings is not counted."""
    opened = open_all(Ask(), environ)
    close(opened)
    began_s = time.perf_counter()
    storage, _ = open_storage(opened.plugins, opened.resolved, environ)
    try:
        use(storage)
    finally:
        storage.close()
    return time.perf_counter() - began_s
