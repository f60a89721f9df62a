"""A store whose lock somebody keeps: records wait in journals, seen by all, and are merged later."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import pytest

from backprop_builtin.storage._journals import Journals
from backprop_builtin.storage._locks import locked
from backprop_builtin.storage._records import seal
from backprop_builtin.storage._run_folders import RunFolders
from backprop_builtin.storage._sqlite_store import SqliteStorage
from backprop_builtin.storage.json_file import JsonStorage
from backprop_core import Attempt, RunRecord, RunState, StorageError
from backprop_core.testing import ids, make_record

LIMIT_S = 60.0
WAIT_S = 0.2

CHILD = r"""
import json, os, signal, sys
from pathlib import Path
from backprop_builtin.storage._locks import locked
from backprop_builtin.storage._run_folders import RunFolders
from backprop_builtin.storage._sqlite_store import SqliteStorage
from backprop_builtin.storage.json_file import JsonStorage
from backprop_core import RunRecord, RunState

file = Path(sys.argv[2])

def opened(wait_s):
    kind = JsonStorage if file.suffix == ".json" else SqliteStorage
    return kind(file, RunFolders(file.parent / "runs"), lock_wait_s=wait_s)

def record(run_id, **fields):
    return RunRecord(id=run_id, script_path="/x.py", status=RunState.RUNNING, start_time=1, **fields)

def say(text):
    os.write(1, text.encode() + b"\n")

def hold_the_lock():
    with locked(f"{file}.lock", 5.0):
        say("held")
        sys.stdin.readline()

def save_in_a_hurry(run_id, count):
    # Whoever waits no longer than this leaves most of its records in journals while others merge them.
    storage = opened(0.0005)
    unseen = []
    for step in range(int(count)):
        saved = record(run_id, last_step=step)
        storage.save(saved)
        if storage.get(run_id) != saved:
            unseen.append(step)
    say(json.dumps({"unseen": unseen, "journalled": len(storage.problems)}))

def journal_until_killed(rounds):
    acknowledged = []
    for turn in range(int(rounds)):
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            storage = opened(0.0)
            for number in range(1000):
                run_id = f"w{turn}-{number}"
                storage.save(record(run_id))
                os.write(writer, run_id.encode() + b"\n")
        os.close(writer)
        text = b""
        while text.count(b"\n") < 1 + turn % 4:
            text += os.read(reader, 4096)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        while more := os.read(reader, 4096):
            text += more
        acknowledged += text.decode().split("\n")[:-1]
    say(json.dumps(acknowledged))

