"""Each system call of a save fails or is killed in turn: what was acknowledged is there, and the next writer works."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from figures import Figures
from injection import ALLOW_TRACING, finished_with_fault

from backprop_builtin.storage.json_file import JsonBackend
from backprop_builtin.storage.sqlite import SqliteBackend
from backprop_core import Storage, StorageBackend
from backprop_core.testing import ids, make_record

CHILD = r"""
import os, sys
from pathlib import Path
from backprop_builtin.storage.json_file import JsonBackend
from backprop_builtin.storage.sqlite import SqliteBackend
from backprop_core import Progress, RunRecord, RunState, StorageError

storage = (SqliteBackend() if sys.argv[1] == "sqlite" else JsonBackend()).open(None, Path(sys.argv[2]))

def record(run_id):
    return RunRecord(id=run_id, script_path="/x.py", status=RunState.RUNNING, start_time=1)

def try_to(what, work):  # answers with writev, which no fault is injected into
    try:
        work()
    except StorageError:
        os.writev(1, [b"refused " + what + b"\n"])
    else:
        os.writev(1, [b"done " + what + b"\n"])

storage.save(record("first"))
os.writev(1, [b"ready\n"])
os.read(0, 1)
try_to(b"second", lambda: storage.save(record("second")))
try_to(b"points", lambda: storage.append_metrics("second", [Progress(step=1)]))
try_to(b"list", storage.runs)
"""
FAULTS = ("error=EIO", "error=ENOSPC", "error=EINTR", "signal=KILL")
CALLS = (
    "openat flock write pwrite64 fsync,fdatasync /^rename unlink,unlinkat close fcntl lseek ftruncate mkdir,mkdirat "
    "newfstatat,statx,stat,lstat getdents64 pread64 fchmod,chmod mmap"
).split()
QUICK = [("json", "fsync,fdatasync"), ("json", "/^rename"), ("sqlite", "pwrite64")]
EVERY = [(kind, call) for kind in ("json", "sqlite") for call in CALLS]


def opened(kind: str, home: Path) -> Storage:
    backend: StorageBackend = SqliteBackend() if kind == "sqlite" else JsonBackend()
    return backend.open(None, home)


def survives(kind: str, home: Path, call: str, fault: str, when: int) -> str:
    """Inject one fault, look what came of it, and give what the child said."""
    command = [sys.executable, "-c", ALLOW_TRACING + CHILD, kind, str(home)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    said, status = finished_with_fault(child, call, fault, when)
    what = f"{call}:{fault}:when={when}"
    killed = status == -signal.SIGKILL and fault == "signal=KILL"
    assert killed or (status == 0 and len(said.splitlines()) == 3), (
        f"{what}: it ended with {status}, said {said!r}"
    )
    with closing(opened(kind, home)) as storage:
        storage.save(make_record("third"))
        expected = {"first", "third"} | ({"second"} if "done second" in said else set())
        assert expected <= set(ids(storage)) <= {"first", "second", "third"}, what
        assert [point.step for point in storage.metrics("second")] == [1] * ("done points" in said), what
        assert getattr(storage, "problems", []) == [], what
    return said


@pytest.mark.parametrize(("kind", "call"), QUICK)
def test_every_fault_of_a_system_call_is_survived(kind: str, call: str, tmp_path: Path) -> None:
    for fault in ("error=EIO", "signal=KILL"):
        survives(kind, tmp_path / fault, call, fault, 2)


@pytest.mark.soak
@pytest.mark.parametrize(("kind", "call"), EVERY)
def test_every_fault_at_every_turn_of_a_system_call_is_survived(
    kind: str, call: str, tmp_path: Path, figures: Figures
) -> None:
    said = [
        survives(kind, tmp_path / f"{fault}-{when}", call, fault, when)
        for fault in FAULTS
        for when in range(1, 6)
    ]
    figures(injections=len(said), refused=sum("refused" in each for each in said), bad=0)
