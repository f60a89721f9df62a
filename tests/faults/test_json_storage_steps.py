"""Every step of a save to experiments.json, failing or killed: written anew, and over a spare that is there."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from injection import ALLOW_TRACING, finished_with_fault

from backprop_builtin.storage.json_file import JsonBackend
from backprop_core import Storage
from backprop_core.testing import make_record

CHILD = r"""
import os, sys
from pathlib import Path
from backprop_builtin.storage.json_file import JsonBackend
from backprop_core import RunRecord, RunState, StorageError

def record(run_id):
    return RunRecord(id=run_id, script_path="/x.py", status=RunState.RUNNING, start_time=1)

storage = JsonBackend().open(None, Path(sys.argv[1]))
for _ in range(int(sys.argv[2])):
    storage.save(record("first"))
os.write(1, b"ready\n")
sys.stdin.readline()
try:
    storage.save(record("second"))
except StorageError as error:
    said = "refused " + " ".join(str(error).split())
else:
    said = "saved second"
os.write(1, said.encode() + b"\n")
"""
ANEW, OVER = 1, 2  # saves before: from the second on there is a spare

BEFORE_THE_FILE = [
    ("openat", "EACCES", 2),  # the copy, before it is in place
    ("openat", "EACCES", 5),  # the lock
    ("openat", "EMFILE", 6),  # the journals
    ("openat", "EMFILE", 7),  # the file, to be read
    ("flock", "ENOLCK", 1),  # the queue
    ("flock", "ENOSYS", 2),  # the lock
    ("write", "ENOSPC", 1),  # the copy
    ("pread64", "EIO", 1),  # the other runs' lines
    ("fsync", "ENOSPC", 2),  # the copy
    ("fsync", "EIO", 3),  # the file
    ("fsync", "EIO", 4),  # its folder
    ("fsync", "EIO", 5),  # the copy's folder
    ("/^rename", "EIO", 1),  # the copy
    ("/^rename", "ENOSPC", 2),  # the file
]
REFUSED = [(saves, *fault) for saves in (ANEW, OVER) for fault in BEFORE_THE_FILE] + [
    (ANEW, "openat", "EROFS", 9),  # the temporary file
    (ANEW, "write", "EIO", 4),  # the file
    (OVER, "pread64", "EIO", 5),  # the spare
    (OVER, "write", "ENOSPC", 4),  # into the spare
    (OVER, "ftruncate", "EIO", 1),
]
NOT_NEEDED = [
    (ANEW, "openat", 3),  # the old copy, to be kept until the lock is free
    (ANEW, "openat", 10),  # the new file, to see whether there are leases
    (ANEW, "openat", 11),  # the index
    (ANEW, "fcntl", 1),
    (ANEW, "write", 8),
    (ANEW, "/^link", 1),  # to keep the old file as a spare
    (ANEW, "/^rename", 3),
    (OVER, "openat", 8),  # the spare
    (OVER, "openat", 9),  # the index
    (OVER, "fcntl", 1),  # the lease
    (OVER, "fcntl", 2),
    (OVER, "/^link", 1),
    (OVER, "/^rename", 3),
]
KILLED = [
    *((ANEW, "openat", turn) for turn in (8, 9, 10, 11)),
    *((ANEW, "write", turn) for turn in (4, 8)),
    *((OVER, "openat", turn) for turn in (8, 9)),
    *((OVER, "write", turn) for turn in (3, 4, 5, 6)),
    *((OVER, "fcntl", turn) for turn in (1, 2)),
    (OVER, "ftruncate", 1),
    *((saves, "fsync", turn) for saves in (ANEW, OVER) for turn in (3, 4, 5)),
    *((saves, "/^link", 1) for saves in (ANEW, OVER)),
    *((saves, "/^rename", turn) for saves in (ANEW, OVER) for turn in (1, 2, 3)),
]
INTERRUPTED = [
    (saves, syscall) for saves in (ANEW, OVER) for syscall in ("openat", "flock", "write", "fsync")
]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def start(home: Path, saves: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", ALLOW_TRACING + CHILD, str(home), str(saves)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def leftovers(home: Path) -> list[Path]:
    return list(home.rglob("*.tmp"))


def ids(storage: Storage) -> set[str]:
    return {record.id for record in storage.runs()}


def assert_store_is_sound(home: Path, *, has_second: bool | None) -> None:
    there = json.loads((home / "experiments.json").read_text())
    assert "first" in there
    if has_second is not None:
        assert ("second" in there) == has_second
    storage = JsonBackend().open(None, home)
    storage.save(make_record("third"))
    assert {"first", "third"} <= ids(storage) <= {"first", "second", "third"}
    assert storage.problems == []
    assert list(home.glob(".*.tmp")) == []


@pytest.mark.parametrize(("saves", "syscall", "error", "when"), REFUSED)
def test_failing_system_call_is_told_and_the_old_file_stays(
    home: Path, saves: int, syscall: str, error: str, when: int
) -> None:
    said, status = finished_with_fault(start(home, saves), syscall, f"error={error}", when)
    assert said.startswith("refused cannot ")
    assert str(home) in said
    assert status == 0
    assert leftovers(home) == []
    # Only once the file is renamed, while folders are flushed, may a save that was refused be there.
    assert_store_is_sound(home, has_second=(syscall, when) in {("fsync", 4), ("fsync", 5)})


@pytest.mark.parametrize(("saves", "syscall", "when"), NOT_NEEDED)
def test_what_a_save_can_do_without_fails_none(home: Path, saves: int, syscall: str, when: int) -> None:
    said, status = finished_with_fault(start(home, saves), syscall, "error=EIO", when)
    assert (said, status) == ("saved second\n", 0)
    assert leftovers(home) == []
    assert_store_is_sound(home, has_second=True)


@pytest.mark.parametrize(("saves", "syscall", "when"), KILLED)
def test_writer_killed_in_the_middle_of_a_save_leaves_a_sound_store(
    home: Path, saves: int, syscall: str, when: int
) -> None:
    said, status = finished_with_fault(start(home, saves), syscall, "signal=KILL", when)
    assert (said, status) == ("", -signal.SIGKILL)
    assert_store_is_sound(home, has_second=None)


@pytest.mark.parametrize(("saves", "syscall"), INTERRUPTED)
def test_interrupted_system_call_is_tried_again(home: Path, saves: int, syscall: str) -> None:
    said, status = finished_with_fault(start(home, saves), syscall, "error=EINTR", 1)
    assert (said, status) == ("saved second\n", 0)
    assert_store_is_sound(home, has_second=True)