globals()[sys.argv[1]](*sys.argv[3:])
"""


AnyStorage = JsonStorage | SqliteStorage


def start(action: str, file: Path, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, action, str(file), *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def finished(child: subprocess.Popen[str]) -> str:
    """Wait for a child and give what it said."""
    try:
        said, _ = child.communicate("", timeout=LIMIT_S)
    finally:
        child.kill()
    return said


@contextmanager
def stopped_holder(file: Path) -> Iterator[None]:
    """Have a process hold the lock, stopped; killed in the end."""
    holder = start("hold_the_lock", file)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        holder.send_signal(signal.SIGSTOP)
        yield
    finally:
        holder.kill()
        finished(holder)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir(0o700)
    return folder


@pytest.fixture(params=["experiments.json", "experiments.db"])
def file(home: Path, request: pytest.FixtureRequest) -> Path:
    return home / str(request.param)


def opened(file: Path, wait_s: float = 10.0) -> AnyStorage:
    kind = JsonStorage if file.suffix == ".json" else SqliteStorage
    return kind(file, RunFolders(file.parent / "runs"), lock_wait_s=wait_s)


@pytest.fixture
def storage(file: Path) -> Iterator[AnyStorage]:
    storage = opened(file, WAIT_S)
    yield storage
    storage.close()


@pytest.fixture
def journals(file: Path) -> Journals:
    return Journals(file, RunFolders(file.parent / "runs"), print)


def stored(file: Path) -> dict[str, dict[str, object]]:
    """Read what the store itself holds, without what waits in journals."""
    if not file.exists():
        return {}
    if file.suffix == ".json":
        return dict(json.loads(file.read_text()))
    with closing(sqlite3.connect(file)) as database:
        return {run: json.loads(line) for run, line in database.execute("SELECT id, record FROM runs")}


def journal_files(file: Path) -> list[Path]:
    return [
        *file.parent.glob("runs/*/journal-*"),
        *file.parent.glob("*.journals"),
        *file.parent.glob("*.journals/*"),
    ]


def attempted(*states: RunState, **fields: object) -> RunRecord:
    """Make a record of run `r` with an attempt for each state; it stands as the last one ended."""
    attempts = tuple(Attempt(start=number, status=state) for number, state in enumerate(states))
    return msgspec.structs.replace(make_record("r", status=states[-1]), attempts=attempts, **fields)


def test_save_past_a_stopped_lock_holder_returns_in_time_and_is_seen_by_all(
    storage: AnyStorage, file: Path
) -> None:
    storage.save(make_record("old", 1))
    before = stored(file)
    with stopped_holder(file):
        began_s = time.monotonic()
        storage.save(make_record("new", 2))
        assert WAIT_S <= time.monotonic() - began_s < 5
        assert stored(file) == before
        for reader in (storage, opened(file)):
            assert ids(reader) == ["new", "old"]
            assert reader.get("new") == make_record("new", 2)
        (problem,) = storage.problems
        assert "has been locked by another process for 0.2 s" in problem
        assert f"run new waits in {file.parent}/runs/new" in problem
        assert all(path.stat().st_mode & 0o077 == 0 for path in journal_files(file))


def test_journals_are_merged_by_the_next_writer_and_removed(storage: AnyStorage, file: Path) -> None:
    storage.save(make_record("r", last_step=1))
    with stopped_holder(file):
        storage.save(make_record("r", last_step=2))
        storage.save(make_record("r", last_step=3))
        storage.save(make_record("s"))
    opened(file).save(make_record("another"))
    values = stored(file)
    assert values["r"]["lastStep"] == 3
    assert set(values) == {"r", "s", "another"}
    assert journal_files(file) == []
    copy = json.loads((file.parent / "runs/r/run.json").read_text())
    assert copy["lastStep"] == 3, "what was merged can be rebuilt from"


def test_delete_past_a_stopped_lock_holder_is_an_error_and_deletes_journals_later(
    storage: AnyStorage, file: Path
) -> None:
    with stopped_holder(file):
        storage.save(make_record("r"))
        with pytest.raises(StorageError, match="has been locked"):
            storage.delete("r")
        assert ids(storage) == ["r"]
    storage.delete("r")
    assert ids(storage) == []
    storage.save(make_record("s"))
    assert ids(storage) == ["s"]
    assert journal_files(file) == []


RUNNING, LOST, COMPLETED, STOPPED = RunState.RUNNING, RunState.LOST, RunState.COMPLETED, RunState.STOPPED
OLDER_AND_NEWER = [
    (attempted(RUNNING), attempted(COMPLETED)),
    (attempted(LOST), attempted(COMPLETED)),
    (attempted(RUNNING), attempted(LOST)),
    (attempted(STOPPED), attempted(STOPPED, RUNNING)),
    (attempted(STOPPED, RunState.QUEUED), attempted(STOPPED, RUNNING)),
    (attempted(RUNNING, last_step=9), attempted(RUNNING, last_step=10)),
    (attempted(RUNNING, last_step=9), attempted(RUNNING, checkpoints=("/c.pt",))),
]


@pytest.mark.parametrize(("older", "newer"), OLDER_AND_NEWER)
@pytest.mark.parametrize("is_journal_newer", [True, False])
def test_of_stored_record_and_journal_the_one_further_along_stays(
    storage: AnyStorage, journals: Journals, older: RunRecord, newer: RunRecord, *, is_journal_newer: bool
) -> None:
    stored, journalled = (older, newer) if is_journal_newer else (newer, older)
    storage.save(stored)
    journals.keep("r", seal(journalled))
    assert storage.get("r") == newer
    storage.save(make_record("other"))
    assert storage.get("r") == newer


def test_journal_left_by_a_merger_that_was_killed_undoes_nothing(
    storage: AnyStorage, journals: Journals
) -> None:
    for record in (attempted(RUNNING, last_step=1), attempted(RUNNING, last_step=2)):
        storage.save(record)
    journals.keep("r", seal(attempted(RUNNING, last_step=1)))
    journals.keep("r", seal(attempted(RUNNING, last_step=2)))
    storage.save(attempted(STOPPED, last_step=2))
    journals.keep("r", seal(attempted(RUNNING, last_step=2)))
    storage.save(make_record("other"))
    assert storage.get("r") == attempted(STOPPED, last_step=2)


@pytest.mark.parametrize("text", [b"", b"{torn", b"[]"])
def test_journal_that_cannot_be_read_is_named_and_left(
    storage: AnyStorage, journals: Journals, text: bytes
) -> None:
    storage.save(make_record("r"))
    path = journals.keep("r", seal(make_record("r", last_step=1)))
    path.write_bytes(text)
    assert storage.get("r") == make_record("r")
    storage.save(make_record("s"))
    assert path.read_bytes() == text
    (problem,) = storage.problems
    assert str(path) in problem


def test_journal_changed_behind_its_checksum_is_never_merged(storage: AnyStorage, journals: Journals) -> None:
    path = journals.keep("r", seal(make_record("r", last_step=1500)))
    path.write_bytes(path.read_bytes().replace(b"1500", b"9500"))
    storage.save(make_record("s"))
    assert ids(storage) == ["s"]
    assert len(storage.problems) == 1


def test_newer_versions_record_takes_no_journal(storage: AnyStorage, file: Path) -> None:
    newer = {"id": "r", "scriptPath": "/x", "status": "running", "startTime": 1, "schemaVersion": 2}
    if file.suffix == ".json":
        file.write_text(json.dumps({"r": newer}))
    else:
        storage.save(make_record("r"))
        with closing(sqlite3.connect(file)) as database, database:
            database.execute("UPDATE runs SET record = ?", (json.dumps(newer),))
    with stopped_holder(file), pytest.raises(StorageError, match="newer Backprop"):
        storage.save(make_record("r"))
    assert journal_files(file) == []


def test_writers_that_wait_for_nobody_lose_nothing_while_others_merge(file: Path) -> None:
    storage = opened(file)
    hurried = [start("save_in_a_hurry", file, f"h{number}", 40) for number in range(4)]
    turn = 0
    while any(child.poll() is None for child in hurried):
        with locked(f"{file}.lock", LIMIT_S):
            os.listdir(file.parent)
        storage.save(make_record("patient", last_step=turn))
        turn += 1
    reports = [json.loads(finished(child)) for child in hurried]
    assert [report["unseen"] for report in reports] == [[]] * 4
    assert sum(report["journalled"] for report in reports) > 0, "nobody had to leave a journal"
    storage.save(make_record("last"))
    assert {record.id: record.last_step for record in storage.runs()} == {
        **{f"h{number}": 39 for number in range(4)},
        "patient": turn - 1,
        "last": None,
    }
    assert journal_files(file) == []


def test_killed_writers_lose_no_record_that_they_journalled(storage: AnyStorage, file: Path) -> None:
    with stopped_holder(file):
        acknowledged = json.loads(finished(start("journal_until_killed", file, 20)))
        assert len(acknowledged) >= 20
        assert set(acknowledged) <= set(ids(storage))
    storage.save(make_record("last"))
    values = stored(file)
    assert {"last", *acknowledged} <= set(values)
    assert list(file.parent.glob("*.journals")) == []
