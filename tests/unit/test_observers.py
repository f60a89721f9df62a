"""Observers are told on a thread of their own, and delay nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from fake_plugins import bring, plugins_with

from backprop_core.observers import Observers
from backprop_core.plugins import Plugins

LIMIT_S = 10.0


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What a slow observer waits for; opened at the end of the test at the latest."""
    event = threading.Event()
    yield event
    event.set()


def test_observers_are_told_in_order_on_another_thread_and_drained() -> None:
    told: list[tuple[str, threading.Thread]] = []
    plugins = plugins_with(
        backprop_run_started=lambda run: told.append((run, threading.current_thread())),
        backprop_run_paused=lambda reason: told.append((reason, threading.current_thread())),
    )
    observers = Observers(plugins)
    observers.tell("backprop_run_started", run="r")
    observers.tell("backprop_run_paused", run="r", reason="heat")
    assert observers.drain(LIMIT_S)
    assert [text for text, _ in told] == ["r", "heat"]
    assert threading.current_thread() not in {thread for _, thread in told}


def test_without_an_observer_there_is_no_thread() -> None:
    before = threading.active_count()
    observers = Observers(Plugins())
    observers.tell("backprop_run_started", run="r")
    assert threading.active_count() == before
    assert observers.drain(0)


def test_one_that_raises_is_named_and_the_others_are_told() -> None:
    told: list[str] = []
    plugins = plugins_with(backprop_run_started=lambda run: told.append(run))  # noqa: PLW0108 - hooks have names
    bring(plugins, "broken", backprop_run_started=lambda: 1 / 0)
    observers = Observers(plugins)
    for number in range(3):
        observers.tell("backprop_run_started", run=f"r{number}")
    assert observers.drain(LIMIT_S)
    assert told == ["r0", "r1", "r2"]
    assert [str(failure) for failure in plugins.failures] == [
        "plugin broken (/broken.py) failed in backprop_run_started: ZeroDivisionError: division by zero"
    ]


def test_a_slow_observer_delays_nothing_and_what_does_not_fit_is_counted(gate: threading.Event) -> None:
    began = threading.Event()

    def slow(run: str) -> None:
        began.set()
        gate.wait(LIMIT_S)

    observers = Observers(plugins_with(backprop_run_started=slow), capacity=3)
    observers.tell("backprop_run_started", run="first")
    assert began.wait(LIMIT_S)
    for _ in range(10):
        observers.tell("backprop_run_started", run="more")
    assert observers.dropped == 7


@pytest.mark.parametrize("queued", [0, 2])
def test_one_that_does_not_finish_is_left_behind_when_the_time_is_over(
    gate: threading.Event, queued: int
) -> None:
    observers = Observers(plugins_with(backprop_run_started=lambda: gate.wait(LIMIT_S)), capacity=1)
    for _ in range(1 + queued):
        observers.tell("backprop_run_started", run="r")
    began_s = time.monotonic()
    assert not observers.drain(0.2)
    assert time.monotonic() - began_s < LIMIT_S / 2
    gate.set()
    assert observers.drain(LIMIT_S)


def test_the_time_to_finish_is_given_once_not_for_each_step(gate: threading.Event) -> None:
    """The queue is full for half of the time, and the observer then takes longer than the rest of it."""
    release_s = 0.5
    calls: list[float] = []

    def slow(run: str) -> None:
        calls.append(time.monotonic())
        if len(calls) == 1:
            time.sleep(release_s)
        else:
            gate.wait(LIMIT_S)

    observers = Observers(plugins_with(backprop_run_started=slow), capacity=1)
    observers.tell("backprop_run_started", run="a")
    while not calls:
        time.sleep(0.001)
    observers.tell("backprop_run_started", run="b")
    began_s = time.monotonic()
    assert not observers.drain(1.0)
    assert time.monotonic() - began_s < 1.0 + release_s * 0.8
