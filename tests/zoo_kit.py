"""Runs of the zoo (the children of the test kit), kills of those who hold them, and what must be left then: nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from keeper_client import processes_of, signs, stat
from kit import Project, wait_for

from backprop_core.holding import Holder, holder_of, run_folder
from backprop_core.slots import Slots, host_folder
from backprop_core.states import LIVE

ANIMALS = 8
GRACE_S = 0.3
LADDER_S = GRACE_S + 5.5
"""How long after a stop somebody may still live who minds no signal (DESIGN 3)."""
BUSY_S = 1.5
"""What a busy machine may add to that: eight processes are to be started, seen and ended for each run."""
_WORDS = ("-p", "64", "-m", "5", "--stop-grace", str(GRACE_S))


class Cage:
    """One run of the zoo. `folder` is what every animal is known by, wherever it goes."""

    def __init__(self, project: Project, name: str) -> None:
        self.project = project
        self.name = name
        self.folder = project.folder / name
        self.folder.mkdir()
        words = ("run", project.child("zoo"), "--run-id", name, *_WORDS, "--", self.folder)
        self.process = project.start(*words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def wait(self) -> None:
        """Wait until every animal is there, and the run's lock says who keeps them."""
        wait_for(lambda: len(signs(self.folder, "ready")) == ANIMALS, f"{self.name}'s animals")
        wait_for(self.keeper, f"{self.name}'s keeper")

    def pause(self) -> None:
        assert self.project.run("pause", self.name).code == 0
        wait_for(lambda: self.project.record(self.name)["status"] == "paused", f"{self.name} to be paused")

    def holder(self) -> Holder | None:
        return holder_of(run_folder(self.project.home, self.name))

    def keeper(self) -> int | None:
        holder = self.holder()
        return holder and holder.keeper

    def keeper_by_birth(self) -> int | None:
        """The keeper as a child of the supervisor, however early it is."""
        with suppress(OSError):
            agent = self.process.pid
            for child in Path(f"/proc/{agent}/task/{agent}/children").read_text().split():
                if b"keeper.main" in Path(f"/proc/{child}/cmdline").read_bytes():
                    return int(child)
        return None

    def animals(self) -> list[int]:
        """Those that live; the supervisor has the folder among its arguments, too."""
        return [pid for pid in processes_of(self.folder) if pid != self.process.pid and _is_alive(pid)]

    def kill(self, victims: Sequence[str]) -> None:
        """Kill the supervisor ("backprop"), the keeper, or both as nearly at once as can be."""
        keeper = self.keeper() or self.keeper_by_birth()
        pids = {"backprop": self.process.pid, "keeper": keeper}
        for victim in victims:
            pid = pids[victim]
            if pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _is_alive(pid: int) -> bool:
    return stat(pid)[:1] not in ([], ["Z"], ["X"])


def gone_after(cages: Sequence[Cage], since_s: float, limit_s: float) -> float:
    """Wait until no animal is left; return how many seconds that took. Fails where the limit is passed."""
    while left := [pid for cage in cages for pid in cage.animals()]:
        assert time.monotonic() - since_s < limit_s, f"{len(left)} survivors after {limit_s:g} s: {left}"
        time.sleep(0.01)
    return time.monotonic() - since_s


def end_all(cages: Sequence[Cage]) -> None:
    """Wait for the supervisors themselves."""
    for cage in cages:
        cage.process.wait(LADDER_S + 10)


def assert_nothing_is_held(project: Project) -> None:
    """See that the next command finds no run live, and that no slot is taken."""
    listed = json.loads(project.run("list", "--json").out)
    assert not [run["id"] for run in listed if run["status"] in LIVE]
    if (project.home / "hosts").is_dir():
        slots = Slots(host_folder(project.home))
        wait_for(lambda: not slots.holders(), "every slot to be free", 5)
