"""A run that nobody holds any more is marked lost, what it left is ended, and nobody else is touched."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fake_storage import FakeStorage
from kit import wait_for

from backprop_core import recovery
from backprop_core.errors import UsageError
from backprop_core.holding import Holder, forget_folder, hold, make_folder, release, run_folder, sign
from backprop_core.identity import boot_id, has_variable, pid_namespace, start_ticks
from backprop_core.records import Attempt, PauseSpan, RunRecord
from backprop_core.recovery import Grasp, Marks, describe, grasp, last_holder, leftovers, mark_lost
from backprop_core.states import LIVE, RunState

HOST = "here"
RUN = f"run-{os.getpid()}"  # what is ended is found by it, among all processes of the machine
Start = Callable[..., subprocess.Popen[bytes]]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are told apart through /proc")


def make(run_id: str = RUN, **fields: Any) -> RunRecord:
    fields = {"status": RunState.RUNNING, "host": HOST, "attempts": (Attempt(start=1),), **fields}
    return RunRecord(id=run_id, script_path="/x.py", start_time=1, **fields)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a process that sleeps, with these variables, in a session of its own."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(*, stdout: int | None = None, **variables: str) -> subprocess.Popen[bytes]:
        code = "import sys, time; print(file=sys.stderr, flush=True); time.sleep(60)"
        process = subprocess.Popen(
            [sys.executable, "-S", "-c", code],
            env={**os.environ, **variables},
            start_new_session=True,
            stdout=stdout,
            stderr=subprocess.PIPE,
        )
        started.append(process)
        assert process.stderr
        process.stderr.readline()
        return process

    yield begin
    for process in started:
        with process:
            process.kill()


def leave(home: Path, run_id: str = RUN, **holder: Any) -> None:
    """Leave a lock behind as a holder that was killed leaves it."""
    folder = make_folder(home, run_id)
    here = {"boot": boot_id(), "namespace": pid_namespace()}
    (folder / "lock").write_bytes(msgspec.json.encode(Holder(**{**here, **holder})) + b"\n")


def token(home: Path, run_id: str = RUN) -> dict[str, str]:
    """What a script of the run has in its environment."""
    return {"BACKPROP_RUN_ID": run_id, "BACKPROP_RUN_DIR": str(make_folder(home, run_id))}


def is_alive(process: subprocess.Popen[bytes]) -> bool:
    return process.poll() is None


# Marking ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", sorted(LIVE))
def test_a_live_run_that_nobody_holds_is_lost(home: Path, state: RunState) -> None:
    pauses = (PauseSpan(begin=2),)
    storage = FakeStorage(make(status=state, attempts=(Attempt(start=1, pauses=pauses),)))
    (lost,) = mark_lost(storage, home, HOST)
    assert storage.records[RUN] == lost
    assert lost.status is lost.attempts[-1].status is RunState.LOST
    assert lost.end_time == lost.attempts[-1].end == lost.attempts[-1].pauses[-1].end
    assert lost.reason is not None
    assert "supervisor is gone" in lost.reason
    assert mark_lost(storage, home, HOST) == []


def test_a_run_that_is_held_is_not_lost_until_it_is_let_go(home: Path) -> None:
    storage = FakeStorage(make())
    descriptor = hold(make_folder(home, RUN))
    inherited = os.dup(descriptor)
    os.close(descriptor)
    assert mark_lost(storage, home, HOST) == [], "who inherits the lock holds the run"
    os.close(inherited)
    assert len(mark_lost(storage, home, HOST)) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"host": "elsewhere"},
        {"status": RunState.COMPLETED},
        {"host": None, "settings": {"launcher": "slurm"}},
        {"host": None, "attempts": (Attempt(start=2**53),)},
        {"host": None, "attempts": (), "start_time": 2**53},
    ],
)
def test_runs_of_others_ended_ones_and_those_still_handed_over_are_left_alone(
    home: Path, fields: dict[str, Any]
) -> None:
    storage = FakeStorage(msgspec.structs.replace(make(), **fields))
    assert mark_lost(storage, home, HOST) == []
    assert storage.saves == []


def test_a_run_that_a_local_agent_never_took_up_is_lost_after_a_while(home: Path) -> None:
    storage = FakeStorage(make(host=None, status=RunState.QUEUED))
    assert [record.status for record in mark_lost(storage, home, HOST)] == [RunState.LOST]


def test_a_resumed_run_that_was_handed_over_just_now_is_not_lost(home: Path) -> None:
    """It began long ago, and the last who held it are dead."""
    leave(home, agent=2**22, agent_ticks=1)
    just_now = Attempt(start=int(time.time() * 1000), status=RunState.QUEUED)
    record = make(host=None, status=RunState.QUEUED, attempts=(Attempt(start=1, end=2), just_now))
    assert mark_lost(FakeStorage(record), home, HOST) == []


def test_who_resumes_a_run_is_not_taken_for_those_who_held_it_last(home: Path) -> None:
    leave(home, agent=2**22, agent_ticks=1)
    descriptor = hold(make_folder(home, RUN))
    assert grasp(make(), home, HOST) is Grasp.HELD
    assert mark_lost(FakeStorage(make()), home, HOST) == []
    os.close(descriptor)


def test_a_run_that_ended_while_we_looked_is_not_lost(home: Path) -> None:
    storage = FakeStorage(make())
    ended = make(status=RunState.COMPLETED)
    listed = storage.runs
    storage.runs = lambda **_: (storage.records.update({RUN: ended}), [make()])[1]  # type: ignore[method-assign]
    assert mark_lost(storage, home, HOST) == []
    storage.runs = listed  # type: ignore[method-assign]
    assert storage.records[RUN] is ended


# What it left ----------------------------------------------------------------------------------


def test_what_a_lost_run_left_is_ended_by_token_and_by_session(home: Path, start: Start) -> None:
    by_token, by_session = start(**token(home)), start()
    innocents = [
        start(**token(home, f"{RUN}2")),
        start(**token(home.with_name("another home"))),
        start(BACKPROP_RUN_ID=RUN),
    ]
    assert os.getsid(by_session.pid) == by_session.pid
    leave(home, keeper=by_session.pid, keeper_ticks=start_ticks(by_session.pid))
    mark_lost(FakeStorage(make()), home, HOST)
    wait_for(lambda: not is_alive(by_token) and not is_alive(by_session), "what was left to end")
    assert (by_token.returncode, by_session.returncode) == (-9, -9)
    assert all(is_alive(innocent) for innocent in innocents)


def test_what_a_lost_run_left_is_ended_by_the_pipe_that_it_writes_to(home: Path, start: Start) -> None:
    """It has left the session and emptied its environment; a reader of the pipe, and older ones, are nobody's."""
    read_end, write_end = os.pipe()
    pipe = os.fstat(write_end).st_ino
    older = start(stdout=write_end)
    keeper = start()
    ticks = start_ticks(keeper.pid)
    wait_for(lambda: recovery._ticks_now() > (ticks or 0) + 1, "a later tick")
    writer, reader = start(stdout=write_end), start(stdout=read_end)
    leave(home, keeper=2**22, keeper_ticks=(ticks or 0) + 1, pipe=pipe)
    mark_lost(FakeStorage(make()), home, HOST)
    wait_for(lambda: not is_alive(writer), "what was left to end")
    assert all(is_alive(innocent) for innocent in (older, keeper, reader))
    os.close(read_end)
    os.close(write_end)


