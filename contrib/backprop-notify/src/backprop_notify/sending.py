"""Sending on a thread for each channel, so that one that hangs delays neither the run nor the others."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Mapping

from .channels import Channel, UndeliveredError
from .message import Message

MOST_WAITING = 100
"""News that nobody could be told for that long is left out."""
LONGEST_S = 120.0
"""How long one message is tried."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0


class Post:
    """Takes messages and sends them by every channel; what could not be delivered is kept in words."""

    def __init__(self, channels: Mapping[str, Channel]) -> None:
        self._lines = [Line(name, channel) for name, channel in channels.items()]

    def send(self, message: Message) -> None:
        """Hand a message over, without waiting."""
        for line in self._lines:
            line.put(message)

    def close(self, limit_s: float) -> list[str]:
        """Give what waits its last chance; return what was not delivered, in words."""
        end_s = time.monotonic() + limit_s
        for line in self._lines:
            line.close(end_s)
        return [words for line in self._lines for words in line.failures(end_s)]


class Line:
    """One channel, its thread, and what waits for it."""

    def __init__(self, name: str, channel: Channel) -> None:
        self._name = name
        self._channel = channel
        self._waiting: queue.Queue[Message | None] = queue.Queue(MOST_WAITING)
        self._failures: list[str] = []
        self._unsent = 0
        self._end_s = float("inf")
        self._hurry = threading.Event()
        self._thread: threading.Thread | None = None

    def put(self, message: Message) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=f"notify-{self._name}", daemon=True)
            self._thread.start()
        try:
            self._waiting.put_nowait(message)
            self._unsent += 1
        except queue.Full:
            self._failures.append(f"{self._name}: too many messages were waiting")

    def close(self, end_s: float) -> None:
        """Ask the thread to be through by then."""
        self._end_s = end_s
        self._hurry.set()
        if self._thread is not None:
            try:
                self._waiting.put_nowait(None)
            except queue.Full:
                self._failures.append(f"{self._name}: too many messages were waiting")

    def failures(self, end_s: float) -> list[str]:
        """Wait for the thread until then, and tell what went wrong."""
        if self._thread is not None:
            self._thread.join(max(0.0, end_s - time.monotonic()))
            if self._thread.is_alive() and self._unsent:
                return list(dict.fromkeys([*self._failures, f"{self._name}: no answer in time"]))
        return list(dict.fromkeys(self._failures))

    def _work(self) -> None:
        while (message := self._waiting.get()) is not None:
            if (why := self._deliver(message)) is not None:
                self._failures.append(f"{self._name}: {why}")
            self._unsent -= 1

    def _deliver(self, message: Message) -> str | None:
        """Try until it goes out, or the time is up; return why it did not."""
        longest_s, pause_s = time.monotonic() + LONGEST_S, FIRST_PAUSE_S
        while True:
            try:
                self._channel(message)
            except UndeliveredError as failure:
                is_over = time.monotonic() + pause_s > min(longest_s, self._end_s)
                if failure.is_final or is_over:
                    return str(failure)
            else:
                return None
            is_hurried = self._hurry.is_set()
            if is_hurried:
                time.sleep(pause_s)
            elif self._hurry.wait(pause_s):
                pause_s = FIRST_PAUSE_S  # the end of the run is worth a prompt try
                continue
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
