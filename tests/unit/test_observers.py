"""Observers are told on a thread of their own, and delay nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from fake_plugins import bring, plugins_with

from backprop_core import CheckpointSaved, Event, Progress
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
    assert observers.drain(LIMIT_S) == []
    assert [text for text, _ in told] == ["r", "heat"]
    assert threading.current_thread() not in {thread for _, thread in told}


def test_without_an_observer_there_is_no_thread() -> None:
    before = threading.active_count()
    observers = Observers(Plugins())
    observers.tell("backprop_run_started", run="r")
    assert threading.active_count() == before
    assert observers.drain(0) == []


def test_one_that_raises_is_named_and_the_others_are_told() -> None:
    told: list[str] = []
    plugins = plugins_with(backprop_run_started=lambda run: told.append(run))  # noqa: PLW0108 - hooks have names
    bring(plugins, "broken", backprop_run_started=lambda: 1 / 0)
    observers = Observers(plugins)
    for number in range(3):
        observers.tell("backprop_run_started", run=f"r{number}")
    assert observers.drain(LIMIT_S) == []
    assert told == ["r0", "r1", "r2"]
    assert [str(failure) for failure in plugins.failures] == [
        "plugin broken (/broken.py) failed in backprop_run_started: ZeroDivisionError: division by zero"
    ]


def test_a_slow_observer_delays_nothing_and_what_does_not_fit_is_counted(gate: threading.Event) -> None:
    began = threading.Event()

    def slow(run: str) -> None:
        began.set()
        gate.wait(LIMIT_S)

    observers = Observers(plugins_with(backprop_run_started=slow), most_calls=3)
    observers.tell("backprop_run_started", run="first")
    assert began.wait(LIMIT_S)
    for _ in range(10):
        observers.tell("backprop_run_started", run="more")
    assert list(observers.losses()) == ["plugin one was too slow to be told of 7 other calls"]


@pytest.mark.parametrize("queued", [0, 2])
def test_one_that_does_not_finish_is_left_behind_when_the_time_is_over(
    gate: threading.Event, queued: int
) -> None:
    observers = Observers(plugins_with(backprop_run_started=lambda: gate.wait(LIMIT_S)))
    for _ in range(1 + queued):
        observers.tell("backprop_run_started", run="r")
    began_s = time.monotonic()
    assert observers.drain(0.2) == ["plugin one (/one.py) in backprop_run_started"]
    assert time.monotonic() - began_s < LIMIT_S / 2
    gate.set()
    assert observers.drain(LIMIT_S) == []


def test_the_time_to_finish_is_given_once_not_for_each_step(gate: threading.Event) -> None:
    """One call takes half of the time, and the next one longer than the rest of it."""
    release_s = 0.5
    calls: list[float] = []

    def slow(run: str) -> None:
        calls.append(time.monotonic())
        if len(calls) == 1:
            time.sleep(release_s)
        else:
            gate.wait(LIMIT_S)

    observers = Observers(plugins_with(backprop_run_started=slow))
    observers.tell("backprop_run_started", run="a")
    while not calls:
        time.sleep(0.001)
    observers.tell("backprop_run_started", run="b")
    began_s = time.monotonic()
    assert observers.drain(1.0) == ["plugin one (/one.py) in backprop_run_started"]
    assert time.monotonic() - began_s < 1.0 + release_s * 0.8


def test_one_that_hangs_silences_no_other(gate: threading.Event) -> None:
    told: list[str] = []
    plugins = plugins_with(backprop_run_started=lambda run: told.append(run))  # noqa: PLW0108 - hooks have names
    bring(plugins, "hanging", backprop_run_started=lambda: gate.wait(LIMIT_S))
    observers = Observers(plugins)
    for number in range(3):
        observers.tell("backprop_run_started", run=f"r{number}")
    assert observers.drain(0.5) == ["plugin hanging (/hanging.py) in backprop_run_started"]
    assert told == ["r0", "r1", "r2"]


class Reader:
    """An observer of events that reads the first ones and then waits until the gate opens."""

    def __init__(self, gate: threading.Event, **bounds: int) -> None:
        self.batches: list[tuple[Event, ...]] = []
        self.runs: list[str] = []
        self._began = threading.Event()

        def read(run: str, events: tuple[Event, ...]) -> None:
            self.batches.append(events)
            self.runs.append(run)
            self._began.set()
            gate.wait(LIMIT_S)

        def note_end(run: str) -> None:
            self.runs.append(run)

        plugins = plugins_with(backprop_run_events=read, backprop_run_finished=note_end)
        self.observers = Observers(plugins, **bounds)
        self.tell("first", Progress(step=0))
        assert self._began.wait(LIMIT_S)

    def tell(self, run: object, *events: Event) -> None:
        self.observers.tell("backprop_run_events", run=run, events=events)


def test_events_that_come_in_quick_succession_are_told_at_once_with_the_newest_record(
    gate: threading.Event,
) -> None:
    reader = Reader(gate)
    for step in range(1, 100):
        reader.tell(f"at {step}", Progress(step=step))
    gate.set()
    assert reader.observers.drain(LIMIT_S) == []
    assert [[event.step for event in batch] for batch in reader.batches] == [[0], list(range(1, 100))]
    assert reader.runs == ["first", "at 99"]
    assert list(reader.observers.losses()) == []


def test_a_call_in_between_keeps_its_place(gate: threading.Event) -> None:
    reader = Reader(gate)
    reader.tell("a", Progress(step=1))
    reader.observers.tell("backprop_run_finished", run="b")
    reader.tell("c", Progress(step=2))
    reader.tell("d", Progress(step=3))
    gate.set()
    assert reader.observers.drain(LIMIT_S) == []
    assert reader.runs == ["first", "a", "b", "d"]


def test_of_events_beyond_its_bound_the_newest_and_every_checkpoint_are_kept_and_the_rest_is_counted(
    gate: threading.Event,
) -> None:
    reader = Reader(gate, most_events=10)
    saved = CheckpointSaved(path="/early.pt")
    reader.tell("r", saved)
    for step in range(1, 101):
        reader.tell("r", Progress(step=step))
    gate.set()
    assert reader.observers.drain(LIMIT_S) == []
    _, kept = reader.batches
    assert kept[0] == saved
    assert kept[-1] == Progress(step=100)
    assert len(kept) <= 10
    dropped = 101 - len(kept)
    assert list(reader.observers.losses()) == [f"plugin one was too slow to be told of {dropped} events"]


def test_the_end_of_the_run_is_told_however_much_waits(gate: threading.Event) -> None:
    reader = Reader(gate, most_calls=2)
    for number in range(5):
        reader.observers.tell("backprop_run_finished", run=f"r{number}")
    gate.set()
    assert reader.observers.drain(LIMIT_S) == []
    assert reader.runs[1:] == [f"r{number}" for number in range(5)]
