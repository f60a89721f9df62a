"""Observers: plugins that are told what a run does, and decide nothing."""

from __future__ import annotations

import queue
import threading
from typing import Any

from .clock import now_s
from .plugins import Plugins


class Observers:
    """Tells observers on a thread of its own, so that a slow one delays nothing.

    `dropped` counts what did not fit into the queue.
    """

    def __init__(self, plugins: Plugins, capacity: int = 1000) -> None:
        self._plugins = plugins
        self._waiting: queue.Queue[tuple[str, dict[str, Any]] | None] = queue.Queue(capacity)
        self._thread: threading.Thread | None = None
        self.dropped = 0

    def tell(self, hook: str, **arguments: Any) -> None:
        """Queue a call of every implementation of a hook."""
        if not self._plugins.has(hook):
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="backprop-observers", daemon=True)
            self._thread.start()
        try:
            self._waiting.put_nowait((hook, arguments))
        except queue.Full:
            self.dropped += 1

    def drain(self, timeout_s: float) -> bool:
        """Wait until everything queued was told; False when time ran out."""
        if self._thread is None:
            return True
        end_s = now_s() + timeout_s
        try:
            self._waiting.put(None, timeout=timeout_s)
        except queue.Full:
            return False
        self._thread.join(max(0.0, end_s - now_s()))
        return not self._thread.is_alive()

    def busy_with(self) -> str:
        """Name the plugin that has not finished, and the hook that it is in."""
        busy = self._plugins.busy_with(self._thread.ident) if self._thread else None
        return busy or "a plugin that observes runs"

    def _work(self) -> None:
        while call := self._waiting.get():
            hook, arguments = call
            self._plugins.ask(hook, **arguments)
