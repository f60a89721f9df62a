"""Homes with a past: so many runs that ended, in one of the storages."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from backprop_core.opening import Ask, close, open_all

from .bench import Bench, fill
from .measuring import wall_s


def home_with(bench: Bench, count: int, storage: str = "json") -> Path:
    """Make a home in which `count` runs have ended: one real one, and the others after its example."""
    home = bench.home(f"{storage}-{count}-{len(list((bench.place / 'homes').glob('*')))}")
    script = bench.script("one_event.py", 'print(\'{"step": 1, "loss": 0.5}\')\n')
    environ = bench.environ(home, BACKPROP_STORAGE=storage)
    wall_s(bench.run(script, "--run-id", "example"), environ, bench.place)
    if count > 1:
        template = example(bench, environ)
        fill(home, count - 1, storage, template)
        _save_once(environ)
    return home


def _save_once(environ: dict[str, str]) -> None:
    """Leave the home as Backprop itself leaves it: what another program has written is read whole the next time."""
    opened = open_all(Ask(), environ)
    record = opened.storage.get("example")
    assert record
    opened.storage.save(record)
    close(opened)


def example(bench: Bench, environ: dict[str, str]) -> dict[str, object]:
    """Read the record of the real run."""
    done = subprocess.run([*bench.backprop, "list", "--json"], env=environ, capture_output=True, check=True)
    record: dict[str, object] = json.loads(done.stdout)[0]
    return record
