"""experiments.db under kills, many writers, full disks, held locks and failing system calls."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from figures import Figures
from injection import ALLOW_TRACING, finished_with_fault

from backprop_builtin.storage._run_folders import RunFolders
from backprop_builtin.storage._sqlite_store import SqliteStorage
from backprop_core import Intent, StorageError
from backprop_core.testing import ids, make_record

LIMIT_S = 60.0
SOAK_LIMIT_S = 1800.0
IDS = [f"r{number}" for number in range(5)]

CHILD = r"""
import json, os, resource, signal, sys, time
from contextlib import closing
from pathlib import Path
from backprop_builtin.storage import _database
from backprop_builtin.storage._locks import LockBusyError
from backprop_builtin.storage._run_folders import RunFolders
from backprop_builtin.storage._sqlite_store import SqliteStorage
from backprop_core import Intent, RunRecord, RunState, StorageError

home = Path(sys.argv[2])

def opened():
    return SqliteStorage(home / "experiments.db", RunFolders(home / "runs"))

def record(run_id, **fields):
    return RunRecord(id=run_id, script_path="/x.py", status=RunState.RUNNING, start_time=1, **fields)

def say(text):
    os.write(1, text.encode() + b"\n")

def try_to_save(storage, run_id, **fields):
    try:
        storage.save(record(run_id, **fields))
    except StorageError as error:
        say("refused " + " ".join(str(error).split()))
    else:
        say("saved " + run_id)

def save_many(prefix, count):
    with closing(opened()) as storage:
        for number in range(int(count)):
            storage.save(record(f"{prefix}-{number}"))

def write_all_ways(turn, told):
    storage = opened()
    for number in range(100_000):
        run_id = f"w{turn}-{number}"
        storage.save(record(run_id))
        os.write(told, run_id.encode() + b"\n")
        try:
            storage.post(run_id, Intent(kind="stop"))
            if number % 3 == 2:
                storage.delete(f"w{turn}-{number - 1}")
                os.write(told, f"-w{turn}-{number - 1}\n".encode())
        except LockBusyError:  # on a machine so busy that the others kept the lock for ten seconds
            continue
        if number % 5 == 4:
            storage.close()

def killed_again_and_again(kills, writers_at_once):
    # One process forks every writer, so that a kill costs no interpreter start.
    saved, deleted, bad, begin = set(), set(), [], time.monotonic()
    turns = int(kills) // int(writers_at_once)
    for turn in range(turns):
        writers = []
        for place in range(int(writers_at_once)):
            reader, told = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.close(reader)
                write_all_ways(f"{turn}.{place}", told)
            os.close(told)
            writers.append((pid, reader))
        for place, (pid, reader) in enumerate(writers):
            text = b""
            while text.count(b"\n") < 1 + (turn + place) % 3:
                more = os.read(reader, 4096)
                assert more, "a writer ended by itself"
                text += more
            time.sleep(turn * 7 % 30 / 10000)  # falls on another step of the save in every turn
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            while more := os.read(reader, 4096):
                text += more
            os.close(reader)
            said = text.decode().split("\n")[:-1]
            saved |= {line for line in said if not line.startswith("-")}
            deleted |= {line[1:] for line in said if line.startswith("-")}
        if turn % 10 == 9 or turn == turns - 1:
            with closing(opened()) as storage:
                there = {run.id for run in storage.runs()}
                bad += [f"turn {turn}: {problem}" for problem in storage.problems]
                if not _database.is_sound(storage._database):
                    bad.append(f"turn {turn}: not sound")
            # A deletion is under way when it was not yet acknowledged; the run after it tells.
            bad += [f"turn {turn}: {run} is lost" for run in saved - deleted - there if not is_going(run, saved)]
            bad += [f"turn {turn}: {run} is back" for run in deleted & there]
    say(json.dumps({"saved": len(saved), "deleted": len(deleted), "bad": bad,
                    "seconds": round(time.monotonic() - begin, 1)}))

def is_going(run, saved):
    turn, number = run.rsplit("-", 1)
    return int(number) % 3 == 1 and f"{turn}-{int(number) + 1}" in saved

def stop_in_the_middle_of_a_save():
    storage = opened()
    storage.save(record("before"))
    def work(db):
        _database.put(db, "half", b'{"id":"half"}')
        say("writing")
        sys.stdin.readline()
    with storage._locked():
        storage._change(work)

def run_out_of_space(bytes_left):
    storage = opened()
    storage.save(record("before"))
    log = home / "experiments.db-wal"
    resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size + int(bytes_left), resource.RLIM_INFINITY))
    try_to_save(storage, "small")
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    try_to_save(storage, "after")

def begin_on_a_full_disk():
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, resource.RLIM_INFINITY))
    try_to_save(opened(), "r")

