"""What a save does while it holds the lock and what behind it, in the order in which the system sees it."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from injection import ALLOW_TRACING, finished_and_seen

from backprop_builtin.storage._locks import locked
from backprop_builtin.storage._run_folders import RunFolders
from backprop_builtin.storage.json_file import JsonBackend, JsonStorage
from backprop_core import StorageError
from backprop_core.testing import ids, make_record

CALLS = "close,fsync,/^rename,/^unlink,flock"

CHILD = r"""
import os, sys
from pathlib import Path
from backprop_builtin.storage.json_file import JsonBackend
from backprop_core import RunRecord, RunState

storage = JsonBackend().open(None, Path(sys.argv[2]))
record = RunRecord(id="r", script_path="/x.py", status=RunState.RUNNING, start_time=1)
if sys.argv[1] != "merge":
    storage.save(record)
os.write(1, b"ready\n")
sys.stdin.readline()
if sys.argv[1] == "delete":
    storage.delete("r")
else:
    storage.save(record)
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def seen(action: str, home: Path) -> list[str]:
    command = [sys.executable, "-c", ALLOW_TRACING + CHILD, action, str(home)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    return finished_and_seen(child, CALLS, home.with_name("trace"))


def turn(calls: list[str], name: str, *words: str) -> int:
    """Give the place of the one call of that name that is about all of this."""
    (found,) = (
        place
        for place, call in enumerate(calls)
        if call.startswith(name) and all(word in call for word in words)
    )
    return found


def test_disk_is_not_waited_for_under_the_lock_but_for_the_new_file(home: Path) -> None:
    calls = seen("save", home)
    taken, given_back = (
        turn(calls, "flock", "experiments.json.lock>"),
        turn(calls, "close", "experiments.json.lock>"),
    )
    flushed_under_the_lock = [call for call in calls[taken:given_back] if call.startswith("fsync")]
    assert len(flushed_under_the_lock) == 1
    assert "/.experiments.json." in flushed_under_the_lock[0]
    assert (
        taken < turn(calls, "rename", "/run.json") < turn(calls, "rename", "/experiments.json") < given_back
    )
    for late in (
        ("fsync", f"{home}>"),
        ("fsync", "/runs/r>"),
        ("close", "/run.json>(deleted)"),
    ):
        assert turn(calls, *late) > given_back, late


def test_run_is_removed_once_it_is_durably_out_of_the_file(home: Path) -> None:
    calls = seen("delete", home)
    assert (
        turn(calls, "rename", "/experiments.json")
        < turn(calls, "fsync", f"{home}>")
        < turn(calls, "unlink", "run.json")
    )


def test_journal_is_removed_once_the_file_that_has_its_record_is_durable(home: Path) -> None:
    with (
        closing(
            JsonStorage(home / "experiments.json", RunFolders(home / "runs"), lock_wait_s=0.05)
        ) as storage,
        closing(JsonBackend().open(None, home)),
        locked(f"{home}/experiments.json.lock", 1.0),
    ):
        storage.save(make_record("waits"))
    calls = seen("merge", home)
    behind = calls[turn(calls, "rename", "/experiments.json") :]
    flushed = next(
        place for place, call in enumerate(behind) if call.startswith("fsync") and f"{home}>" in call
    )
    assert flushed < turn(behind, "unlink", "/journal-")
    with closing(JsonBackend().open(None, home)) as after:
        assert sorted(ids(after)) == ["r", "waits"]


def test_nothing_stays_open_however_many_saves_there_are(home: Path) -> None:
    with closing(JsonBackend().open(None, home)) as one, closing(JsonBackend().open(None, home)) as other:
        one.save(make_record("r"))
        before = psutil.Process().num_fds()
        for number in range(20):
            one.save(make_record("r", number))
            other.save(make_record(f"r{number}", number))
            with pytest.raises(StorageError):
                one.save(make_record("r", number, name="\ud800"))
            assert other.get("r") == make_record("r", number)
            one.delete(f"r{number - 3}")
        one.save_many([make_record(f"m{number}") for number in range(200)])
        assert psutil.Process().num_fds() <= before + 2, "each may have the file open that it has looked at"
    assert psutil.Process().num_fds() <= before
