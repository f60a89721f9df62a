"""Stopping and pausing: keys at a terminal, signals, requests from elsewhere, and ends nobody asked for."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from keeper_client import is_running, processes_of, signs, stat
from kit import Project, command, wait_for
from terminal import CTRL_C, CTRL_Z, Terminal

# Says what it is sent, and minds none but those it is told to mind.
MINDING = """
    import json, os, pathlib, signal, sys, time
    def mind(number, _):
        print("minds", signal.Signals(number).name, flush=True)
        pathlib.Path("model.bin").write_text("weights")
        print(json.dumps({"event": "checkpoint_saved", "path": "model.bin"}), flush=True)
        sys.exit(0)
    for name in ("SIGINT", "SIGTERM"):
        ignore = lambda number, _: print("passes over", signal.Signals(number).name, flush=True)
        signal.signal(getattr(signal, name), mind if name in sys.argv else ignore)
    print("ready", os.getpid(), flush=True)
    while True:
        time.sleep(0.02)
"""

PAUSED_S = 0.5


def at_a_terminal(project: Project, *words: str) -> Terminal:
    return Terminal([*command(), "run", "train.py", *words], cwd=project.folder, env=project.environ())


def state_of(pid: int) -> str:
    """The letter that /proc has for it: T is stopped; empty when it is gone."""
    return (stat(pid) or [""])[0]


def script_of(project: Project) -> int:
    """The process of the script, which says "ready PID"."""
    log = project.run_folder() / "output.log"
    wait_for(lambda: log.exists() and "\n" in log.read_text(), "the script to be ready")
    return int(log.read_text().split()[1])


def test_ctrl_c_stops_gracefully_and_exits_130(project: Project) -> None:
    project.write("train.py", MINDING)
    with at_a_terminal(project, "-n", "it", "--", "SIGINT") as terminal:
        terminal.wait_for("ready")
        terminal.press(CTRL_C)
        assert terminal.end() == 130
    record = project.record()
    assert (record["status"], record["reason"]) == ("stopped", "Ctrl-C")
    assert record["checkpoints"] == [str(project.folder / "model.bin")]
    assert "backprop: go on with: backprop resume it" in terminal.shown


def test_the_second_ctrl_c_terminates_and_the_third_kills(project: Project) -> None:
    project.write("train.py", MINDING)
    with at_a_terminal(project, "--stop-grace", "60", "--", "SIGTERM") as terminal:
        terminal.wait_for("ready")
        terminal.press(CTRL_C)
        terminal.wait_for("passes over SIGINT")
        terminal.press(CTRL_C)
        terminal.wait_for("minds SIGTERM")
        assert terminal.end() == 130
    with at_a_terminal(project, "--stop-grace", "60", "--", "nothing") as terminal:
        terminal.wait_for("ready")
        for heard in ("passes over SIGINT", "passes over SIGTERM"):
            terminal.press(CTRL_C)
            terminal.wait_for(heard)
        pressed_s = time.monotonic()
        terminal.press(CTRL_C)
        assert terminal.end() == 130
        assert (
            time.monotonic() - pressed_s < 4
        )  # sooner than the ladder, whose last rung comes 5 s after SIGTERM
    assert [record["status"] for record in project.records()] == ["stopped", "stopped"]
    assert project.processes() == []


def test_hammering_ctrl_c_loses_neither_the_record_nor_the_code(project: Project) -> None:
    project.write("train.py", MINDING)
    with at_a_terminal(project, "--", "SIGINT") as terminal:
        terminal.wait_for("ready")
        while terminal.process.poll() is None:
            terminal.press(CTRL_C)
            terminal.look(0.002)
        assert terminal.end() == 130
    assert "Traceback" not in terminal.shown
    assert project.record()["status"] == "stopped"


@pytest.mark.parametrize("options", [[], ["--plain"]], ids=["live", "plain"])
def test_ctrl_z_pauses_the_run_and_fg_continues_it(project: Project, options: list[str]) -> None:
    project.write("train.py", MINDING)
    env = {**project.environ(), "PS1": "$ "}
    with Terminal(["bash", "--norc", "--noprofile", "-i"], cwd=project.folder, env=env) as shell:
        words = [*command(), "run", "train.py", *options, "--", "SIGINT"]
        shell.press(" ".join(words) + "\n")
        project.wait_for_state("running")
        pid = script_of(project)
        shell.press(CTRL_Z)
        record = project.wait_for_state("paused")
        assert record["reason"] == "Ctrl-Z"
        wait_for(lambda: state_of(pid) == "T", "the script to be stopped")
        shell.wait_for("Stopped")
        shell.press("fg\n")
        project.wait_for_state("running")
        wait_for(lambda: state_of(pid) in "SR", "the script to go on")
        shell.press(CTRL_C)
        project.wait_for_state("stopped")
        shell.press("exit $?\n")
        assert shell.end() == 130
    ((pause,),) = (attempt["pauses"] for attempt in project.record()["attempts"])
    assert pause["cause"] == "Ctrl-Z"
    assert pause["begin"] <= pause["end"]


@pytest.mark.parametrize(("request_", "state"), [("stop", "stopped"), ("unpause", "running")])
def test_a_run_that_ctrl_z_suspended_hears_what_is_asked_from_elsewhere(
    project: Project, request_: str, state: str
) -> None:
    project.write("train.py", MINDING)
    with at_a_terminal(project, "--", "SIGINT") as terminal:
        terminal.wait_for("ready")
        terminal.press(CTRL_Z)
        project.wait_for_state("paused")
        wait_for(lambda: state_of(terminal.process.pid) == "T", "backprop to be suspended")
        assert project.run(request_, "last").code == 0
        project.wait_for_state(state)


@pytest.mark.parametrize("options", [[], ["--plain"]], ids=["live", "plain"])
def test_closing_the_terminal_stops_the_run_gracefully(project: Project, options: list[str]) -> None:
    project.write("train.py", MINDING)
    with at_a_terminal(project, *options, "--", "SIGINT") as terminal:
        terminal.wait_for("ready")
        terminal.close()
        assert terminal.process.wait(20) == 128 + signal.SIGHUP
    record = project.record()
    assert (record["status"], record["reason"]) == ("stopped", "the terminal was closed")
    assert record["checkpoints"] == [str(project.folder / "model.bin")]


def test_nohup_runs_on_without_its_terminal(project: Project) -> None:
    project.write("train.py", MINDING)
    ignoring = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *command(), "run", "train.py", "--", "SIGINT"]
    with Terminal(ignoring, cwd=project.folder, env=project.environ()) as terminal:
        terminal.wait_for("ready")
        pid = script_of(project)
        terminal.close()
        terminal.process.send_signal(signal.SIGHUP)
        assert project.call("pause", "last").code == 0  # which would end with the run, were it about to
        project.wait_for_state("paused")
        wait_for(lambda: state_of(pid) == "T", "the script to be stopped")
        project.call("stop", "last")
        assert terminal.process.wait(20) == 143
    assert project.record()["status"] == "stopped"


def test_sigterm_is_a_graceful_stop_and_exits_143(project: Project) -> None:
    project.write("train.py", MINDING)
    running = project.start("run", "train.py", "--", "SIGINT")
    project.wait_for_state("running")
    script_of(project)
    running.send_signal(signal.SIGTERM)
    done = project.end(running)
    assert done.code == 143
    assert "minds SIGINT" in done.out
    assert (project.record()["status"], project.record()["reason"]) == ("stopped", "SIGTERM")


def test_stop_pause_and_unpause_work_from_another_process(project: Project) -> None:
    project.write("train.py", MINDING)
    running = project.start("run", "train.py", "-n", "it", "--", "SIGINT")
    project.wait_for_state("running")
    pid = script_of(project)
    assert project.run("pause", "it").code == 0
    assert project.wait_for_state("paused")["reason"] == "paused by `backprop pause`"
    wait_for(lambda: state_of(pid) == "T", "the script to be stopped")
    assert project.run("unpause", "it").code == 0
    project.wait_for_state("running")
    wait_for(lambda: state_of(pid) in "SR", "the script to go on")
    project.run("pause", "it")
    project.wait_for_state("paused")
    stopped = project.run("stop", "it")
    assert (stopped.code, stopped.out) == (0, "")
    done = project.end(running)
    assert done.code == 143
    assert "minds SIGINT" in done.out
    record = project.record()
    assert (record["status"], record["reason"]) == ("stopped", "backprop stop")
    assert [pause["end"] is not None for pause in record["attempts"][0]["pauses"]] == [True, True]


def test_a_pause_does_not_last_for_ever(project: Project) -> None:
    project.write("train.py", MINDING)
    running = project.start("run", "train.py", "--max-pause", "0.02", "--", "SIGINT")
    project.wait_for_state("running")
    project.call("pause", "last")
    done = project.end(running)
    record = project.record()
    assert done.code == 75
    assert (record["status"], record["reason"]) == ("stopped", "paused for longer than maxPauseMinutes")
    assert [pause["cause"] for pause in record["attempts"][0]["pauses"]] == ["paused by `backprop pause`"]


def test_a_pause_does_not_count_and_the_script_can_tell(project: Project) -> None:
    script = """
        import time
        from backprop_core.script import time_left
        while True:
            print(time.monotonic() + time_left(), flush=True)
            time.sleep(0.02)
    """
    project.write("train.py", script)
    running = project.start("run", "train.py")
    project.wait_for_state("running")
    log = project.run_folder() / "output.log"
    wait_for(lambda: log.exists() and "\n" in log.read_text(), "the script to know its end")
    project.call("pause", "last")
    project.wait_for_state("paused")
    time.sleep(PAUSED_S)
    project.call("unpause", "last")
    project.wait_for_state("running")
    first, away_s = float(log.read_text().split()[0]), 0.9 * PAUSED_S
    wait_for(lambda: float(log.read_text().splitlines()[-2]) > first + away_s, "the end to move away")
    running.send_signal(signal.SIGTERM)
    project.end(running)


def test_a_reader_that_leaves_does_not_disturb_the_training(project: Project) -> None:
    script = """
        for number in range(20_000):
            print("line", number)
        print('{"step": 20000}')
    """
    project.write("train.py", script)
    for pipe in ("|", "2>&1 |"):
        shell = ["bash", "-c", f'set -o pipefail; "$@" {pipe} head -1', "bash"]
        done = project.run("run", "train.py", before=shell)
        assert (done.code, done.out) == (0, "line 0\n")
        assert (project.record()["status"], project.record()["lastStep"]) == ("completed", 20_000)
        assert (project.run_folder() / "output.log").read_bytes().count(b"\n") == 20_001


@pytest.mark.parametrize("way", ["stop", "SIGTERM", "terminal"])
def test_a_reader_that_stands_still_keeps_nobody_from_stopping_the_run(project: Project, way: str) -> None:
    script = """
        import sys
        try:
            for number in range(10_000_000):
                print("line", number)
        except KeyboardInterrupt:
            sys.stdout.write("x" * 500_000 + "saved\\n")
    """
    project.write("train.py", script)
    if way == "terminal":
        with at_a_terminal(project) as terminal:
            terminal.wait_for("line 1000")
            wait_for(lambda: stands_still(project), "nothing to move on")
            project.call("stop", "last")
            record = project.wait_for_state("stopped")
            terminal.end()
    else:
        running = project.start("run", "train.py")
        project.wait_for_state("running")
        wait_for(lambda: stands_still(project), "nothing to move on")
        if way == "stop":
            project.call("stop", "last")
        else:
            running.send_signal(signal.SIGTERM)
        record = project.wait_for_state("stopped")
        done = project.end(running)
        assert done.code == 143
        assert done.out.endswith("saved\n")
        assert done.raw == (project.run_folder() / "output.log").read_bytes()
    assert record["reason"] in ("backprop stop", "SIGTERM")
    assert (project.run_folder() / "output.log").read_bytes().endswith(b"saved\n")


def stands_still(project: Project) -> bool:
    """Whether nothing has come into the log for a while, though there is something in it."""
    log = project.run_folder() / "output.log"
    before = log.stat().st_size if log.exists() else 0
    time.sleep(0.3)
    return before > 0 and log.stat().st_size == before


def test_nobody_who_could_hear_a_pause_is_no_reason_to_end_the_run(project: Project) -> None:
    project.write("train.py", MINDING)
    shell = ["bash", "-c", '"$@" 2>&1 | head -1; sleep 60', "bash"]
    project.start("run", "train.py", "--", "SIGINT", before=shell)
    project.wait_for_state("running")
    pid = script_of(project)
    for request, state in (("pause", "paused"), ("unpause", "running"), ("pause", "paused")):
        project.run(request, "last")
        project.wait_for_state(state)
    project.call("stop", "last")
    record = project.wait_for_state("stopped")
    assert (record["reason"], len(record["attempts"][0]["pauses"])) == ("backprop stop", 2)
    assert not is_running(pid)


def gone_after(folder: Path, since_s: float) -> float:
    """How long after the moment nobody was left of those that were given the folder."""
    wait_for(lambda: not processes_of(folder), "everybody to be gone")
    return time.monotonic() - since_s


def test_who_minds_no_signal_is_gone_within_the_grace_and_5_and_a_half_seconds(project: Project) -> None:
    """At the end of the time box, and when backprop is killed while the run goes on and while it is paused."""
    stubborn, grace_s = project.child("stubborn"), 0.5
    started = {}
    for name, minutes in (("boxed", "0.04"), ("killed", "5"), ("paused", "5")):
        (project.folder / name).mkdir()
        words = ["-n", name, "-m", minutes, "--stop-grace", grace_s, "-p", "3", "--", project.folder / name]
        started[name] = project.start("run", stubborn, *words)
    for name in started:
        wait_for(lambda name=name: len(signs(project.folder / name, "ready")) == 5, f"{name} to be ready")  # type: ignore[misc]
    project.call("pause", "paused")
    project.wait_for_state("paused", "paused")
    killed_s = time.monotonic()
    for name in ("killed", "paused"):
        started[name].send_signal(signal.SIGKILL)
    for name in ("killed", "paused"):
        assert gone_after(project.folder / name, killed_s) < grace_s + 5.5 + 1  # 1 s for a busy machine
    assert project.end(started["boxed"]).code == 0
    boxed = project.record("boxed")
    assert boxed["status"] == "timeboxed"
    assert boxed["endTime"] - boxed["attempts"][0]["start"] < (2.4 + grace_s + 5.5 + 1) * 1000
    assert processes_of(project.folder / "boxed") == []
    assert project.call("list", "--state", "lost", "--json").out.count('"id"') == 2
    project.write("train.py", "")
    assert project.run("run", "train.py", "-p", "1").code == 0, "a slot was left behind"


def test_ctrl_c_in_the_first_moments_leaves_no_run_behind(project: Project) -> None:
    """It comes as soon as the record says that the run is going on, which is before the script starts."""
    project.write("train.py", MINDING)
    for _ in range(4):
        starting = project.start("run", "train.py", "--", "SIGINT")
        while not project.records() or project.record()["status"] != "running":
            assert starting.poll() is None
        starting.send_signal(signal.SIGINT)
        assert project.end(starting).code == 130
    assert [record["status"] for record in project.records()] == ["stopped"] * 4
    assert project.processes() == []


def test_a_run_without_standard_streams_is_a_run_like_any_other(project: Project) -> None:
    project.write("train.py", "print('hello')")
    done = project.run("run", "train.py", before=["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"])
    assert done == (0, "", "")
    assert (project.run_folder() / "output.log").read_text() == "hello\n"
    assert project.record()["status"] == "completed"
