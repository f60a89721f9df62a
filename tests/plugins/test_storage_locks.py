"""The lock of a store: in the order of asking, bounded, and never left behind."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from backprop_builtin.storage._locks import LockBusyError, locked, locked_in_turn

LIMIT_S = 60.0
EACH = 12

CHILD = r"""
import os, sys, time
from backprop_builtin.storage._locks import locked_in_turn

path, log, name, count = sys.argv[1:]
os.write(1, b"x")
for _ in range(int(count)):
    with locked_in_turn(path, 60.0):
        with open(log, "a") as file:
            file.write(name + "\n")
        time.sleep(0.005)  # what is done under the lock; whoever has had it wants it again at once
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "store.lock")


def start(path: str, log: Path, name: str, count: int) -> subprocess.Popen[bytes]:
    child = subprocess.Popen([sys.executable, "-c", CHILD, path, str(log), name, str(count)], stdout=-1)
    assert child.stdout is not None
    assert child.stdout.read(1) == b"x"
    return child


def is_waited_for(path: str) -> bool:
    inode = f":{os.stat(path).st_ino} "
    return any("->" in line and inode in line for line in Path("/proc/locks").read_text().splitlines())


def wait_until_waited_for(path: str) -> None:
    end_s = time.monotonic() + LIMIT_S
    while not is_waited_for(path):
        assert time.monotonic() < end_s
        time.sleep(0.005)


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="this system does not list locks")
def test_nobody_who_waits_is_overtaken_again_and_again(path: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with locked_in_turn(path, 1.0):
        children = [start(path, log, str(number), EACH) for number in range(4)]
        wait_until_waited_for(path)
        wait_until_waited_for(f"{path}.queue")
    for child in children:
        assert child.wait(LIMIT_S) == 0
        assert child.stdout is not None
        child.stdout.close()
    turns = log.read_text().split()
    assert len(turns) == 4 * EACH
    first_to_end = next(
        place for place in range(len(turns)) if max(Counter(turns[: place + 1]).values()) == EACH
    )
    assert min(Counter(turns[: first_to_end + 1]).values()) > EACH / 2, turns


def test_lock_that_is_given_back_is_had_at_once(path: str) -> None:
    came_s: list[float] = []

    def wait() -> None:
        with locked_in_turn(path, LIMIT_S):
            came_s.append(time.monotonic())

    with locked_in_turn(path, 1.0):
        waiter = threading.Thread(target=wait)
        waiter.start()
        wait_until_waited_for(path)
        gone_s = time.monotonic()
    waiter.join(LIMIT_S)
    assert came_s[0] - gone_s < 0.5


def test_wait_that_is_given_up_is_bounded_and_leaves_the_lock_to_others(path: str) -> None:
    with locked(path, 1.0):
        for wait_s in (1.0, 1.0, 0.1):
            began_s = time.monotonic()
            with (
                pytest.raises(LockBusyError, match="has been locked by another process"),
                locked(path, wait_s),
            ):
                pass
            assert wait_s <= time.monotonic() - began_s < wait_s + 1.0
        assert len([one for one in threading.enumerate() if path in one.name]) == 1, (
            "one thread waits, not more"
        )
    with locked(path, 5.0):
        pass
    descriptor = os.open(path, os.O_RDWR)
    try:
        end_s = time.monotonic() + 5.0
        while any(path in one.name for one in threading.enumerate()):
            assert time.monotonic() < end_s
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)


def test_who_stands_still_at_the_head_of_the_queue_is_passed_by(path: str, tmp_path: Path) -> None:
    with locked(path, 1.0):
        stopped = start(path, tmp_path / "log", "stopped", 1)
        wait_until_waited_for(path)
        os.kill(stopped.pid, signal.SIGSTOP)
        os.waitpid(stopped.pid, os.WUNTRACED)
    try:
        began_s = time.monotonic()
        with locked_in_turn(path, 10.0):
            assert time.monotonic() - began_s < 5.0
    finally:
        os.kill(stopped.pid, signal.SIGCONT)
    assert stopped.wait(LIMIT_S) == 0
    assert stopped.stdout is not None
    stopped.stdout.close()
