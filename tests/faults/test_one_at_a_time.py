"""One slot, one run: nobody is let in beside the processes of another, whoever is killed or stopped meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from keeper_client import stat
from kit import Project, command, wait_for
from terminal import CTRL_Z, Terminal
from zoo_kit import Cage, end_all

from backprop_core.holding import holder_of
from backprop_core.slots import Slots, host_folder

# Ends once the file `go` is there.
HOLDING = """
    import os, pathlib, time
    print("ready", os.getpid(), flush=True)
    while not pathlib.Path("go").exists():
        time.sleep(0.01)
"""
# Tells which of the processes that it is given are alive.
LOOKING = """
    import pathlib, sys
    for pid in sys.argv[1:]:
        stat = pathlib.Path("/proc", pid, "stat")
        if stat.exists() and stat.read_text().rpartition(")")[2].split()[0] not in "ZX":
            print("alive", pid)
"""


def state_of(pid: int) -> str:
    return (stat(pid) or [""])[0]


def stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGSTOP)
    wait_for(lambda: state_of(process.pid) == "T", "the supervisor to stand still")


def script_of(project: Project, reference: str) -> int:
    log = project.run_folder(reference) / "output.log"
    wait_for(lambda: log.exists() and b"\n" in log.read_bytes(), "the script to be ready")
    return int(log.read_text().split()[1])


def keeper_of(cage: Cage) -> int:
    keeper = cage.keeper()
    assert keeper is not None
    return keeper


def test_what_outlives_its_keeper_keeps_the_slot_until_it_is_ended(project: Project) -> None:
    project.write("short.py", "")
    cage = Cage(project, "zoo")
    cage.wait()
    keeper = keeper_of(cage)
    stop(cage.process)
    os.kill(keeper, signal.SIGKILL)
    wait_for(lambda: state_of(keeper) == "Z", "the keeper to die")
    assert cage.animals()
    refused = project.run("run", "short.py", "-p", 1)
    assert (refused.code, "slots: 1 of 1 in use (zoo)" in refused.err) == (75, True)
    assert cage.animals()
    cage.process.send_signal(signal.SIGCONT)
    end_all([cage])
    assert cage.animals() == []
    assert project.run("run", "short.py", "-p", 1).code == 0


def test_what_outlives_keeper_and_supervisor_is_ended_before_the_next_script_starts(project: Project) -> None:
    project.write("look.py", LOOKING)
    cage = Cage(project, "zoo")
    cage.wait()
    cage.kill(("keeper", "backprop"))
    end_all([cage])
    left = cage.animals()
    assert left
    done = project.run("run", "look.py", "-p", 1, "--", *left)
    assert (done.code, done.out) == (0, "")
    assert "that run zoo had left behind" in done.err
    assert cage.animals() == []
    assert project.run("run", "look.py", "-p", 1).err.count("left behind") == 0


def test_a_run_keeps_its_slot_until_its_end_is_recorded(project: Project) -> None:
    project.write("train.py", HOLDING)
    project.write("short.py", "")
    first = project.start("run", "train.py", "-p", 1, "-n", "first")
    project.wait_for_state("running", "first")
    script = script_of(project, "first")
    stop(first)
    project.write("go", "")
    wait_for(lambda: state_of(script) in ("", "Z", "X"), "the script to end")
    assert project.run("run", "short.py", "-p", 1).code == 75
    second = project.start("run", "short.py", "-p", 1, "--wait", 1, "-n", "second")
    project.wait_for_state("queued", "second")
    first.send_signal(signal.SIGCONT)
    assert [project.end(process).code for process in (first, second)] == [0, 0]
    assert project.record("first")["endTime"] <= project.record("second")["attempts"][0]["start"]


def test_a_supervisor_that_ctrl_z_has_stopped_keeps_no_slot_of_a_run_that_is_over(project: Project) -> None:
    project.write("train.py", HOLDING)
    project.settings(max_pause_minutes=0.02, stop_grace_seconds=0.2)
    env = {**project.environ(), "PS1": "$ "}
    with Terminal(["bash", "--norc", "--noprofile", "-i"], cwd=project.folder, env=env) as shell:
        shell.press(" ".join([*command(), "run", "train.py", "--plain", "-n", "it"]) + "\n")
        shell.wait_for("ready")
        shell.press(CTRL_Z)
        project.wait_for_state("paused", "it")
        shell.wait_for("Stopped")
        slots = Slots(host_folder(project.home))
        assert len(slots.holders()) == 1
        wait_for(lambda: slots.holders() == (), "the keeper to end the run")
        assert project.record("it")["status"] == "paused"
        shell.press("fg\n")
        project.wait_for_state("stopped", "it")
        shell.press("exit\n")
        shell.end()


def test_a_slot_is_not_taken_for_another_file_of_its_number(tmp_path: Path) -> None:
    slot = Slots(tmp_path).take("it", None, 1)
    assert slot is not None
    os.close(slot.fd)  # as a plugin does that closes what is not its own
    mine = tmp_path / "mine"
    descriptor = os.open(mine, os.O_RDWR | os.O_CREAT, 0o600)
    assert descriptor == slot.fd
    os.write(descriptor, b"words\n")
    slot.give_back()
    assert mine.read_bytes() == b"words\n"
    os.close(descriptor)


# Forks somebody who stays until the file `leave` is there, and holds what the supervisor had open.
FORKING = """
    import os, pathlib, time
    from backprop_core import hookimpl
    @hookimpl
    def backprop_run_started(run):
        if os.fork() == 0:
            pathlib.Path("forked").touch()
            while not pathlib.Path("leave").exists():
                time.sleep(0.01)
            os._exit(0)
"""


@pytest.mark.parametrize("is_killed", [False, True], ids=["ended", "killed"])
def test_whom_a_plugin_has_forked_keeps_neither_a_run_nor_its_slot(
    project: Project, *, is_killed: bool
) -> None:
    project.write("train.py", HOLDING)
    project.write("short.py", "")
    project.write("backprop_plugins.py", FORKING)
    running = project.start("run", "train.py", "-n", "it", "-p", 1, "--stop-grace", "0.1")
    project.wait_for_state("running", "it")
    script = script_of(project, "it")
    wait_for((project.folder / "forked").exists, "somebody to be forked")
    if is_killed:
        running.kill()
    else:
        project.write("go", "")
    running.wait(10)
    wait_for(lambda: state_of(script) in ("", "Z", "X"), "the script to be ended", 10)
    done = project.run("run", "short.py", "-p", 1, "--wait", "0.1", "--no-local-plugins")
    assert (done.code, not is_killed or project.run("list").code == 0) == (0, True)
    assert project.record("it")["status"] == ("lost" if is_killed else "completed")
    assert is_killed or holder_of(project.run_folder("it")) is None, "it may be resumed, and removed"
    project.write("leave", "")