@pytest.mark.parametrize(
    "forged",
    [
        {"boot": "another-boot"},
        {"boot": None},
        {"namespace": None},
    ],
)
def test_a_holder_of_another_boot_or_namespace_authorises_no_signal(
    home: Path, start: Start, forged: dict[str, Any]
) -> None:
    process = start(**token(home))
    leave(home, **{"keeper": process.pid, "keeper_ticks": start_ticks(process.pid), **forged})
    assert len(mark_lost(FakeStorage(make()), home, HOST)) == 1
    assert is_alive(process)


def test_a_run_of_another_container_is_unknown_and_stays_as_it_is(home: Path, start: Start) -> None:
    process = start(**token(home))
    leave(home, keeper=process.pid, keeper_ticks=start_ticks(process.pid), namespace="pid:[1]")
    storage = FakeStorage(make())
    assert mark_lost(storage, home, HOST) == []
    assert storage.saves == []
    assert is_alive(process)
    assert grasp(make(), home, HOST) is Grasp.UNKNOWN
    assert "container" in describe(make(), home, HOST)


def test_a_run_of_another_machine_is_unknown(home: Path) -> None:
    record = make(host="elsewhere")
    assert grasp(record, home, HOST) is Grasp.UNKNOWN
    assert describe(record, home, HOST).startswith("machine elsewhere: ")


def test_a_run_whose_supervisor_and_keeper_are_dead_is_orphaned_while_a_stranger_has_its_lock(
    home: Path, start: Start
) -> None:
    """A process that a plugin forked off, for instance; what bears the run's marks is ended all the same."""
    agent, keeper, left = start(), start(), start(**token(home))
    ids: dict[str, Any] = {"agent": agent.pid, "agent_ticks": start_ticks(agent.pid)}
    ids |= {"keeper": keeper.pid, "keeper_ticks": start_ticks(keeper.pid)}
    stranger = hold(make_folder(home, RUN))
    leave(home, **ids)
    storage = FakeStorage(make())
    assert grasp(make(), home, HOST) is Grasp.HELD
    assert describe(make(), home, HOST) == f"process {agent.pid}, with keeper {keeper.pid}"
    assert mark_lost(storage, home, HOST) == []
    agent.kill()
    keeper.kill()
    wait_for(lambda: not is_alive(agent) and not is_alive(keeper), "their end")
    assert grasp(make(), home, HOST) is Grasp.ORPHANED
    wait_for(lambda: recovery._ticks_now() > (start_ticks(left.pid) or 0), "a later tick")
    assert len(mark_lost(storage, home, HOST)) == 1
    wait_for(lambda: not is_alive(left), "what was left to end")
    os.close(stranger)


