"""Members of a crowd on scripted GPUs are killed at random: no slot, promise or GPU is lost or given out twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from governor_kit import GpuProject, standing
from kit import wait_for

from backprop_core.slots import Slots

GPUS = 4
CROWD = 7
WORDS = ("run", "alone.py", "-g", "20", "-p", "16", "--wait", "10", "--stop-grace", "2")
# Whoever finds somebody else on the GPU that it was given leaves proof of it.
ALONE = """
    import fcntl, os, signal, sys, time

    gpu = os.environ["CUDA_VISIBLE_DEVICES"]
    place = os.open(f"gpu-{gpu}", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        open(f"not-alone-on-{gpu}-{os.getpid()}", "w").close()
    signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
    print(os.getpid(), flush=True)
    time.sleep(600)
"""


@pytest.fixture
def project(tmp_path: Path) -> Iterator[GpuProject]:
    made = GpuProject(tmp_path)
    made.smi.set([{"index": index} for index in range(GPUS)])
    made.write("alone.py", ALONE)
    yield made
    made.clean_up()


class Crowd:
    """Runs and waiters; whoever is killed is replaced."""

    def __init__(self, project: GpuProject) -> None:
        self.project = project
        self.members: list[subprocess.Popen[bytes]] = []
        self.refill()
        (folder,) = wait_for(lambda: list((project.home / "hosts").glob("*")), "the machine's folder")
        self.slots = Slots(folder)

    def refill(self) -> None:
        for member in self.members:
            if member.poll() is not None:
                member.communicate()
        self.members = [member for member in self.members if member.returncode is None]
        while len(self.members) < CROWD:
            self.members.append(self.project.start(*WORDS))

    def is_full(self) -> bool:
        """Tell whether every GPU is taken; somebody may have died since, and is replaced."""
        self.refill()
        return len(self.slots.holders()) == GPUS

    def scripts(self) -> list[int]:
        """The pids of the training scripts that live."""
        return [pid for pid in self.project.processes() if "alone.py" in arguments(pid)[1:2]]

    def keepers(self) -> list[int]:
        return [holder.pid for holder in self.slots.holders() if holder.pid]

    def victim(self, choice: random.Random) -> int | None:
        kind = choice.choice(["anybody", "anybody", "keeper", "script"])
        agents = [member.pid for member in self.members]  # half of them wait
        pids = {"anybody": agents, "keeper": self.keepers(), "script": self.scripts()}[kind]
        return choice.choice(pids) if pids else None

    def assert_nobody_too_many(self) -> None:
        assert len(self.slots.holders()) <= GPUS
        assert not list(self.project.folder.glob("not-alone-*"))


def arguments(pid: int) -> list[str]:
    with suppress(OSError):
        return [Path(word).name for word in Path(f"/proc/{pid}/cmdline").read_text().split("\0")]
    return []


def kill_many(project: GpuProject, count: int, seed: int) -> None:
    choice = random.Random(seed)
    crowd = Crowd(project)
    killed = 0
    while killed < count:
        if choice.random() < 0.6:  # else the next one dies while this one's place is being filled
            wait_for(crowd.is_full, "every GPU to be taken")
        victim = crowd.victim(choice)
        with suppress(ProcessLookupError):
            if victim is not None:
                os.kill(victim, signal.SIGKILL)
                killed += 1
        crowd.refill()
        crowd.assert_nobody_too_many()
    for member in crowd.members:
        member.kill()
        member.communicate()
    wait_for(lambda: not crowd.slots.holders(), "every slot to be free")
    wait_for(lambda: not crowd.scripts(), "every script to be gone")
    assert crowd.slots.waiting() == ()
    crowd.assert_nobody_too_many()


def assert_nothing_is_lost(project: GpuProject) -> None:
    machine = standing(project, "-p", GPUS)
    assert machine["slots"]["used"] == 0
    assert [gpu["vram_free_mb"] for gpu in machine["gpus"]] == [24576] * GPUS
    listed = json.loads(project.run("list", "--json").out)
    assert {record["status"] for record in listed} <= {"lost", "stopped", "failed"}
    started = [project.start(*WORDS) for _ in range(GPUS)]
    wait_for(
        lambda: [record["status"] for record in project.records()].count("running") == GPUS,
        "every GPU to be given out again",
    )
    assert standing(project, "-p", GPUS)["slots"]["used"] == GPUS
    for process in started:
        process.send_signal(signal.SIGTERM)
    assert [project.end(process).code for process in started] == [143] * GPUS


def test_members_killed_at_random_leak_nothing_and_let_nobody_in_twice(project: GpuProject) -> None:
    kill_many(project, 10, seed=1)
    assert_nothing_is_lost(project)


@pytest.mark.soak
def test_a_hundred_members_killed_at_random_leak_nothing(project: GpuProject) -> None:
    kill_many(project, 100, seed=2)
    assert_nothing_is_lost(project)
