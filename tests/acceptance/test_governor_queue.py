"""Who waits for a GPU gets one in order of arrival, soon after one is free, and sees what stands in the way."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from governor_kit import GpuProject, moments, standing
from kit import command, wait_for
from terminal import CTRL_C, Terminal

FULL = ("-g", "20", "-p", "8")  # two such runs do not fit on one of the scripted GPUs
HOLDING = """
    import os, pathlib, time

    def note(what):
        with open(f"{what}-{os.environ['BACKPROP_RUN_ID']}", "a") as file:
            file.write(f"{time.monotonic()}\\n")

    note("started")
    while not pathlib.Path(f"end-{os.environ['BACKPROP_RUN_ID']}").exists():
        time.sleep(0.01)
    note("ended")
"""


@pytest.fixture
def project(tmp_path: Path) -> Iterator[GpuProject]:
    made = GpuProject(tmp_path)
    made.write("hold.py", HOLDING)
    yield made
    made.clean_up()


def in_state(project: GpuProject, state: str) -> list[dict[str, Any]]:
    return [record for record in project.records() if record["status"] == state]


def wait_for_counts(project: GpuProject, running: int, queued: int) -> None:
    wait_for(
        lambda: (len(in_state(project, "running")), len(in_state(project, "queued"))) == (running, queued),
        f"{running} to run and {queued} to wait",
    )


def queue(project: GpuProject) -> list[str]:
    """The ids of those who wait, in order of arrival."""
    (folder,) = (project.home / "hosts").iterdir()
    tickets = sorted((folder / "queue").iterdir(), key=lambda ticket: int(ticket.name))
    return [json.loads(ticket.read_text())["run_id"] for ticket in tickets]


def end(project: GpuProject, *run_ids: str) -> None:
    for run_id in run_ids:
        project.write(f"end-{run_id}", "")


def started_at(project: GpuProject, run_id: str) -> float:
    return wait_for(lambda: moments(project, "started", run_id), f"{run_id} to start")[0]


def test_of_eight_runs_on_four_gpus_four_run_and_each_waiter_starts_within_a_second_of_a_slots_end(
    project: GpuProject,
) -> None:
    project.smi.set([{"index": index} for index in range(4)])
    processes = [project.start("run", "hold.py", *FULL, "--wait", 5) for _ in range(8)]
    wait_for_counts(project, 4, 4)
    first = in_state(project, "running")
    assert sorted(record["gpu"]["index"] for record in first) == [0, 1, 2, 3]
    assert standing(project, *FULL)["slots"] == {"used": 4, "max": 8}
    wait_for(lambda: len(queue(project)) == 4, "four in the queue")
    in_order = queue(project)
    assert sorted(in_order) == sorted(record["id"] for record in in_state(project, "queued"))

    one, *others = [record["id"] for record in first]
    end(project, one)  # a slot is freed: the first in the queue has it
    freed = started_at(project, in_order[0]) - moments(project, "ended", one)[0]
    assert not any(moments(project, "started", waiter) for waiter in in_order[1:])
    end(project, *others)  # three at once: the others have them one after the other
    started = [started_at(project, waiter) for waiter in in_order[1:]]
    last_freed = max(moments(project, "ended", run_id)[0] for run_id in others)
    assert max(freed, *(at - last_freed for at in started)) < 1.0

    second = [project.record(run_id) for run_id in in_order]
    assert second == sorted(second, key=lambda record: int(record["attempts"][0]["start"]))
    assert sorted(record["gpu"]["index"] for record in second) == [0, 1, 2, 3]
    end(project, *in_order)
    assert [project.end(process).code for process in processes] == [0] * 8
    assert standing(project, *FULL)["slots"]["used"] == 0


def test_memory_that_the_driver_gives_back_late_is_found_soon_after(project: GpuProject) -> None:
    running = project.start("run", "hold.py", *FULL)
    holder = project.wait_for_state("running")["id"]
    project.smi.set([{"index": 0, "free": 4000}])
    waiting = project.start("run", "hold.py", *FULL, "--wait", 5, "-n", "patient")
    project.wait_for_state("queued", "patient")
    end(project, holder)
    assert project.end(running).code == 0
    time.sleep(0.3)  # the driver takes its time, in which the waiter looks in vain
    project.smi.set([{"index": 0}])
    given_back = time.monotonic()
    patient = project.wait_for_state("running", "patient")["id"]
    assert started_at(project, patient) - given_back < 1.0
    end(project, patient)
    assert project.end(waiting).code == 0


def test_a_waiter_on_a_terminal_sees_reasons_and_place_and_leaves_with_ctrl_c(project: GpuProject) -> None:
    running = project.start("run", "hold.py", *FULL, "-n", "holder")
    project.wait_for_state("running")
    before = project.start("run", "hold.py", *FULL, "--wait", 5, "-n", "before")
    project.wait_for_state("queued", "before")
    argv = [*command(), "run", "hold.py", *FULL, "--wait", "5", "-n", "shown"]
    with Terminal(argv, cwd=project.folder, env=project.environ()) as terminal:
        terminal.wait_for("waiting, place 2 of 2")
        terminal.wait_for("queue: 1 before this run")
        terminal.wait_for("GPU memory: GPU 0 has 4096 MB free, 20480 MB needed")
        before.send_signal(signal.SIGINT)
        assert project.end(before).code == 130
        terminal.wait_for("waiting, place 1 of 1")
        terminal.press(CTRL_C)
        assert terminal.end() == 130
    assert queue(project) == []
    assert [record["name"] for record in project.records()] == ["holder"]
    running.send_signal(signal.SIGTERM)
    project.end(running)


def test_a_waiter_in_a_pipe_says_once_why_it_waits_and_where(project: GpuProject) -> None:
    running = project.start("run", "hold.py", *FULL, "-n", "holder")
    holder = project.wait_for_state("running")["id"]
    waiting = project.start("run", "hold.py", *FULL, "--wait", 5, "-n", "patient")
    record = project.wait_for_state("queued", "patient")
    assert record["reason"] == "GPU memory: GPU 0 has 4096 MB free, 20480 MB needed"
    end(project, holder, record["id"])
    assert project.end(running).code == 0
    done = project.end(waiting)
    assert done.code == 0
    said = [line for line in done.err.splitlines() if "waiting" in line]
    assert said[0] == f"backprop: waiting (place 1 of 1): {record['reason']}"
    assert len(said) == len(set(said))


def test_status_on_a_terminal_draws_bars_and_watch_draws_them_again(project: GpuProject) -> None:
    running = project.start("run", "hold.py", *FULL, "-n", "holder")
    project.wait_for_state("running")
    argv = [*command(), "status", "--watch"]
    with Terminal(argv, cwd=project.folder, env=project.environ(), rows=40) as terminal:
        terminal.wait_for("a run may start now")
        shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.shown)
        for what in (
            "━━━━",
            "HOLDS A SLOT",
            "holder",
            "GPU 0: 20480 MB",
            "4096 MB",
            "40 °C",
            "✓ RAM: 64.0 GB",
        ):
            assert what in shown
        project.smi.set([{"index": 0, "temp": 91}])
        terminal.wait_for("91 °C")
        terminal.wait_for("no run starts now")
        terminal.press(CTRL_C)
        assert terminal.end() == 0
    running.send_signal(signal.SIGTERM)
    project.end(running)


def test_watch_in_a_pipe_prints_one_look_after_the_other(project: GpuProject) -> None:
    watching = project.start("status", "--watch")
    assert watching.stdout
    lines = iter(watching.stdout.readline, b"")
    assert [next(line for line in lines if line.startswith(b"verdict")) for _ in range(2)]
    watching.send_signal(signal.SIGINT)
    assert project.end(watching).code == 0


@pytest.mark.skipif(not os.access("/proc/pressure/cpu", os.R_OK), reason="the kernel tells no pressure")
def test_pressure_is_shown_where_the_kernel_tells_it(project: GpuProject) -> None:
    assert re.search(r"^pressure   cpu [\d.]+ %", project.run("status").out, re.MULTILINE)
