from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from backprop_core.supervisor import Control, Job, Supervisor, held_signals


class Sleepy:
    """A sink that wants to be asked once a minute, and stops the run when it is asked a second time."""

    def __init__(self) -> None:
        self.ticks = 0
        self._control: Control | None = None

    def started(self, control: Control, keeper: int, pid: int, deadline_s: float) -> None:
        self._control = control

    def tick(self) -> float:
        self.ticks += 1
        if self.ticks == 1:
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGCONT)).start()
        elif self._control:
            self._control.stop("the bell")
        return 60.0

    def output(self, data: bytes) -> None: ...
    def is_behind(self) -> bool:
        return False

    def paused(self, causes: Sequence[str]) -> None: ...
    def continued(self, deadline_s: float) -> None: ...
    def stopping(self, why: str, rung: str) -> None: ...
    def suspended(self) -> None: ...
    def resumed(self) -> None: ...


def test_who_posts_a_request_can_ring_so_that_nobody_needs_to_look_often(tmp_path: Path) -> None:
    script = "import signal\nsignal.signal(signal.SIGINT, lambda *_: exit(0))\nsignal.sigtimedwait([], 20)"
    job = Job(
        argv=(sys.executable, "-c", script),
        environment=dict(os.environ),
        cwd=tmp_path,
        limit_s=60.0,
        grace_s=10.0,
        max_pause_s=60.0,
        time_box_file=tmp_path / "time-box.json",
    )
    sink = Sleepy()
    with held_signals() as signals:
        ending = Supervisor(job, sink, signals).run()
    assert ending.why == "the bell"
    assert sink.ticks >= 2
