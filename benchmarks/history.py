"""What a progress line costs when many runs went before."""

from __future__ import annotations

from collections.abc import Iterator

from .bench import Bench
from .ingestion import lines_s
from .measuring import Samples, alternate
from .past import home_with
from .results import Budget, Result, row

NAME = "history"


def measure(bench: Bench) -> Iterator[Result]:
    counts = (1, 100) if bench.quick else (1, 100, 1_000, 10_000)
    lines = 2_000 if bench.quick else 500_000  # so many that the noise of a start does not tell
    for storage in ("json", "sqlite"):
        homes = {count: home_with(bench, count, storage) for count in counts}
        cases = {
            str(count): lambda home=home, storage=storage: lines_s(bench, home, lines, storage)
            for count, home in homes.items()
        }
        found = alternate(cases, bench.repetitions(5))
        per_line = {
            name: Samples(tuple(value / lines * 1e6 for value in each.values)) for name, each in found.items()
        }
        first = per_line["1"]
        for count in counts:
            budget = Budget(1.2, "flat (<= 1.2 x)", is_ratio=True) if count == counts[-1] else None
            yield row(
                NAME,
                f"a progress line after {count:,} run{'s' * (count > 1)}, {storage}",
                per_line[str(count)],
                "us",
                reference=("1 run", first),
                budget=budget,
            )
