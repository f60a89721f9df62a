"""`python -m benchmarks`: measure what Backprop promises about speed, and print a table."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from . import crowd, dispatch, history, idle, ingestion, saving, startup, storage, timebox
from .bench import TRAPS, Bench, Skip
from .publishing import publish
from .results import Report, Result, Skipped, table

BENCHMARKS = {
    module.NAME: module.measure
    for module in (startup, ingestion, history, idle, timebox, storage, saving, dispatch, crowd)
}


def main(arguments: Sequence[str]) -> int:
    """Measure what was asked for; 1 where a budget is missed and `--strict` was given."""
    asked = parser().parse_args(arguments)
    if asked.publish:
        publish([msgspec.json.decode(path.read_bytes(), type=Report) for path in asked.publish])
        return 0
    for trap in TRAPS:
        os.environ.pop(trap, None)
    with tempfile.TemporaryDirectory(prefix="backprop-benchmarks-") as place:
        bench = Bench(Path(place), quick=asked.quick, original=asked.original, guild=asked.guild)
        report = measure(bench, asked.only or list(BENCHMARKS))
    if asked.json:
        asked.json.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    missed = [each for each in report.results if each.is_kept is False]
    print(
        f"\n{len(missed)} budgets missed" + (f": {', '.join(each.case for each in missed)}" if missed else "")
    )
    return 1 if missed and asked.strict else 0


def parser() -> argparse.ArgumentParser:
    """Build the options."""
    made = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, allow_abbrev=False)
    made.add_argument(
        "only",
        nargs="*",
        metavar="BENCHMARK",
        help=f"which: {', '.join(BENCHMARKS)}. [default: all]",
        type=known,
    )
    made.add_argument(
        "--quick", action="store_true", help="once each and small: shows that all works, measures little"
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="write everything measured here, too")
    made.add_argument(
        "--original", metavar="COMMAND", help="the TypeScript Backprop, to be measured beside it"
    )
    made.add_argument("--guild", metavar="COMMAND", help="Guild AI, to be measured beside it")
    made.add_argument("--strict", action="store_true", help="exit with 1 where a budget is missed")
    made.add_argument(
        "--publish",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="measure nothing; draw the plots and the table of docs/explanation from what --json wrote",
    )
    return made


def known(name: str) -> str:
    """Check a benchmark's name."""
    if name not in BENCHMARKS:
        raise argparse.ArgumentTypeError(f"there is no benchmark {name!r}")
    return name


def measure(bench: Bench, names: Sequence[str]) -> Report:
    """Run benchmarks one after another and print each one's table as it is done."""
    load_before = os.getloadavg()[0]
    results: list[Result] = []
    skipped: list[Skipped] = []
    for name in names:
        try:
            found = list(BENCHMARKS[name](bench))
        except Skip as why:
            skipped.append(Skipped(benchmark=name, why=str(why)))
            print(f"\n{name}: skipped, {why}")
            continue
        results += found
        show(name, found)
    machine = (
        f"{os.cpu_count()} cores, {platform.machine()}, Linux {'.'.join(platform.release().split('.')[:2])}"
    )
    return Report(
        machine=machine,
        python=platform.python_version(),
        load_before=load_before,
        results=tuple(results),
        skipped=tuple(skipped),
    )


def show(name: str, results: Sequence[Result]) -> None:
    """Print one benchmark's table."""
    rows = table(results)
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    print(f"\n{name}")
    for row in rows:
        print(
            "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(),
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
