"""Signals and terminals, each as often as it takes to believe it: what a person presses reaches the run, and once.

The quick versions of what is only soaked here are in tests/acceptance/test_stopping.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import pytest
from figures import Figures
from keeper_client import stat
from kit import Project, command, wait_for
from terminal import CTRL_C, CTRL_Z, Terminal

TIMES = [1, pytest.param(20, marks=pytest.mark.soak)]
SOAK_TIMES = [pytest.param(20, marks=pytest.mark.soak)]
# Notes each signal in a file, and ends with those that it is told to mind.
NOTING = """
    import os, signal, sys, time
    def note(number, _):
        name = signal.Signals(number).name
        with open(f"heard-{os.environ['BACKPROP_RUN_ID']}", "a") as file:
            file.write(name + "\\n")
        print("heard", name, flush=True)
        if name in sys.argv:
            sys.exit(0)
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), note)
    print("ready", os.getpid(), flush=True)
    while True:
        time.sleep(0.02)
"""


@pytest.fixture
def noting(project: Project) -> Project:
    project.write("train.py", NOTING)
    return project


def at_a_terminal(project: Project, run_id: str, *minds: str) -> Terminal:
    words = ["run", "train.py", "--run-id", run_id, "--stop-grace", "60", "--plain", "--", *minds]
    return Terminal([*command(), *words], cwd=project.folder, env=project.environ())


def heard(project: Project, run_id: str) -> list[str]:
    file = project.folder / f"heard-{run_id}"
    return file.read_text().split() if file.exists() else []


def script_of(project: Project, run_id: str) -> int:
    log = project.home / "runs" / run_id / "output.log"
    wait_for(lambda: log.exists() and b"\n" in log.read_bytes(), "the script to be ready")
    return int(log.read_text().split()[1])


def state_of(pid: int) -> str:
    return (stat(pid) or [""])[0]


@pytest.mark.parametrize("times", SOAK_TIMES)
@pytest.mark.parametrize(
    ("presses", "expected"),
    [(1, ["SIGINT"]), (2, ["SIGINT", "SIGTERM"]), (3, ["SIGINT", "SIGTERM"])],
    ids=["once", "twice", "three times"],
)
def test_each_ctrl_c_is_one_rung_and_reaches_the_script_once(
    noting: Project, figures: Figures, times: int, presses: int, expected: list[str]
) -> None:
    """INT, TERM, KILL."""
    minds = expected[-1] if presses < 3 else "nothing"
    for number in range(times):
        run_id = f"run-{number}"
        with at_a_terminal(noting, run_id, minds) as terminal:
            terminal.wait_for("ready")
            for name in expected:
                terminal.press(CTRL_C)
                terminal.wait_for(f"heard {name}")
            if presses == 3:
                terminal.press(CTRL_C)
            assert terminal.end() == 130
        assert heard(noting, run_id) == expected
        assert noting.record(run_id)["status"] == "stopped"
    assert noting.processes() == []
    figures(right=f"{times}/{times}")


@pytest.mark.parametrize("times", SOAK_TIMES)
def test_ctrl_z_pauses_and_fg_continues(noting: Project, figures: Figures, times: int) -> None:
    env = {**noting.environ(), "PS1": "$ "}
    for number in range(times):
        run_id = f"run-{number}"
        with Terminal(["bash", "--norc", "--noprofile", "-i"], cwd=noting.folder, env=env) as shell:
            words = [*command(), "run", "train.py", "--run-id", run_id, "--", "SIGINT"]
            shell.press(" ".join(words) + "\n")
            pid = script_of(noting, run_id)
            shell.press(CTRL_Z)
            noting.wait_for_state("paused", run_id)
            wait_for(lambda pid=pid: state_of(pid) == "T", "the script to be stopped")  # type: ignore[misc]
            shell.wait_for("Stopped")
            shell.press("fg\n")
            noting.wait_for_state("running", run_id)
            wait_for(lambda pid=pid: state_of(pid) in "SR", "the script to go on")  # type: ignore[misc]
            shell.press(CTRL_C)
            noting.wait_for_state("stopped", run_id)
            shell.press("exit\n")
            shell.end()
        assert heard(noting, run_id) == ["SIGINT"]
    assert noting.processes() == []
    figures(right=f"{times}/{times}")


@pytest.mark.parametrize("times", SOAK_TIMES)
def test_a_hang_up_stops_the_run_gracefully(noting: Project, figures: Figures, times: int) -> None:
    for number in range(times):
        run_id = f"run-{number}"
        with at_a_terminal(noting, run_id, "SIGINT") as terminal:
            terminal.wait_for("ready")
            terminal.close()
            assert terminal.process.wait(20) == 128 + signal.SIGHUP
        assert heard(noting, run_id) == ["SIGINT"]
        record = noting.record(run_id)
        assert (record["status"], record["reason"]) == ("stopped", "the terminal was closed")
    assert noting.processes() == []
    figures(right=f"{times}/{times}", orphans=0)


# What starts the command with SIGINT ignored, as a shell does with what it puts into the background, and with every
# signal blocked, as some batch systems do.
IGNORING = ["sh", "-c", '"$@" & wait $!', "sh"]
BLOCKING = [
    sys.executable,
    "-c",
    """import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
