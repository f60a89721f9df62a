"""`python -m benchmarks.gate`: hold what commands execute against what the bare interpreter executes.

Instructions are counted by valgrind, and only their ratios are judged: neither a busy machine nor a slow one changes
them by more than a hundredth. Another version of Python does, by some tenths, which the limits leave room for. A limit
that is passed means that something is imported, compiled or done that was not before.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .bench import Bench
from .past import home_with

LIMITS = {
    "import backprop_core.script": 1.15,
    "backprop --version": 2.2,
    "backprop list, 100 runs": 6.4,
    "backprop run --dry-run empty.py": 8.2,
    "100 looks at the machine during a run": 1.0,
    "a progress line": 1.75,
    "a progress line with metrics": 5.0,
    "a line of text that tells nothing": 1.55,
    "a line, one in ten of them progress": 2.9,
}
"""Ratios to the bare interpreter's start, those of lines to barely decoding one: what was measured, and a quarter."""
KINDS = {
    "json": "a progress line",
    "metrics": "a progress line with metrics",
    "text": "a line of text that tells nothing",
    "mixed": "a line, one in ten of them progress",
}
LINES = 20_000
LOOK_EVERY_S = 0.1
WATCHED_S = 5


def main() -> int:
    """Count, print, and return 1 where a limit is passed."""
    if shutil.which("valgrind") is None:
        print("skipped: valgrind is not installed")
        return 0
    with tempfile.TemporaryDirectory(prefix="backprop-gate-") as place:
        found = ratios(Bench(Path(place), quick=True))
    for name, ratio in found.items():
        verdict = "ok" if ratio <= LIMITS[name] else "PASSED ITS LIMIT"
        print(f"{ratio:8.2f}  at most {LIMITS[name]:5.2f}  {name}  {verdict}")
    return int(any(ratio > LIMITS[name] for name, ratio in found.items()))


def ratios(bench: Bench) -> dict[str, float]:
    """Count what each subject executes, and divide it by what its reference does."""
    empty = bench.script("empty.py", "")
    environ = {**bench.environ(home_with(bench, 100)), "PYTHONHASHSEED": "0"}
    command = [bench.python, *bench.backprop]
    bare = counted([bench.python, "-c", "pass"], environ, bench.place)
    subjects = {
        "import backprop_core.script": [bench.python, "-c", "import backprop_core.script"],
        "backprop --version": [*command, "--version"],
        "backprop list, 100 runs": [*command, "list"],
        "backprop run --dry-run empty.py": [*command, "run", "--dry-run", str(empty)],
    }
    found = {name: counted(argv, environ, bench.place) / bare for name, argv in subjects.items()}
    watched = per_look([*command, "run", "--set", f"monitorSeconds={LOOK_EVERY_S}"], bench, environ)
    found["100 looks at the machine during a run"] = 100 * watched / bare
    feed = [bench.python, str(bench.child("feed.py"))]

    def per_line(how: str, kind: str) -> float:
        few, many = (
            counted([*feed, how, kind, str(count)], environ, bench.place) for count in (LINES // 10, LINES)
        )
        return (many - few) / (LINES - LINES // 10)

    barely = per_line("bare", "json")
    return found | {name: per_line("backprop", kind) / barely for kind, name in KINDS.items()}


def per_look(command: Sequence[str], bench: Bench, environ: dict[str, str]) -> float:
    """Count what a supervisor executes from one look at the machine to the next, while its script does nothing."""
    short, long = (
        counted(
            [*command, str(bench.script(f"idle-{seconds}.py", f"import time; time.sleep({seconds})"))],
            environ,
            bench.place,
        )
        for seconds in (1, 1 + WATCHED_S)
    )
    return (long - short) / (WATCHED_S / LOOK_EVERY_S)


def counted(argv: Sequence[str], environ: dict[str, str], cwd: Path) -> int:
    """Count the instructions that a program executes, without its children's.

    It is run once before, so that what Python compiles and writes down at the first start does not count.
    """
    subprocess.run(argv, env=environ, cwd=cwd, stdout=subprocess.DEVNULL, check=True)
    tool = ["valgrind", "--tool=cachegrind", "--cache-sim=no", f"--cachegrind-out-file={os.devnull}"]
    done = subprocess.run([*tool, *argv], env=environ, cwd=cwd, capture_output=True, text=True, check=True)
    found = re.search(r"I\s+refs:\s+([\d,]+)", done.stderr)
    if found is None:
        raise RuntimeError(f"valgrind did not count: {done.stderr[-500:]}")
    return int(found[1].replace(",", ""))


if __name__ == "__main__":
    sys.exit(main())
