"""Code that keeps the main thread is interrupted: it waits, or works for too long; and nobody else is."""

from __future__ import annotations

import re
import signal
import socket
import threading
import time
from collections.abc import Callable

import pytest

from backprop_core.alarm import Alarm, TookTooLongError

ENDLESS = re.compile(r"(a+)+$")


def work_for_ever() -> None:
    while True:
        pass


def wait_for_ever() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.recv(1)


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (lambda: time.sleep(60), "it did nothing for 0.3 s"),
        (lambda: threading.Event().wait(60), "it did nothing for 0.3 s"),
        (wait_for_ever, "it did nothing for 0.3 s"),
        (work_for_ever, "it worked for 0.5 s"),
        (lambda: ENDLESS.match("a" * 60 + "b"), "it worked for 0.5 s"),
    ],
    ids=["sleep", "event", "socket", "loop", "regular expression"],
)
def test_code_that_does_not_come_back_is_interrupted(code: Callable[[], object], why: str) -> None:
    began_s = time.monotonic()
    with pytest.raises(TookTooLongError, match=f"^{why}$"), Alarm(idle_s=0.3, busy_s=0.5):
        code()
    assert time.monotonic() - began_s < 30


def test_code_that_catches_everything_is_interrupted_again() -> None:
    caught: list[BaseException] = []

    def stubborn() -> None:
        try:
            time.sleep(60)
        except BaseException as error:
            caught.append(error)
        time.sleep(60)

    with pytest.raises(TookTooLongError), Alarm(idle_s=0.2, busy_s=5):
        stubborn()
    assert len(caught) == 1


def test_code_that_works_is_left_alone_for_longer_than_code_that_waits() -> None:
    end_s = time.thread_time() + 0.5
    with Alarm(idle_s=0.2, busy_s=30):
        while time.thread_time() < end_s:
            pass


def test_code_that_waits_now_and_then_is_left_alone() -> None:
    end_s = time.monotonic() + 0.6
    with Alarm(idle_s=0.3, busy_s=30):
        while time.monotonic() < end_s:
            time.sleep(0.02)
            sum(range(200_000))


def test_an_alarm_inside_another_changes_nothing() -> None:
    def nest() -> None:
        with Alarm(idle_s=60, busy_s=60):
            pass
        time.sleep(60)

    with pytest.raises(TookTooLongError, match=r"0\.2"), Alarm(idle_s=0.2, busy_s=5):
        nest()


def test_nothing_is_left_of_it_and_another_thread_is_never_interrupted() -> None:
    failed: list[BaseException] = []

    def elsewhere() -> None:
        try:
            with Alarm(idle_s=0.05, busy_s=0.05):
                time.sleep(0.3)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    with Alarm(idle_s=30, busy_s=30):
        pass
    thread.join()
    assert failed == []
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
