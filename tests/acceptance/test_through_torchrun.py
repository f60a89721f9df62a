"""A script that PyTorch's real torchrun starts: every rank is paused, continued and ended, in the right interpreter."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from governor_kit import moments
from kit import Project, wait_for

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(
        find_spec("torch") is None, reason="PyTorch is not installed in the tests' interpreter"
    ),
    pytest.mark.skipif(
        not Path(sys.executable).with_name("torchrun").exists(),
        reason="no torchrun beside the tests' interpreter",
    ),
]

RANKS = 2
# Each step is an all-reduce, so that a rank which stands still alone would hold the others up.
TRAINING = """
    import json, os, sys, time
    from datetime import timedelta

    import torch
    import torch.distributed as ranks

    ranks.init_process_group("gloo", timeout=timedelta(seconds=8))
    rank = ranks.get_rank()
    told = {"rank": rank, "pid": os.getpid(), "prefix": sys.prefix, "session": os.getsid(0)}
    with open(f"rank-{rank}.json~", "w") as file:
        json.dump(told, file)
    os.rename(f"rank-{rank}.json~", f"rank-{rank}.json")
    step = 0
    while True:
        total = torch.ones(1)
        ranks.all_reduce(total)
        assert total.item() == ranks.get_world_size()
        step += 1
        if rank == 0:
            print(json.dumps({"step": step}), flush=True)
        with open(f"ticks-{rank}", "a") as file:
            file.write(f"{time.monotonic()}\\n")
        time.sleep(0.02)
"""


@pytest.fixture
def torchrun(project: Project) -> Project:
    project.write("train.py", TRAINING)
    return project


def through() -> tuple[str, ...]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return ("--through", f"torchrun --nproc-per-node {RANKS} --master-port {port}")


def told(project: Project) -> list[dict[str, Any]]:
    """What every rank told of itself, once all are there and have stepped."""
    files = [project.folder / f"rank-{rank}.json" for rank in range(RANKS)]
    wait_for(lambda: all(file.exists() for file in files), "every rank")
    wait_for(
        lambda: all(moments(project, "ticks", str(rank)) for rank in range(RANKS)), "every rank's first step"
    )
    return [json.loads(file.read_text()) for file in files]


def steps(project: Project) -> list[int]:
    return [len(moments(project, "ticks", str(rank))) for rank in range(RANKS)]


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def is_there(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


def test_pause_and_stop_reach_every_rank(torchrun: Project) -> None:
    running = torchrun.start("run", "train.py", *through(), "--set", "monitorSeconds=0.1")
    ranks = told(torchrun)
    assert {rank["prefix"] for rank in ranks} == {sys.prefix}
    assert len({rank["session"] for rank in ranks}) == RANKS, "torchrun gives its ranks sessions of their own"

    assert torchrun.run("pause", "last").code == 0
    torchrun.wait_for_state("paused")
    wait_for(lambda: all(is_stopped(rank["pid"]) for rank in ranks), "every rank to stand still")
    before, began = steps(torchrun), time.monotonic()
    wait_for(lambda: time.monotonic() > began + 1, "a while")
    assert steps(torchrun) == before
    assert torchrun.run("unpause", "last").code == 0
    wait_for(lambda: min(steps(torchrun)) > max(before) + 5, "every rank to go on")

    torchrun.machine(ram_free_gb=0.01)
    torchrun.wait_for_state("paused")
    wait_for(lambda: all(is_stopped(rank["pid"]) for rank in ranks), "every rank to stand still again")
    before = steps(torchrun)
    torchrun.machine()
    wait_for(lambda: min(steps(torchrun)) > max(before), "every rank to go on again")

    assert torchrun.run("stop", "last").code == 0
    assert torchrun.end(running).code == 143
    assert torchrun.record()["status"] == "stopped"
    assert not any(is_there(rank["pid"]) for rank in ranks)
    assert torchrun.record()["lastStep"] > 5


def test_a_stop_ends_every_rank_even_one_that_will_not_end(torchrun: Project) -> None:
    source = torchrun.folder / "train.py"
    deaf = "import signal\nfor number in (signal.SIGINT, signal.SIGTERM):\n    signal.signal(number, signal.SIG_IGN)\n"
    text = source.read_text()
    head, loop, rest = text.partition("step = 0\n")
    source.write_text(
        head + "if rank == 1:\n    " + deaf.replace("\n", "\n    ").rstrip() + "\n" + loop + rest
    )
    running = torchrun.start("run", "train.py", *through(), "--stop-grace", 1, "-m", 10)
    ranks = told(torchrun)
    asked = time.monotonic()
    assert torchrun.run("stop", "last").code == 0
    assert torchrun.end(running).code == 143
    assert time.monotonic() - asked < 1 + 5.5 + 1.5  # grace, the ladder's last rung, the commands themselves
    assert not any(is_there(rank["pid"]) for rank in ranks)
