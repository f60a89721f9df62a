"""Slots and the queue under real processes that are killed at any moment."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from figures import Figures

from backprop_core.errors import RefusedError
from backprop_core.slots import Slots

LIMIT_S = 20.0

NURSERY = r'''
"""Fork a process for each line on stdin and print its pid; what they do is logged, a line an event.

They stay unreaped, so that none of their pids is given to anybody else while the test may signal it.
"""
import fcntl, os, random, signal, subprocess, sys, time
from pathlib import Path
from backprop_core.slots import Slots

folder = Path(sys.argv[1])
log = os.open(folder / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

times = os.open(folder / "times", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def tell(event):
    os.write(log, f"{event} {os.getpid()}\n".encode())

def take(slots, max_parallel, name="run"):
    with slots.lock():
        return slots.take(f"{name}-{os.getpid()}", None, int(max_parallel))

def hold(slots, max_parallel):
    slot = take(slots, max_parallel)
    tell("in" if slot else "refused")
    while slot:
        signal.pause()

def queue(slots, max_parallel):
    ticket = slots.join(f"run-{os.getpid()}", None)
    tell("joined")
    while True:
        seen = slots.snapshot()
        slot = take(slots, max_parallel) if ticket.place() == 1 else None
        if slot:
            break
        slots.wait_for_change(10, seen)
    ticket.leave()
    tell("in")
    time.sleep(0.05)
    tell("out")

def churn(slots, max_parallel):
    # The witness: one byte range for each slot, locked by fcntl(2), which knows nothing of flock(2). Its
    # file is opened first, so that the kernel lets go of it before the slot when the process is killed.
    witness = os.open(folder / "witness", os.O_RDWR | os.O_CREAT)
    while True:
        slots.join("run", None).leave()
        began = time.monotonic()
        slot = take(slots, max_parallel)
        os.write(times, f"{time.monotonic() - began}\n".encode())
        if slot is None:
            time.sleep(random.random() / 500)
            continue
        for place in range(int(max_parallel)):
            try:
                fcntl.lockf(witness, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
                break
            except OSError:
                pass
        else:
            tell("TOO-MANY")
        tell("in")
        time.sleep(random.random() / 200)
        fcntl.lockf(witness, fcntl.LOCK_UN)
        slot.close()

def line_up(slots, _):
    while True:
        ticket = slots.join(f"run-{os.getpid()}", None)
        tell("joined")
        time.sleep(random.random() / 500)
        ticket.place()
        if not ticket.path.exists() or ticket.path.stat().st_ino != os.fstat(ticket._fd).st_ino:
            tell("LOST")
        ticket.leave()

def bequeath(slots, max_parallel):
    slot = take(slots, max_parallel)
    idle = "import signal; signal.alarm(60); signal.pause()"
    heir = subprocess.Popen([sys.executable, "-c", idle], pass_fds=[slot.fd])
    slot.update(pid=heir.pid)
    tell("in")
    signal.pause()

def stand(slots, _):
    ticket = slots.join(f"run-{os.getpid()}", None)
    tell("joined")
    signal.pause()

def decide(slots, _):
    with slots.lock():
        tell("deciding")
        signal.pause()

for line in sys.stdin:
    role, max_parallel = line.split()
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        random.seed(os.getpid())
        try:
            globals()[role](Slots(folder), max_parallel)
        except BaseException as error:
            tell(f"RAISED-{type(error).__name__}")
        os._exit(0)
    print(pid, flush=True)
'''


class Nursery:
    """A process that brings forth others, which use the slots in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pids: list[int] = []
        self._log = folder / "log"
        self._process = subprocess.Popen(
            [sys.executable, "-c", NURSERY, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def bear(self, role: str, max_parallel: int) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{role} {max_parallel}\n")
        self._process.stdin.flush()
        self.pids.append(int(self._process.stdout.readline()))
        return self.pids[-1]

    def events(self) -> list[tuple[str, int]]:
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return [(event, int(pid)) for event, pid in map(str.split, lines)]

    def await_events(self, number: int, *names: str) -> None:
        """Wait until `number` events of these names are logged in all."""
        until(lambda: count(self, *names) >= number)

    def await_life(self) -> None:
        """Wait until something more is logged."""
        before = self._log.stat().st_size if self._log.exists() else 0
        until(lambda: self._log.exists() and self._log.stat().st_size > before)

    def kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        for pid in self.pids:
            self.kill(pid)
        self._process.communicate(timeout=LIMIT_S)


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    nursery = Nursery(tmp_path)
    yield nursery
    nursery.close()


@pytest.fixture
def slots(tmp_path: Path) -> Slots:
    return Slots(tmp_path)


def until(is_so: Callable[[], bool], limit_s: float = LIMIT_S) -> None:
    end_s = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < end_s, "it did not happen in time"
        time.sleep(0.005)


def count(nursery: Nursery, *names: str) -> int:
    return sum(event in names for event, _ in nursery.events())


def test_of_six_processes_at_once_two_hold_a_slot(nursery: Nursery, slots: Slots) -> None:
    pids = {nursery.bear("hold", 2) for _ in range(6)}
    nursery.await_events(6, "in", "refused")
    assert count(nursery, "in") == 2
    holders = {holder.pid for holder in slots.holders()}
    assert holders == {pid for event, pid in nursery.events() if event == "in"}
    assert holders < pids
    assert slots.take("one too many", None, 2) is None


@pytest.mark.parametrize("kills", [120, pytest.param(300, marks=pytest.mark.soak)])
def test_kills_at_any_moment_admit_nobody_too_many_and_leave_nothing(
    nursery: Nursery, slots: Slots, figures: Figures, kills: int
) -> None:
    churners = [nursery.bear("churn", 2) for _ in range(6)]
    for _ in range(kills):
        nursery.await_life()
        time.sleep(random.random() / 50)
        victim = random.randrange(6)
        nursery.kill(churners[victim])
        churners[victim] = nursery.bear("churn", 2)
    for pid in churners:
        nursery.kill(pid)

    until(lambda: slots.holders() == () and slots.waiting() == ())
    assert {event for event, _ in nursery.events()} == {"in"}
    assert count(nursery, "in") >= kills
    times_s = sorted(float(line) for line in (nursery.folder / "times").read_text().split())
    p99_s = times_s[len(times_s) * 99 // 100]
    figures(kills=kills, taken=count(nursery, "in"), runs_too_many=0, left_held=0, p99_ms=p99_s * 1000)
    with slots.lock(timeout_s=1):
        first, second = slots.take("a", None, 2), slots.take("b", None, 2)
    assert first is not None
    assert second is not None
    assert slots.take("c", None, 2) is None
    ticket = slots.join("d", None)
    assert ticket.place() == 1
    ticket.leave()
    first.close()
    second.close()


def test_ticket_of_the_living_is_never_taken_for_a_dead_one(nursery: Nursery, slots: Slots) -> None:
    waiters = [nursery.bear("line_up", 1) for _ in range(6)]
    for _ in range(120):
        nursery.await_life()
        time.sleep(random.random() / 100)
        victim = random.randrange(6)
        nursery.kill(waiters[victim])
        waiters[victim] = nursery.bear("line_up", 1)
    for pid in waiters:
        nursery.kill(pid)
    until(lambda: slots.waiting() == ())
    assert {event for event, _ in nursery.events()} == {"joined"}


def test_waiters_get_in_in_order_of_arrival(nursery: Nursery, slots: Slots) -> None:
    blocker = slots.take("blocker", None, 1)
    assert blocker is not None
    pids = []
    for number in range(4):
        pids.append(nursery.bear("queue", 1))
        nursery.await_events(number + 1, "joined")
    assert [waiter.pid for waiter in slots.waiting()] == pids
    assert count(nursery, "in") == 0
    freed_s = time.monotonic()
    blocker.close()
    nursery.await_events(1, "in")
    assert time.monotonic() - freed_s < 1
    nursery.await_events(4, "out")
    turns = [(event, pid) for event, pid in nursery.events() if event != "joined"]
    assert turns == [(event, pid) for pid in pids for event in ("in", "out")]
    assert slots.waiting() == ()


def test_killed_waiters_block_nobody(nursery: Nursery, slots: Slots) -> None:
    blocker = slots.take("blocker", None, 1)
    assert blocker is not None
    pids = []
    for number in range(3):
        pids.append(nursery.bear("queue", 1))
        nursery.await_events(number + 1, "joined")
    nursery.kill(pids[0])
    nursery.kill(pids[1])
    until(lambda: [waiter.pid for waiter in slots.waiting()] == [pids[2]])
    freed_s = time.monotonic()
    blocker.close()
    until(lambda: ("in", pids[2]) in nursery.events())
    assert time.monotonic() - freed_s < 1


def test_death_of_the_first_in_the_queue_wakes_the_second(nursery: Nursery) -> None:
    first = nursery.bear("stand", 1)
    nursery.await_events(1, "joined")
    second = nursery.bear("queue", 1)
    nursery.await_events(2, "joined")
    assert count(nursery, "in") == 0
    killed_s = time.monotonic()
    nursery.kill(first)
    until(lambda: ("in", second) in nursery.events())
    assert time.monotonic() - killed_s < 1


def test_waiter_notices_within_half_a_second_that_a_holder_was_killed(nursery: Nursery, slots: Slots) -> None:
    pid = nursery.bear("hold", 1)
    nursery.await_events(1, "in")
    killed_s: list[float] = []

    def kill() -> None:
        killed_s.append(time.monotonic())
        nursery.kill(pid)

    threading.Timer(0.25, kill).start()
    assert slots.wait_for_change(LIMIT_S)
    assert time.monotonic() - killed_s[0] < 0.5
    assert slots.holders() == ()


def test_slot_stays_held_by_whoever_inherited_it(nursery: Nursery, slots: Slots) -> None:
    parent = nursery.bear("bequeath", 1)
    nursery.await_events(1, "in")
    (holder,) = slots.holders()
    assert holder.pid is not None
    assert holder.pid != parent
    nursery.kill(parent)
    until(lambda: Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[0] == "Z")
    assert slots.holders() == (holder,)
    assert slots.take("one too many", None, 1) is None
    os.kill(holder.pid, signal.SIGKILL)
    until(lambda: slots.holders() == ())


def test_who_allows_fewer_is_refused_while_an_orphan_and_those_who_allow_more_hold_them(
    nursery: Nursery, slots: Slots
) -> None:
    """Two runs at most, or four, are what each who comes allows beside itself, whoever holds them."""
    parent = nursery.bear("bequeath", 4)
    nursery.await_events(1, "in")
    nursery.kill(parent)
    (orphan,) = slots.holders()
    nursery.bear("hold", 2)
    nursery.await_events(2, "in")
    nursery.bear("hold", 2)
    nursery.await_events(1, "refused")
    for held in (3, 4):
        nursery.bear("hold", 4)
        nursery.await_events(held, "in")
    nursery.bear("hold", 4)
    nursery.await_events(2, "refused")
    assert len(slots.holders()) == 4
    assert orphan in slots.holders()
    assert slots.take("one too many", None, 4) is None
    assert orphan.pid is not None
    os.kill(orphan.pid, signal.SIGKILL)
    until(lambda: len(slots.holders()) == 3)
    assert slots.take("for two", None, 2) is None
    nursery.bear("hold", 4)
    nursery.await_events(5, "in")


def test_killed_decider_leaves_the_admission_lock_free(nursery: Nursery, slots: Slots) -> None:
    pid = nursery.bear("decide", 1)
    nursery.await_events(1, "deciding")
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(RefusedError, match=f"process {pid} has held"), slots.lock(timeout_s=0.1):
        pass
    nursery.kill(pid)
    with slots.lock(timeout_s=LIMIT_S):
        pass
