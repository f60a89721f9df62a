from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from kit import wait_for

from backprop_core.identity import look_at
from backprop_core.records import ProcessExit
from backprop_core.starting import Job, Keeper, held_signals
from backprop_core.supervisor import COALESCE_S, Control, Supervisor


class Sleepy:
    """A sink that wants to be asked once a minute, and stops the run when it is asked a second time."""

    def __init__(self) -> None:
        self.ticks = 0
        self._control: Control | None = None

    def started(self, control: Control, keeper: int, pid: int, deadline_s: float) -> None:
        self._control = control

    def tick(self) -> float:
        self.ticks += 1
        if self.ticks == 1:
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGCONT)).start()
        elif self._control:
            self._control.stop("the bell")
        return 60.0

    def output(self, data: bytes) -> None: ...
    def is_behind(self) -> bool:
        return False

    def paused(self, causes: Sequence[str]) -> None: ...
    def continued(self, deadline_s: float) -> None: ...
    def stopping(self, why: str, rung: str) -> None: ...
    def suspended(self) -> None: ...
    def resumed(self) -> None: ...


def test_who_posts_a_request_can_ring_so_that_nobody_needs_to_look_often(tmp_path: Path) -> None:
    script = "import signal\nsignal.signal(signal.SIGINT, lambda *_: exit(0))\nsignal.sigtimedwait([], 20)"
    sink = Sleepy()
    with held_signals() as signals:
        ending = Supervisor(sink, signals, started(script, tmp_path)).run()
    assert ending.why == "the bell"
    assert sink.ticks >= 2


class Slow(Sleepy):
    """A sink that takes longer over a little output than the supervisor rests after it."""

    def tick(self) -> float:
        return 60.0

    def output(self, data: bytes) -> None:
        signal.sigtimedwait([], 4 * COALESCE_S)


def test_after_output_that_took_long_to_take_in_the_supervisor_sleeps(tmp_path: Path) -> None:
    script = "import signal\nprint(1, flush=True)\nsignal.sigtimedwait([], 1)"
    worked_s = -time.process_time()
    with held_signals() as signals:
        ending = Supervisor(Slow(), signals, started(script, tmp_path)).run()
    worked_s += time.process_time()
    assert ending.exit == ProcessExit(code=0)
    assert worked_s < 0.4


def started(script: str, tmp_path: Path) -> Keeper:
    job = Job(
        argv=(sys.executable, "-c", script),
        environment=dict(os.environ),
        cwd=tmp_path,
        limit_s=60.0,
        grace_s=10.0,
        max_pause_s=60.0,
        time_box_file=tmp_path / "time-box.json",
    )
    keeper = Keeper(())
    keeper.start(job)
    return keeper


def test_a_keeper_that_is_given_no_plan_leaves_at_once_and_takes_its_locks_along(tmp_path: Path) -> None:
    lock = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    keeper = Keeper((lock,))
    pid, open_before = keeper.pid, len(os.listdir("/proc/self/fd"))
    os.close(lock)
    assert Path(f"/proc/{pid}").exists()
    with open(tmp_path / "lock", "r+b") as other:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        keeper.let_go()
        assert not Path(f"/proc/{pid}").exists()
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert len(os.listdir("/proc/self/fd")) == open_before - 3
    keeper.let_go()


def test_a_keeper_that_waits_leaves_with_its_supervisor(tmp_path: Path) -> None:
    code = (
        "import os, sys, time\nfrom backprop_core.starting import Keeper\n"
        "print(Keeper(()).pid, flush=True)\nos.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    keeper = int(done.stdout)
    wait_for(lambda: (seen := look_at(keeper)) is None or seen.is_dead, "the keeper to leave")