def test_what_was_resumed_while_we_looked_is_not_ended(home: Path, start: Start) -> None:
    """Without the run's lock, whoever starts from then on may be the next attempt."""
    leave(home, agent=2**22, agent_ticks=1)
    holder = last_holder(make_folder(home, RUN))
    assert holder is not None
    later = start(**token(home))
    marks = Marks(folder=make_folder(home, RUN), holder=holder)
    assert [one.pid for one in leftovers(marks)] == [later.pid]
    before = msgspec.structs.replace(marks, before=start_ticks(later.pid))
    assert leftovers(before) == []


@pytest.mark.parametrize("ticks", [1, None])
def test_a_session_whose_number_was_given_out_again_is_left_alone(
    home: Path, start: Start, ticks: int | None
) -> None:
    process = start()
    leave(home, keeper=process.pid, keeper_ticks=ticks)
    mark_lost(FakeStorage(make()), home, HOST)
    assert is_alive(process)


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b'{"keeper": "x"}', b"\xff\xfe", b"x" * 10_000])
def test_a_lock_that_holds_nonsense_authorises_no_signal(home: Path, start: Start, text: bytes) -> None:
    process = start(**token(home))
    (make_folder(home, RUN) / "lock").write_bytes(text)
    assert len(mark_lost(FakeStorage(make()), home, HOST)) == 1
    assert is_alive(process)


def test_whoever_looks_is_not_ended_even_from_inside_of_the_lost_run(home: Path) -> None:
    """A command that is run by what the lost run left behind has its token, too."""
    leave(home)
    code = (
        "import sys; sys.path[:0] = sys.argv[2].split(':')\n"
        "from pathlib import Path; from fake_storage import FakeStorage; from test_lost_runs import make, mark_lost\n"
        "print(len(mark_lost(FakeStorage(make(sys.argv[3])), Path(sys.argv[1]), 'here')))"
    )
    places = f"{Path(__file__).parent}:{Path(__file__).parents[1]}"
    done = subprocess.run(
        [sys.executable, "-c", code, str(home), places, RUN],
        env={**os.environ, **token(home)},
        capture_output=True,
        check=False,
        timeout=30,
        start_new_session=True,
    )
    assert (done.returncode, done.stdout) == (0, b"1\n"), done.stderr


# Holding ---------------------------------------------------------------------------------------


def test_a_held_run_cannot_be_held_again_until_it_is_released(home: Path) -> None:
    folder = make_folder(home, RUN)
    descriptor = hold(folder)
    with pytest.raises(UsageError, match=f"run {RUN} is live"):
        hold(folder)
    release(descriptor)
    second = hold(folder)
    os.close(second)
    os.close(descriptor)


def test_a_lock_tells_who_holds_it(home: Path, start: Start) -> None:
    folder = make_folder(home, RUN)
    keeper = start().pid
    descriptor = hold(folder)
    assert msgspec.json.decode((folder / "lock").read_bytes(), type=Holder).agent == os.getpid()
    sign(descriptor, keeper)
    holder = msgspec.json.decode((folder / "lock").read_bytes(), type=Holder)
    assert holder == Holder(
        boot=boot_id(),
        namespace=pid_namespace(),
        agent=os.getpid(),
        agent_ticks=start_ticks(os.getpid()),
        keeper=keeper,
        keeper_ticks=start_ticks(keeper),
    )
    sign(descriptor)
    assert msgspec.json.decode((folder / "lock").read_bytes(), type=Holder).keeper is None
    os.close(descriptor)


def test_folders_are_private_and_only_an_unused_one_is_forgotten(home: Path) -> None:
    before = os.umask(0)
    try:
        folder = make_folder(home, RUN)
    finally:
        os.umask(before)
    assert [part.stat().st_mode & 0o777 for part in (home, home / "runs", folder)] == [0o700] * 3
    os.close(hold(folder))
    assert (folder / "lock").stat().st_mode & 0o777 == 0o600
    (folder / "output.log").touch()
    forget_folder(folder)
    assert folder.is_dir()
    (folder / "output.log").unlink()
    forget_folder(folder)
    assert not folder.exists()
    forget_folder(folder)


def test_tokens_are_whole_assignments(start: Start) -> None:
    process = start(BACKPROP_RUN_ID=RUN)
    assert has_variable(process.pid, f"BACKPROP_RUN_ID={RUN}")
    assert not has_variable(process.pid, f"BACKPROP_RUN_ID={RUN[:-1]}")
    assert run_folder(Path("/h"), "run-1") == Path("/h/runs/run-1")