os.execvp(sys.argv[1], sys.argv[1:])""",
]


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("before", [IGNORING, BLOCKING], ids=["ignored", "blocked"])
def test_a_run_hears_sigint_whatever_it_was_started_with(
    noting: Project, figures: Figures, times: int, before: Sequence[str]
) -> None:
    """The supervisor itself hears SIGTERM, and its script SIGINT."""
    for number in range(times):
        run_id = f"run-{number}"
        words = ("run", "train.py", "--run-id", run_id, "--", "SIGINT")
        started = noting.start(*words, before=before, stdout=subprocess.DEVNULL)
        noting.wait_for_state("running", run_id)
        script_of(noting, run_id)
        wait_for(lambda run_id=run_id: noting.holder(run_id)["keeper"], "the keeper")  # type: ignore[misc]
        os.kill(noting.holder(run_id)["agent"], signal.SIGTERM)
        noting.end(started)
        assert heard(noting, run_id) == ["SIGINT"]
        assert noting.record(run_id)["reason"] == "SIGTERM"
    figures(right=f"{times}/{times}")


@pytest.mark.parametrize("times", SOAK_TIMES)
def test_a_script_that_somebody_stopped_still_saves_at_the_end_of_its_time_box(
    noting: Project, figures: Figures, times: int
) -> None:
    """Quick in tests/unit/test_keeper_ladder.py."""
    for number in range(times):
        run_id = f"run-{number}"
        running = noting.start("run", "train.py", "--run-id", run_id, "-m", "0.02", "--", "SIGINT")
        os.kill(script_of(noting, run_id), signal.SIGSTOP)
        assert noting.end(running).code == 0
        assert heard(noting, run_id) == ["SIGINT"]
        assert noting.record(run_id)["status"] == "timeboxed"
    figures(right=f"{times}/{times}")


def test_a_script_that_asks_the_terminal_gets_an_answer_and_is_not_stopped(project: Project) -> None:
    script = """
        import termios, time
        began = time.monotonic()
        try:
            input("who are you? ")
        except EOFError:
            print("\\nend of input")
        try:
            termios.tcsetattr(0, termios.TCSANOW, [0, 0, 0, 0, 0, 0, [b""] * 32])
        except termios.error:
            print("no terminal")
        try:
            open("/dev/tty")
        except OSError:
            print("none behind it")
        print(f"{time.monotonic() - began < 1}")
    """
    project.write("train.py", script)
    words = [*command(), "run", "train.py", "--plain"]
    with Terminal(words, cwd=project.folder, env=project.environ()) as terminal:
        began_s = time.monotonic()
        assert terminal.end() == 0
        assert time.monotonic() - began_s < 20
    said = (project.run_folder() / "output.log").read_text().splitlines()
    assert said == ["who are you? ", "end of input", "no terminal", "none behind it", "True"]
    assert project.record()["status"] == "completed"


def test_a_full_device_behind_the_output_does_not_disturb_the_training(project: Project) -> None:
    """A reader that leaves is in tests/acceptance/test_stopping.py."""
    project.write(
        "train.py", "for number in range(20_000): print('line', number)\nprint('{\"step\": 20000}')"
    )
    with open("/dev/full", "wb") as full:
        running = project.start("run", "train.py", stdout=full.fileno())
        done = project.end(running)
    assert done.code == 0
    assert (project.record()["status"], project.record()["lastStep"]) == ("completed", 20_000)
    assert (project.run_folder() / "output.log").read_bytes().count(b"\n") == 20_001


@pytest.mark.parametrize("times", [3, pytest.param(60, marks=pytest.mark.soak)])
def test_a_signal_to_the_whole_group_while_the_script_is_being_started_stops_the_run(
    project: Project, times: int
) -> None:
    project.write("train.py", "import time\ntime.sleep(60)\n")
    for count in range(times):
        run_id = f"r-{count}"
        process = subprocess.Popen(
            [*command(), "run", "train.py", "--run-id", run_id],
            cwd=project.folder, env=project.environ(), start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        project.wait_for_state("running", run_id)
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(60) == 143
        record = project.record(run_id)
        assert (record["status"], record["reason"]) == ("stopped", "SIGTERM")
