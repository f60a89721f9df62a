"""Locks that are waited for in the kernel's queue, and what a locked file says to those who look."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backprop_core.locks import open_lock_file, read_held, try_lock, write_line

LIMIT_S = 10.0
SCRIBBLER = """
import sys
from pathlib import Path
from backprop_core.locks import open_lock_file, try_lock, write_line
fd = open_lock_file(Path(sys.argv[1]))
assert try_lock(fd)
while True:
    for line in (b"a" * 300, b"b" * 40, b"c" * 170):
        write_line(fd, line)
        print(flush=True)
"""

Waiter = Callable[[float], bool]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lock"


@pytest.fixture
def held(path: Path) -> Iterator[int]:
    """The lock, held by somebody else: flock(2) tells two open files of one process apart."""
    descriptor = open_lock_file(path)
    assert try_lock(descriptor)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def waiting(path: Path) -> Iterator[Waiter]:
    descriptor = open_lock_file(path)
    yield lambda limit_s: try_lock(descriptor, limit_s)
    os.close(descriptor)


def test_what_the_holder_wrote_last_is_all_that_is_read(path: Path, held: int) -> None:
    for line in (b'{"pid": 123456}', b"", b'{"pid": 1}', b"x" * 1000, b"7"):
        write_line(held, line)
        assert (read_held(path) or b"").rstrip() == line
    path.write_bytes(b"y" * (1 << 20))
    write_line(held, b"7")
    assert path.read_bytes() == b"7\n"


def test_a_line_that_was_not_finished_is_no_line(path: Path, held: int) -> None:
    write_line(held, b'{"pid": 123456}')
    path.write_bytes(b'{"pid": 1234')
    assert read_held(path) == b""
    write_line(held, b"7")
    assert (read_held(path) or b"").rstrip() == b"7"


def test_nobody_reads_a_mixture_of_two_lines(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", SCRIBBLER, str(path)], stdout=subprocess.PIPE) as scribbler:
        assert scribbler.stdout is not None
        scribbler.stdout.readline()
        until_s = time.monotonic() + 1.0
        seen = set()
        drain = threading.Thread(target=scribbler.stdout.read)
        drain.start()
        while time.monotonic() < until_s:
            seen.add((read_held(path) or b"").rstrip())
        scribbler.kill()
        drain.join(LIMIT_S)
    assert seen <= {b"", b"a" * 300, b"b" * 40, b"c" * 170}
    assert len(seen) > 1


def test_who_waits_has_the_lock_when_it_is_let_go_and_did_not_look_for_it_meanwhile(
    held: int, waiting: Waiter
) -> None:
    letting_go = threading.Timer(0.3, fcntl.flock, [held, fcntl.LOCK_UN])
    letting_go.start()
    before = time.thread_time()
    assert waiting(LIMIT_S)
    letting_go.join(LIMIT_S)
    assert time.thread_time() - before < 0.1


def test_a_wait_ends_in_time_and_leaves_the_timer_and_its_handler_as_they_were(
    held: int, waiting: Waiter
) -> None:
    handler = signal.getsignal(signal.SIGALRM)
    began_s = time.monotonic()
    assert not waiting(0.2)
    assert 0.2 <= time.monotonic() - began_s < LIMIT_S
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) == handler
    fcntl.flock(held, fcntl.LOCK_UN)
    assert waiting(0.2)


@pytest.mark.usefixtures("held")
def test_a_timer_of_somebody_else_is_left_alone(waiting: Waiter) -> None:
    signal.setitimer(signal.ITIMER_REAL, 3600)
    try:
        assert not waiting(0.1)
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 3000
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def test_a_wait_on_another_thread_is_bounded_and_rewarded_too(held: int, waiting: Waiter) -> None:
    answers: list[bool] = []

    def wait(limit_s: float) -> None:
        thread = threading.Thread(target=lambda: answers.append(waiting(limit_s)))
        thread.start()
        thread.join(LIMIT_S)

    wait(0.1)
    fcntl.flock(held, fcntl.LOCK_UN)
    wait(LIMIT_S)
    assert answers == [False, True]


@pytest.mark.usefixtures("held")
def test_ctrl_c_ends_a_wait(waiting: Waiter) -> None:
    threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        waiting(LIMIT_S)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
