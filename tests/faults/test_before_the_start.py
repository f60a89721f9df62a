"""Between admission and the start of the script: a kill or a stop there loses no record and leaves nothing."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from keeper_client import stat
from kit import Project, wait_for
from zoo_kit import assert_nothing_is_held

# Ends once the file `go` is there.
HOLDING = """
    import pathlib, time
    while not pathlib.Path("go").exists():
        time.sleep(0.01)
"""
FAILING = "import sys; sys.exit(3)"
# What is made ready takes until the file `ready` is there.
PREPARING = """
    import pathlib, time
    from backprop_core import hookimpl
    @hookimpl
    def backprop_environment(request):
        pathlib.Path("preparing").touch()
        while not pathlib.Path("ready").exists():
            time.sleep(0.01)
        return {}
"""


def waiting(project: Project, *words: str) -> subprocess.Popen[bytes]:
    """Start a command that waits for the one slot, which is free when the file `go` is there."""
    project.write("hold.py", HOLDING)
    project.start("run", "hold.py", "-p", 1, "-n", "holder")
    project.wait_for_state("running", "holder")
    process = project.start(*words, "-p", 1, "--wait", 5)
    project.wait_for_state("queued", "it")
    return process


def keeper_of(agent: int) -> int:
    """The keeper as a child of the supervisor: it waits for its plan, and nothing names it yet."""

    def find() -> int | None:
        with suppress(OSError):
            for child in Path(f"/proc/{agent}/task/{agent}/children").read_text().split():
                if b"keeper.main" in Path(f"/proc/{child}/cmdline").read_bytes():
                    return int(child)
        return None

    return wait_for(find, "the keeper") or 0


def test_a_resumed_run_that_is_killed_while_it_waits_keeps_the_attempts_it_made(project: Project) -> None:
    project.write("train.py", FAILING)
    project.run("run", "train.py", "-n", "it")
    before = project.record("it")["attempts"]
    process = waiting(project, "resume", "it")
    process.kill()
    process.wait()
    assert project.run("list").code == 0
    record = project.record("it")
    assert (record["status"], record["attempts"]) == ("lost", before)
    project.write("go", "")
    assert project.run("resume", "it", "--wait", 1).code == 3
    assert [attempt["status"] for attempt in project.record("it")["attempts"]] == ["failed", "failed"]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.soak)]
)
def test_a_run_that_is_stopped_after_its_wait_and_before_its_start_is_as_it_was(
    project: Project, number: int, code: int
) -> None:
    project.write("train.py", FAILING)
    project.run("run", "train.py", "-n", "it")
    before = project.record("it")
    project.write("backprop_plugins.py", PREPARING)
    project.write("ready", "")
    process = waiting(project, "resume", "it")
    (project.folder / "ready").unlink()
    (project.folder / "preparing").unlink()
    project.write("go", "")
    wait_for((project.folder / "preparing").exists, "what the script needs to be made ready")
    process.send_signal(number)
    assert project.end(process).code == code
    after = project.record("it")
    assert [after[name] for name in ("status", "reason", "attempts", "endTime")] == [
        before[name] for name in ("status", "reason", "attempts", "endTime")
    ]
    assert_nothing_is_held(project)


@pytest.mark.parametrize(
    "victims",
    [
        ["keeper"],
        *(pytest.param(names, marks=pytest.mark.soak) for names in (["backprop"], ["keeper", "backprop"])),
    ],
    ids="-and-".join,
)
def test_a_kill_before_the_keeper_has_its_plan_leaves_nobody_and_no_slot(
    project: Project, victims: Sequence[str]
) -> None:
    project.write("train.py", "")
    project.write("backprop_plugins.py", PREPARING)
    process = project.start("run", "train.py", "-p", 1, "-n", "it")
    keeper = keeper_of(process.pid)
    wait_for((project.folder / "preparing").exists, "what the script needs to be made ready")
    pids = {"keeper": keeper, "backprop": process.pid}
    for victim in victims:
        os.kill(pids[victim], signal.SIGKILL)
    project.write("ready", "")
    process.wait(10)
    wait_for(lambda: stat(keeper)[:1] in ([], ["Z"]), "the keeper to leave", 5)
    assert_nothing_is_held(project)
    if victims == ["keeper"]:
        assert project.record("it")["reason"] == "the keeper process did not start"
    assert project.run("run", "train.py", "-p", 1).code == 0


def test_a_keeper_that_stands_still_before_its_plan_keeps_nobody_waiting(project: Project) -> None:
    project.write("train.py", "")
    project.write("backprop_plugins.py", PREPARING)
    process = project.start("run", "train.py", "-n", "it")
    keeper = keeper_of(process.pid)
    wait_for((project.folder / "preparing").exists, "what the script needs to be made ready")
    os.kill(keeper, signal.SIGSTOP)
    process.send_signal(signal.SIGINT)
    assert project.end(process, 10).code == 130
    assert stat(keeper) == []
    assert_nothing_is_held(project)
