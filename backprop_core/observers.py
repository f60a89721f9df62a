"""Observers: plugins that are told what a run does, and decide nothing."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from .clock import now_s
from .plugins import Plugins
from .records import CheckpointSaved, Event, RunRecord

MOST_CALLS = 1000
MOST_EVENTS = 50_000
EVENTS_EVERY_S = 0.25
EVENTS = "backprop_run_events"
LAST = "backprop_run_finished"


class Observers:
    """Tells each observing plugin on a thread of its own, so that a slow one delays nothing and nobody."""

    def __init__(
        self, plugins: Plugins, most_calls: int = MOST_CALLS, most_events: int = MOST_EVENTS
    ) -> None:
        self._plugins = plugins
        self._bounds = (most_calls, most_events)
        self._observers: dict[str, Observer] = {}

    def tell(self, hook: str, **arguments: Any) -> None:
        """Queue a call of every implementation of a hook; events in quick succession are told at once."""
        for observer in self._of(hook):
            if hook == EVENTS:
                observer.tell_events(**arguments)
            else:
                observer.tell(hook, arguments)

    def _of(self, hook: str) -> Iterator[Observer]:
        for name in self._plugins.implementers(hook):
            if name not in self._observers:
                self._observers[name] = Observer(self._plugins, name, *self._bounds)
            yield self._observers[name]

    def drain(self, timeout_s: float) -> list[str]:
        """Wait until everything queued was told; tell what plugins are busy with that did not finish in time."""
        end_s = now_s() + timeout_s
        for observer in self._observers.values():
            observer.finish()
        for observer in self._observers.values():
            observer.thread.join(max(0.0, end_s - now_s()))
        late = [observer for observer in self._observers.values() if observer.thread.is_alive()]
        return [observer.busy_with() for observer in late]

    def losses(self) -> Iterator[str]:
        """Say of each plugin what it was too slow to be told."""
        for name, observer in self._observers.items():
            lost = {"events": observer.dropped_events, "other calls": observer.dropped_calls}
            parts = [f"{number} {what}" for what, number in lost.items() if number]
            if parts:
                yield f"plugin {name} was too slow to be told of {' and '.join(parts)}"


class Observer:
    """One plugin's thread and what it is yet to be told, oldest first.

    Of events that it is too slow for, the newest are kept, and every checkpoint; the end of the run is never
    dropped. `dropped_events` and `dropped_calls` count the rest.
    """

    def __init__(self, plugins: Plugins, name: str, most_calls: int, most_events: int) -> None:
        self._plugins = plugins
        self._name = name
        self._most_calls = most_calls
        self._most_events = most_events
        self._calls: deque[tuple[str, dict[str, Any]]] = deque()
        self._events: list[Event] | None = None
        self._changed = threading.Condition()
        self._is_finishing = False
        self.dropped_events = 0
        self.dropped_calls = 0
        self.thread = threading.Thread(target=self._work, name=f"backprop-observer-{name}", daemon=True)
        self.thread.start()

    def tell(self, hook: str, arguments: dict[str, Any]) -> None:
        """Queue a call."""
        with self._changed:
            if len(self._calls) >= self._most_calls and hook != LAST:
                self.dropped_calls += 1
                return
            self._calls.append((hook, arguments))
            self._events = None
            self._changed.notify()

    def tell_events(self, run: RunRecord, events: Sequence[Event]) -> None:
        """Queue events: with those that wait already, where nothing else was queued since."""
        with self._changed:
            if self._events is None:
                if len(self._calls) >= self._most_calls:
                    self.dropped_events += len(events)
                    return
                self._events = []
                self._calls.append((EVENTS, {}))
            self._events += events
            self._calls[-1] = (EVENTS, {"run": run, "events": self._events})
            if len(self._events) > self._most_events:
                self._thin(self._events)
            self._changed.notify()

    def _thin(self, events: list[Event]) -> None:
        """Drop the older half, but no checkpoint."""
        older = events[: -self._most_events // 2]
        saved = [event for event in older if isinstance(event, CheckpointSaved)]
        self.dropped_events += len(older) - len(saved)
        events[: len(older)] = saved

    def finish(self) -> None:
        """Have the thread end when everything was told."""
        with self._changed:
            self._is_finishing = True
            self._changed.notify()

    def busy_with(self) -> str:
        """Name the plugin, and the hook that it is in."""
        return self._plugins.busy_with(self.thread.ident) or f"plugin {self._name}"

    def _work(self) -> None:
        next_events_s = 0.0
        while call := self._next(next_events_s):
            hook, arguments = call
            if hook == EVENTS:
                next_events_s = now_s() + EVENTS_EVERY_S
                arguments = {**arguments, "events": tuple(arguments["events"])}
            self._plugins.ask(hook, self._name.__eq__, **arguments)

    def _next(self, next_events_s: float) -> tuple[str, dict[str, Any]] | None:
        """Wait for the next call; events are let gather for a moment. None at the end."""
        with self._changed:
            while True:
                is_gathering = self._events is not None and len(self._calls) == 1 and not self._is_finishing
                wait_s = next_events_s - now_s() if is_gathering else 0.0
                if self._calls and wait_s <= 0:
                    self._events = None if len(self._calls) == 1 else self._events
                    return self._calls.popleft()
                if not self._calls and self._is_finishing:
                    return None
                self._changed.wait(wait_s if self._calls else None)