def look_in_a_read_only_folder():
    os.setuid(65534)
    storage = opened()
    say(" ".join(sorted(run.id for run in storage.runs())))
    try_to_save(storage, "new")

def save_when_told():
    storage = opened()
    storage.save(record("first"))
    say("ready")
    sys.stdin.readline()
    try_to_save(storage, "second")

globals()[sys.argv[1]](*sys.argv[3:])
"""


def start(action: str, home: Path, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", ALLOW_TRACING + CHILD, action, str(home), *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def finished(child: subprocess.Popen[str], told: str = "", limit_s: float = LIMIT_S) -> str:
    """Wait for a child and give what it said."""
    try:
        said, _ = child.communicate(told, timeout=limit_s)
    finally:
        child.kill()
    return said


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir(0o700)
    return folder


@pytest.fixture
def file(home: Path) -> Path:
    return home / "experiments.db"


@pytest.fixture
def storage(home: Path) -> Iterator[SqliteStorage]:
    storage = opened(home)
    yield storage
    storage.close()


def opened(home: Path, lock_wait_s: float = 10.0) -> SqliteStorage:
    return SqliteStorage(home / "experiments.db", RunFolders(home / "runs"), lock_wait_s=lock_wait_s)


@pytest.fixture
def filled(storage: SqliteStorage) -> SqliteStorage:
    for number, run_id in enumerate(IDS):
        storage.save(make_record(run_id, number))
    return storage


def check(file: Path) -> None:
    with closing(sqlite3.connect(file)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.parametrize(
    ("kills", "writers_at_once"),
    [
        (30, 1),
        (20, 4),
        pytest.param(2000, 1, marks=pytest.mark.soak),
        pytest.param(2000, 4, marks=pytest.mark.soak),
    ],
)
def test_killed_writers_lose_nothing_acknowledged(
    home: Path, kills: int, writers_at_once: int, figures: Figures
) -> None:
    child = start("killed_again_and_again", home, kills, writers_at_once)
    report = json.loads(finished(child, limit_s=LIMIT_S if kills < 100 else SOAK_LIMIT_S))
    figures(
        kills=kills,
        writers_at_once=writers_at_once,
        acknowledged=report["saved"],
        lost_or_unsound=len(report["bad"]),
    )
    assert report["bad"] == []
    assert report["saved"] >= kills
    storage = opened(home)
    storage.save(make_record("after"))
    assert storage.problems == []
    storage.close()
    check(home / "experiments.db")
    assert list(home.glob(".*.tmp")) == []
    assert list(home.glob("*.corrupt-*")) == []


# What the system refuses ---------------------------------------------------------------------


@pytest.mark.parametrize("bytes_left", [10, 4000, 6000])
def test_full_disk_is_told_and_undoes_only_the_save_that_met_it(
    filled: SqliteStorage, home: Path, bytes_left: int
) -> None:
    said = finished(start("run_out_of_space", home, bytes_left)).splitlines()
    assert re.match(rf"refused cannot write {home}/experiments\.db: \w", said[0])
    assert said[1:] == ["saved after"]
    assert sorted(ids(filled)) == sorted(["before", "after", *IDS])
    filled.close()
    check(home / "experiments.db")


def test_store_that_begins_on_a_full_disk_leaves_no_half_made_file(
    home: Path, storage: SqliteStorage
) -> None:
    assert finished(start("begin_on_a_full_disk", home)).startswith("refused cannot make ")
    assert sorted(path.name for path in home.iterdir()) == [
        "experiments.db.lock",
        "experiments.db.lock.queue",
        "runs",
    ]
    assert list((home / "runs").iterdir()) == []
    storage.save(make_record("r"))
    assert ids(storage) == ["r"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user, as the test does")
@pytest.mark.parametrize("has_log", [False, True])
def test_read_only_folder_can_be_read_and_refuses_to_save(*, has_log: bool) -> None:
    with TemporaryDirectory() as place:  # pytest's own folders are closed to other users
        home = Path(place)
        storage = opened(home)
        for number, run_id in enumerate(IDS):
            storage.save(make_record(run_id, number))
        if not has_log:
            storage.close()
        for path in (*home.rglob("*"), home):
            os.chown(path, 65534, 65534)
            path.chmod(0o500 if path.is_dir() else 0o400)
        listed, refused = finished(start("look_in_a_read_only_folder", home)).splitlines()
        storage.close()
    assert listed.split() == IDS
    assert re.match(rf"refused cannot \w+ {home}", refused)


# Locks ---------------------------------------------------------------------------------------


@contextmanager
def stopped_writer(home: Path) -> Iterator[subprocess.Popen[str]]:
    """Have a process in the middle of a save, stopped; killed in the end."""
    holder = start("stop_in_the_middle_of_a_save", home)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "writing\n"
        holder.send_signal(signal.SIGSTOP)
        yield holder
    finally:
        holder.kill()
        finished(holder)


def test_stopped_writer_is_an_error_after_a_bounded_wait_and_hinders_no_reader(
    filled: SqliteStorage, home: Path
) -> None:
    impatient = opened(home, lock_wait_s=0.3)
    filled.post("r0", Intent(kind="stop"))
    with stopped_writer(home):
        begin_s = time.monotonic()
        with pytest.raises(StorageError, match=r"experiments\.db\.lock has been locked .* 0\.3 s") as caught:
            impatient.delete("r0")
        assert 0.3 <= time.monotonic() - begin_s < 5
        assert "fuser" in str(caught.value.hint)
        assert sorted(ids(impatient)) == ["before", *IDS], "readers need no lock"
        begin_s = time.monotonic()
        assert impatient.take("r0") is None
        assert time.monotonic() - begin_s < 0.3, "a supervisor that polls does not stand still"
    impatient.save(make_record("new"))
    assert sorted(ids(impatient)) == ["before", "new", *IDS], "what the stopped writer had begun is undone"
    assert impatient.take("r0") == Intent(kind="stop")
    impatient.close()


def test_request_past_a_stopped_writer_is_heard_once_all_the_same(filled: SqliteStorage, home: Path) -> None:
    impatient, supervisor = opened(home, lock_wait_s=0.3), opened(home, lock_wait_s=0.3)
    with stopped_writer(home):
        begin_s = time.monotonic()
        impatient.post("r0", Intent(kind="stop"))
        assert 0.3 <= time.monotonic() - begin_s < 5
        assert supervisor.take("r0") == Intent(kind="stop")
        assert supervisor.take("r0") is None
        impatient.post("r0", Intent(kind="pause"))
    impatient.post("r0", Intent(kind="unpause"))
    taken = [supervisor.take("r0"), supervisor.take("r0"), supervisor.take("r0")]
    assert taken.count(Intent(kind="pause")) == taken.count(Intent(kind="unpause")) == taken.count(None) == 1
    impatient.close()
    supervisor.close()


def test_save_past_another_programs_transaction_waits_in_a_journal(
    filled: SqliteStorage, home: Path, file: Path
) -> None:
    impatient = opened(home, lock_wait_s=0.3)
    with closing(sqlite3.connect(file, isolation_level=None)) as shell:
        shell.execute("BEGIN IMMEDIATE")
        begin_s = time.monotonic()
        impatient.save(make_record("new", 9))
        assert 0.3 <= time.monotonic() - begin_s < 5
        assert "another program keeps the database locked" in impatient.problems[0]
        assert ids(impatient) == ["new", *IDS[::-1]]
        with pytest.raises(StorageError, match="another program keeps the database locked"):
            impatient.delete("r0")
        shell.execute("ROLLBACK")
    impatient.save(make_record("newer", 10))
    assert ids(impatient) == ["newer", "new", *IDS[::-1]]
    assert list(home.rglob("journal-*")) == []
    impatient.close()


# Every step of a save, failing or killed -----------------------------------------------------

REFUSED = [
    ("flock", "ENOLCK", 1),
    ("write", "ENOSPC", 1),  # the copy
    ("fsync", "EIO", 1),
    ("/^rename", "EIO", 1),
    ("pwrite64", "ENOSPC", 1),  # the log
    ("pwrite64", "EIO", 2),
    ("fdatasync,fsync", "EIO", 3),  # the log
]
KILLED = [("write", 1), ("/^rename", 1), ("pwrite64", 1), ("pwrite64", 3), ("fdatasync,fsync", 3)]


def assert_store_is_sound(home: Path) -> None:
    storage = opened(home)
    storage.save(make_record("third"))
    assert {"first", "third"} <= set(ids(storage)) <= {"first", "second", "third"}
    assert storage.problems == []
    storage.close()
    check(home / "experiments.db")


@pytest.mark.parametrize(("syscall", "error", "when"), REFUSED)
def test_failing_system_call_is_told_and_what_was_there_stays(
    home: Path, syscall: str, error: str, when: int
) -> None:
    said, status = finished_with_fault(start("save_when_told", home), syscall, f"error={error}", when)
    assert said.startswith("refused cannot ")
    assert str(home) in said
    assert status == 0
    assert list(home.rglob("*.tmp")) == []
    assert_store_is_sound(home)


@pytest.mark.parametrize(("syscall", "when"), KILLED)
def test_writer_killed_in_the_middle_of_a_save_leaves_a_sound_store(
    home: Path, syscall: str, when: int
) -> None:
    said, status = finished_with_fault(start("save_when_told", home), syscall, "signal=KILL", when)
    assert (said, status) == ("", -signal.SIGKILL)
    assert_store_is_sound(home)
