"""At most so many starts a minute, over all processes, however they end: a bucket that is kept in a file.

The bucket is a GCRA: one number, the theoretical arrival time of the next start. Each start that is granted moves it on
by the interval between two starts; a start is granted when that time has come, or is at most `burst - 1` intervals
away. Turns are written down before they are granted, so that a process that is killed in between wastes
its turn and never makes one.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

KEEP_S = 60.0
"""How long a turn that was granted is kept for its run: another rule may have refused it, and it asks again."""


def boot_clock_s() -> float:
    """Seconds since the machine was started, suspended ones too; on macOS seconds since 1970."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.time() if clock is None else time.clock_gettime(clock)


def boot_id() -> str:
    """What tells this boot from others; empty where the system does not tell (macOS)."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


class Bucket:
    """Turns to start, of which there are `per_minute` a minute, and `burst` at once after a pause.

    :raises ValueError: for numbers that make no sense.
    """

    def __init__(
        self, file: Path, per_minute: float, burst: int = 1, clock: Callable[[], float] = boot_clock_s
    ) -> None:
        if not (per_minute > 0 and math.isfinite(per_minute)) or burst < 1:
            raise ValueError("max-starts-per-minute and start-burst must be above 0")
        self.per_minute = per_minute
        self._interval_s = 60 / per_minute
        self._slack_s = (burst - 1) * self._interval_s
        self._file = file
        self._clock = clock

    def take(self, run_id: str) -> float:
        """Take a turn; return 0, or for how many seconds there is none. A run that holds a turn has it."""
        with self._locked():
            now = self._clock()
            arrival, kept = self._read(now)
            if run_id in kept:
                return 0.0
            if (wait_s := arrival - self._slack_s - now) > 0:
                return wait_s
            self._write(max(arrival, now) + self._interval_s, {**kept, run_id: now + KEEP_S})
            return 0.0

    def use(self, run_id: str) -> None:
        """Note that the run starts with the turn that it holds."""
        with self._locked():
            arrival, kept = self._read(self._clock())
            if kept.pop(run_id, None) is not None:
                self._write(arrival, kept)

    def look(self) -> float:
        """Tell for how many seconds there is no turn, and take none."""
        with self._locked():
            now = self._clock()
            arrival, _ = self._read(now)
            return max(0.0, arrival - self._slack_s - now)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        lock = os.open(self._file.with_suffix(".lock"), flags, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _read(self, now: float) -> tuple[float, dict[str, float]]:
        """Return the arrival time and the turns that are kept; one turn where nothing can be relied on.

        An arrival time further away than it can be comes from a clock that was set back: it counts as the furthest.
        """
        one_turn = now + self._slack_s
        try:
            state = json.loads(self._file.read_bytes())
            arrival, kept = float(state["arrival"]), dict(state["kept"])
            is_known = state["boot"] == boot_id() and math.isfinite(arrival)
            kept = {str(run): float(end) for run, end in kept.items() if now < float(end) <= now + KEEP_S}
        except FileNotFoundError:
            return now, {}
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return one_turn, {}
        if not is_known:
            return one_turn, {}
        furthest = now + self._slack_s + self._interval_s
        if arrival > furthest:
            self._write(furthest, kept)  # or it would stay as far away at every look
        return min(arrival, furthest), kept

    def _write(self, arrival: float, kept: dict[str, float]) -> None:
        fresh = self._file.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        descriptor = os.open(
            fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
        with os.fdopen(descriptor, "w") as file:
            json.dump({"boot": boot_id(), "arrival": arrival, "kept": kept}, file)
        fresh.replace(self._file)
