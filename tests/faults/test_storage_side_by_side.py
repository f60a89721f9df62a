"""Many writers and readers at once, and two versions of Backprop at once: every record is there in the end."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from statistics import quantiles
from typing import Any

import pytest
from figures import Figures

from backprop_builtin.storage.json_file import JsonBackend
from backprop_builtin.storage.sqlite import SqliteBackend
from backprop_core import RunState, Storage, StorageBackend, StorageError
from backprop_core.testing import ids, make_record

LIMIT_S = 300.0

CHILD = r"""
import json, sys, time
from contextlib import closing
from pathlib import Path
from backprop_builtin.storage.json_file import JsonBackend
from backprop_builtin.storage.sqlite import SqliteBackend
from backprop_core import RunRecord, RunState, StorageError, records

action, kind, home = sys.argv[1:4]
storage = (SqliteBackend() if kind == "sqlite" else JsonBackend()).open(None, Path(home))

def record(run_id, **fields):
    return RunRecord(id=run_id, script_path="/x.py", status=RunState.RUNNING, start_time=1, **fields)

def save_many(prefix, count):
    took = []
    for number in range(int(count)):
        began = time.monotonic()
        storage.save(record(f"{prefix}-{number}"))
        took.append(time.monotonic() - began)
    return took

def read_many(count):
    seen, bad = 0, []
    for _ in range(int(count)):
        now = len(storage.runs())
        bad += [f"{seen} runs, then {now}"] if now < seen else []
        seen = now
    return bad + list(storage.problems)

def save_as_newer(count):
    records.SCHEMA_VERSION = 2
    for number in range(int(count)):
        storage.save(record(f"new-{number}", extra={"since": "v2", "nested": {"of": [1, None, 2.5]}}))
        storage.save(record("shared", last_step=number, extra={"since": "v2"}))
    return []

def save_as_older(count):
    refused = 0
    for number in range(int(count)):
        storage.save(record(f"old-{number}", extra={"note": "kept"}))
        try:
            storage.save(record("shared", last_step=-1))
        except StorageError as error:
            refused += "newer Backprop" in str(error)
    return [refused]

found = globals()[action](*sys.argv[4:])
storage.close()
print(json.dumps(found))
"""


def start(action: str, kind: str, home: Path, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, action, kind, str(home), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finished(child: subprocess.Popen[str]) -> Any:
    said, _ = child.communicate(timeout=LIMIT_S)
    assert child.returncode == 0
    return json.loads(said)


def opened(kind: str, home: Path) -> Storage:
    backend: StorageBackend = SqliteBackend() if kind == "sqlite" else JsonBackend()
    return backend.open(None, home)


@pytest.mark.parametrize(
    ("kind", "known", "saves", "reads"),
    [
        ("json", 50, 3, 10),
        pytest.param("json", 1000, 25, 100, marks=pytest.mark.soak),
        pytest.param("sqlite", 1000, 25, 100, marks=pytest.mark.soak),
    ],
)
def test_sixteen_writers_lose_nothing_and_readers_see_whole_stores(
    kind: str, known: int, saves: int, reads: int, tmp_path: Path, figures: Figures
) -> None:
    with closing(opened(kind, tmp_path / "home")) as storage:
        save_many = storage.save_many  # type: ignore[attr-defined]
        save_many([make_record(f"k{n}", n, status=RunState.COMPLETED) for n in range(known)])
        writers = [start("save_many", kind, tmp_path / "home", f"w{n}", saves) for n in range(16)]
        readers = [start("read_many", kind, tmp_path / "home", reads) for _ in range(2)]
        took_s = [seconds for writer in writers for seconds in finished(writer)]
        assert [finished(reader) for reader in readers] == [[], []]
        assert len(ids(storage)) == known + 16 * saves
        assert getattr(storage, "problems", []) == []
    figures(
        records=known,
        writes=16 * saves,
        p50_ms=1000 * quantiles(took_s)[1],
        p99_ms=1000 * quantiles(took_s, n=100)[98],
    )


@pytest.mark.parametrize("count", [10, pytest.param(300, marks=pytest.mark.soak)])
@pytest.mark.parametrize("kind", ["json", "sqlite"])
def test_two_versions_at_once_keep_each_others_records_to_the_last_key(
    kind: str, count: int, tmp_path: Path, figures: Figures
) -> None:
    home = tmp_path / "home"
    with closing(opened(kind, home)) as storage:
        storage.save(make_record("first"))
        newer, older = start("save_as_newer", kind, home, count), start("save_as_older", kind, home, count)
        finished(newer)
        (refused,) = finished(older)
        assert sorted(ids(storage)) == sorted(["first", *(f"old-{n}" for n in range(count))])
        with pytest.raises(StorageError, match="schema version 2"):
            storage.get("new-0")
        with pytest.raises(StorageError, match="newer Backprop"):
            storage.save(make_record("new-0"))
    copies = [json.loads(path.read_text()) for path in home.glob("runs/new-*/run.json")]
    assert len(copies) == count
    stored = records_in(kind, home)
    assert [stored[copy["id"]] for copy in copies] == copies
    assert all(copy["nested"] == {"of": [1, None, 2.5]} and copy["schemaVersion"] == 2 for copy in copies)
    assert all(stored[f"old-{n}"]["note"] == "kept" for n in range(count))
    assert stored["shared"]["lastStep"] == count - 1, "what the newer version wrote last stands"
    figures(saves_of_each=count, refused_to_the_older=refused)


def records_in(kind: str, home: Path) -> dict[str, dict[str, Any]]:
    if kind == "json":
        return dict(json.loads((home / "experiments.json").read_text()))
    import sqlite3

    with closing(sqlite3.connect(home / "experiments.db")) as database:
        return {run: json.loads(line) for run, line in database.execute("SELECT id, record FROM runs")}
