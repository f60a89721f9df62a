"""What the doctor finds in a folder, what it says it would do, and what it does: real files, locks and processes."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kit import mode, wait_for

from backprop_builtin.storage.json_file import JsonBackend, JsonStorage
from backprop_builtin.storage.sqlite import SqliteBackend
from backprop_core.doctor import Patient, Treated, treat_all, treat_folders
from backprop_core.holding import Holder, hold, make_folder
from backprop_core.identity import boot_id, look_at, pid_namespace, start_ticks
from backprop_core.interfaces import Storage
from backprop_core.records import Attempt, RunRecord
from backprop_core.slots import Slots, host_folder
from backprop_core.states import RunState

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are told apart through /proc")

HOST = "here"
RUN = f"run-{os.getpid()}"
DEAD = 2**22 + 1  # no process has such a number
Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir(0o700)
    make_folder(home, RUN)
    Slots(host_folder(home))
    return home


@pytest.fixture
def storage(home: Path) -> Iterator[JsonStorage]:
    storage = JsonBackend().open(None, home)
    storage.save(make(RUN, status=RunState.COMPLETED))
    yield storage
    storage.close()


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a process that runs these statements and then sleeps, in a session of its own."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(statements: str = "", **variables: str) -> subprocess.Popen[bytes]:
        code = f"import os, sys, time\n{statements}\nprint(flush=True); time.sleep(60)"
        process = subprocess.Popen(
            [sys.executable, "-S", "-c", code],
            env={**os.environ, **variables},
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        started.append(process)
        assert process.stdout
        assert process.stdout.readline() == b"\n"
        return process

    yield begin
    for process in started:
        with process:
            process.kill()


def make(run_id: str, **fields: Any) -> RunRecord:
    fields = {"status": RunState.RUNNING, "host": HOST, "attempts": (Attempt(start=1),), **fields}
    return RunRecord(id=run_id, script_path="/x.py", start_time=1, **fields)


def sign(home: Path, run_id: str, **holder: Any) -> None:
    """Leave a lock behind as a holder that was killed leaves it."""
    here = {"boot": boot_id(), "namespace": pid_namespace(), "agent": DEAD, "agent_ticks": 1}
    (make_folder(home, run_id) / "lock").write_bytes(
        msgspec.json.encode(Holder(**{**here, **holder})) + b"\n"
    )


def grow_old(path: Path) -> None:
    os.utime(path, (time.time() - 3600,) * 2)


def treat(home: Path, storage: Storage, *, is_dry: bool = False) -> list[Treated]:
    return list(treat_all(Patient(home=home, host=HOST, storage=storage), is_dry=is_dry))


def outcomes(treated: list[Treated]) -> list[tuple[str, str]]:
    return [(each.finding.kind, each.outcome) for each in treated]


def everything_in(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_in_a_sound_folder_nothing_is_found(home: Path, storage: JsonStorage) -> None:
    held = hold(make_folder(home, "live"))
    storage.save(make("live"))
    assert treat(home, storage) == []
    assert list(treat_folders(home, is_dry=False)) == []
    os.close(held)


# Runs --------------------------------------------------------------------------------------------


def test_what_a_lost_run_left_is_named_and_then_ended(home: Path, storage: JsonStorage, start: Start) -> None:
    storage.save(make("gone"))
    token = {"BACKPROP_RUN_ID": "gone", "BACKPROP_RUN_DIR": str(home / "runs" / "gone")}
    sign(home, "gone")
    left, innocent = start(**token), start(**{**token, "BACKPROP_RUN_DIR": "/elsewhere/runs/gone"})
    (would,) = treat(home, storage, is_dry=True)
    assert (would.finding.kind, would.outcome, would.is_left) == ("orphans", "would repair", True)
    assert f"process {left.pid} ({sys.executable} -S -c)" in would.finding.what
    assert left.poll() is None
    assert storage.runs(states=[RunState.RUNNING])
    assert outcomes(treat(home, storage)) == [("orphans", "repaired")]
    assert left.wait(10) == -signal.SIGKILL
    assert innocent.poll() is None
    assert [run.status for run in storage.runs()] == [RunState.LOST, RunState.COMPLETED]
    assert treat(home, storage) == []


def test_what_a_run_that_is_over_left_is_ended(home: Path, storage: JsonStorage, start: Start) -> None:
    sign(home, RUN)
    left = start(BACKPROP_RUN_ID=RUN, BACKPROP_RUN_DIR=str(home / "runs" / RUN))
    assert outcomes(treat(home, storage)) == [("orphans", "repaired")]
    assert left.wait(10) == -signal.SIGKILL


def test_a_run_that_nobody_holds_is_marked_lost(home: Path, storage: JsonStorage) -> None:
    storage.save(make("gone"))
    assert outcomes(treat(home, storage, is_dry=True)) == [("lost run", "would repair")]
    assert outcomes(treat(home, storage)) == [("lost run", "repaired")]
    assert treat(home, storage) == []


def test_a_run_of_another_container_is_given_up_without_a_signal(
    home: Path, storage: JsonStorage, start: Start
) -> None:
    storage.save(make("gone"))
    process = start(BACKPROP_RUN_ID="gone", BACKPROP_RUN_DIR=str(home / "runs" / "gone"))
    ids = {"keeper": process.pid, "keeper_ticks": start_ticks(process.pid)}
    sign(home, "gone", namespace="pid:[1]", **ids)
    assert outcomes(treat(home, storage)) == [("lost run", "repaired")]
    assert process.poll() is None


def test_a_run_of_another_machine_is_told_of_and_nothing_is_wrong(home: Path, storage: JsonStorage) -> None:
    storage.save(make("far", host="elsewhere"))
    (noted,) = treat(home, storage)
    assert (noted.outcome, noted.is_left) == ("noted", False)
    assert "on machine elsewhere" in noted.finding.what
    assert storage.get("far") == make("far", host="elsewhere")
    assert (noted.finding.hint or "").endswith("backprop doctor --gone elsewhere")


def test_a_run_of_a_machine_that_a_person_says_is_gone_is_marked_lost(
    home: Path, storage: JsonStorage
) -> None:
    for run_id, host in (("far", "elsewhere"), ("farther", "nowhere")):
        storage.save(make(run_id, host=host))
    patient = Patient(home=home, host=HOST, storage=storage, gone="elsewhere")
    dry = list(treat_all(patient, is_dry=True))
    assert sorted(outcomes(dry)) == [("gone machine", "would repair"), ("unknown run", "noted")]
    assert ("gone machine", "repaired") in outcomes(list(treat_all(patient, is_dry=False)))
    lost, other = storage.get("far"), storage.get("farther")
    assert lost
    assert other
    assert (lost.status, lost.reason) == (RunState.LOST, "its machine elsewhere is gone")
    assert other.status is RunState.RUNNING


def test_a_run_that_somebody_here_holds_is_not_marked_lost(home: Path, storage: JsonStorage) -> None:
    storage.save(make("far", host="elsewhere"))
    lock = hold(make_folder(home, "far"))
    try:
        patient = Patient(home=home, host=HOST, storage=storage, gone="elsewhere")
        (left,) = treat_all(patient, is_dry=False)
    finally:
        os.close(lock)
    assert (left.outcome, left.error) == ("left", "somebody holds it")
    assert storage.get("far") == make("far", host="elsewhere")


# The storage -------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", [JsonBackend(), SqliteBackend()], ids=["json", "sqlite"])
def test_a_damaged_store_is_left_as_it_is_when_dry_and_put_together_again_when_not(
    tmp_path: Path, backend: Any
) -> None:
    home = tmp_path / "home"
    storage = backend.open(None, home)
    for number in range(3):
        storage.save(make(f"run-{number}", status=RunState.COMPLETED))
    storage.close()
    storage.path.write_bytes(b"{torn")
    damaged = backend.open(None, home)
    before = everything_in(home)
    assert outcomes(treat(home, damaged, is_dry=True)) == [("storage", "would repair")]
    assert everything_in(home) == before
    assert outcomes(treat(home, damaged)) == [("storage", "repaired")]
    assert {run.id for run in damaged.runs()} == {"run-0", "run-1", "run-2"}
    assert treat(home, damaged) == []
    damaged.close()


@pytest.mark.parametrize("backend", [JsonBackend(), SqliteBackend()], ids=["json", "sqlite"])
def test_a_record_changed_behind_its_checksum_is_a_persons_to_judge(tmp_path: Path, backend: Any) -> None:
    home = tmp_path / "home"
    storage = backend.open(None, home)
    storage.save(make("edited", status=RunState.COMPLETED))
    content = storage.path.read_bytes()
    if backend.name == "sqlite":
        storage._change(
            lambda db: db.execute("UPDATE runs SET record = replace(record, '/x.py', '/y.py')"), None
        )
    else:
        storage.path.write_bytes(content.replace(b"/x.py", b"/y.py"))
    (left,) = treat(home, storage)
    assert (left.finding.kind, left.outcome) == ("storage", "left")
    assert "does not match its checksum" in left.finding.what
    storage.close()


def test_a_journal_that_waits_is_added(home: Path, storage: JsonStorage) -> None:
    with open(f"{storage.path}.lock", "rb+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        JsonStorage(storage.path, storage._folders, lock_wait_s=0.05).save(
            make("late", status=RunState.FAILED)
        )
    assert outcomes(treat(home, storage, is_dry=True))[0] == ("storage", "would repair")
    assert b'"late"' not in storage.path.read_bytes()
    assert outcomes(treat(home, storage)) == [("storage", "repaired")]
    assert b'"late"' in storage.path.read_bytes()
    assert treat(home, storage) == []


def test_what_a_killed_writer_left_is_removed_and_a_living_ones_is_not(
    home: Path, storage: JsonStorage
) -> None:
    old, young = (home / f".experiments.json.{name}.tmp" for name in ("old", "young"))
    old.touch()
    grow_old(old)
    young.touch()
    assert outcomes(treat(home, storage, is_dry=True)) == [("storage", "would repair")]
    assert outcomes(treat(home, JsonBackend().open(None, home))) == [("storage", "repaired")]
    assert not old.exists()


# The machine -------------------------------------------------------------------------------------


def test_a_dead_waiters_place_is_removed_and_a_living_ones_is_not(home: Path, storage: JsonStorage) -> None:
    slots = Slots(host_folder(home))
    ticket = slots.join("waiter", None)
    dead = ticket.path.with_name("7")
    dead.write_text("{}\n")
    nascent = slots.folder / "queue.nascent"
    nascent.touch()
    assert outcomes(treat(home, storage, is_dry=True)) == [("queue", "would repair")] * 2
    assert dead.exists()
    assert outcomes(treat(home, storage)) == [("queue", "repaired")] * 2
    assert not dead.exists()
    assert not nascent.exists()
    assert ticket.path.exists()
    ticket.leave()


def test_a_slot_that_a_stranger_holds_is_told_with_who_it_is(
    home: Path, storage: JsonStorage, start: Start
) -> None:
    slots = Slots(host_folder(home))
    slot = slots.take("gone", None, 2)
    assert slot is not None
    slot.update(pid=DEAD)
    heir = start(
        f"import fcntl; f = open({str(slots.folder / 'slots' / '2')!r}, 'w+'); fcntl.flock(f, 2)\n"
        f'f.write(\'{{"run_id": "gone", "pid": {DEAD}}}\\n\'); f.flush()'
    )
    slot.close()
    (left,) = treat(home, storage)
    assert (left.finding.kind, left.outcome) == ("slot", "left")
    assert f"slot 2 is held for run gone, whose keeper is gone, by process {heir.pid} (" in left.finding.what


def test_a_lock_whose_holder_stands_still_is_told_with_what_lets_it_go_on(
    home: Path, storage: JsonStorage, start: Start
) -> None:
    holder = start(f"import fcntl; f = open({f'{storage.path}.lock'!r}, 'rb+'); fcntl.flock(f, 2)")
    assert treat(home, storage) == []
    holder.send_signal(signal.SIGSTOP)
    wait_for(lambda: (seen := look_at(holder.pid)) and seen.state == "T", "it to stand still")
    (left,) = treat(home, storage)
    assert (left.finding.kind, left.outcome) == ("lock", "left")
    assert f"kill -CONT {holder.pid}" in str(left.finding.hint)


# Folders -----------------------------------------------------------------------------------------


def test_folders_are_closed_to_others_and_opened_to_their_owner(home: Path) -> None:
    home.chmod(0o777)
    (home / "runs").chmod(0o755)
    (home / "runs" / RUN).chmod(0o500)
    would = list(treat_folders(home, is_dry=True))
    assert outcomes(would) == [("folder", "would repair")] * 3
    assert [each.finding.what for each in would] == [
        "is open to other users (mode 0777)",
        "is open to other users (mode 0755)",
        "is closed to you (mode 0500)",
    ]
    assert mode(home) == 0o777
    assert outcomes(list(treat_folders(home, is_dry=False))) == [("folder", "repaired")] * 3
    assert [mode(part) for part in (home, home / "runs", home / "runs" / RUN)] == [0o700] * 3
    assert list(treat_folders(home, is_dry=False)) == []


@pytest.mark.parametrize("planted", ["link", "file"])
def test_what_is_no_folder_is_left_to_the_person(home: Path, tmp_path: Path, planted: str) -> None:
    target = tmp_path / "elsewhere"
    target.mkdir(0o755)
    for part in (home / "hosts").rglob("*/*"):
        part.rmdir()
    for part in (home / "hosts").iterdir():
        part.rmdir()
    (home / "hosts").rmdir()
    if planted == "link":
        (home / "hosts").symlink_to(target)
    else:
        (home / "hosts").touch()
    assert outcomes(list(treat_folders(home, is_dry=False)))[0] == ("folder", "left")
    assert mode(target) == 0o755


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_left_to_the_person(home: Path) -> None:
    os.chown(home / "runs", 12345, -1)
    (left,) = treat_folders(home, is_dry=False)
    assert (left.finding.kind, left.outcome) == ("folder", "left")
    assert "belongs to user 12345" in left.finding.what


def test_the_folder_of_a_run_that_never_began_is_removed_and_no_other(
    home: Path, storage: JsonStorage
) -> None:
    for run_id in ("never", "fresh", "held", "foreign"):
        (make_folder(home, run_id) / "lock").touch()
    (home / "runs" / "foreign" / "model.pt").touch()
    held = hold(home / "runs" / "held")
    for run_id in ("never", "held", "foreign"):
        grow_old(home / "runs" / run_id)
    would = [("run folder", "noted"), ("run folder", "would repair")]
    assert outcomes(treat(home, storage, is_dry=True)) == would
    assert (home / "runs" / "never").exists()
    assert outcomes(treat(home, storage)) == [("run folder", "noted"), ("run folder", "repaired")]
    assert {part.name for part in (home / "runs").iterdir()} == {RUN, "fresh", "held", "foreign"}
    os.close(held)


def test_a_repair_that_fails_is_left_with_the_reason(
    home: Path, storage: JsonStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    (make_folder(home, "never") / "lock").touch()
    grow_old(home / "runs" / "never")

    def refuse(*_: object) -> None:
        raise PermissionError(1, "not allowed")

    monkeypatch.setattr(Path, "rmdir", refuse)
    (left,) = treat(home, storage)
    assert (left.outcome, left.error, left.is_left) == ("left", "not allowed", True)
