"""`backprop run --detach`: it returns once the run was admitted, and the run goes on without it."""

from __future__ import annotations

import json
import os
import signal

from keeper_client import is_running
from kit import Project, command, wait_for
from terminal import Terminal

# Runs until somebody writes the file `go`, or interrupts it.
WAITING = """
    import json, os, pathlib, time
    print(json.dumps({"step": 1, "loss": 0.5}))
    try:
        while not pathlib.Path("go").exists():
            time.sleep(0.02)
        print("went on")
    except KeyboardInterrupt:
        print("interrupted")
"""


def test_it_returns_after_admission_with_the_id_and_the_run_goes_on(project: Project) -> None:
    project.write("train.py", WAITING)
    done = project.run("run", "train.py", "--detach", "-n", "it")
    record = project.record()
    assert (done.code, done.out) == (0, f"{record['id']}\n")
    assert f"see it with `backprop logs -f {record['name']}`" in done.err
    assert record["status"] == "running"
    assert os.getsid(project.holder()["agent"]) == project.holder()["agent"]
    project.write("go", "")
    record = project.wait_for_state("completed")
    assert (record["lastStep"], len(record["attempts"])) == (1, 1)
    assert project.call("logs", "it").out.endswith("went on\n")


def test_the_id_is_told_and_the_code_is_0_however_soon_the_run_is_over(project: Project) -> None:
    project.write("train.py", "raise SystemExit(3)")
    done = project.run("run", "train.py", "--detach")
    record = project.wait_for_state("failed")
    assert (done.code, done.out) == (0, f"{record['id']}\n")
    assert record["exitCode"] == 3


def test_a_refused_run_exits_75_with_the_reasons_and_leaves_no_record(project: Project) -> None:
    project.write("train.py", WAITING)
    project.machine(ram_free_gb=0.5)
    done = project.run("run", "train.py", "--detach")
    assert (done.code, done.out) == (75, "")
    assert "RAM: 0.5 GB available, 4 GB needed" in done.err
    assert project.records() == []
    assert list((project.home / "runs").iterdir()) == []
    forced = project.run("run", "train.py", "--detach", "--force")
    assert forced.code == 0
    assert project.call("stop", "last").code == 0


def test_a_resume_that_is_refused_after_waiting_loses_nothing_of_the_run(project: Project) -> None:
    project.write("train.py", "print('{\"step\": 1}'); raise SystemExit(1)")
    project.run("run", "train.py")
    folder = project.run_folder()
    before = project.records()
    left = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "lock"}
    project.machine(ram_free_gb=0.5)
    done = project.run("resume", "last", "--detach", "--wait", "0.005")
    assert done.code == 75
    assert project.records() == before
    kept = {name: (folder / name).read_bytes() for name in left}
    assert {**kept, "run.json": b""} == {**left, "run.json": b""}


def test_what_lies_in_the_working_directory_is_not_imported_by_the_agent(project: Project) -> None:
    project.write("queue.py", "raise SystemExit('not the one you want')")
    project.write("backprop_core/__init__.py", "")
    project.write("train.py", "")
    done = project.run("run", "train.py", "--detach")
    assert done.code == 0, done.err
    project.wait_for_state("completed")


def test_the_agent_counts_attempts_as_the_foreground_does(project: Project) -> None:
    script = """
        import os, time
        from backprop_core.script import should_stop
        print("attempt", os.environ["BACKPROP_ATTEMPT"], flush=True)
        while not should_stop():
            time.sleep(0.01)
    """
    project.write("train.py", script)
    project.run("run", "train.py", "--detach", "-m", "0.03")
    project.wait_for_state("timeboxed")
    project.run("resume", "last", "--detach")
    record = wait_for(lambda: len(project.record()["attempts"]) == 2 and project.record(), "the next attempt")
    assert record
    project.wait_for_state("timeboxed")
    assert project.call("logs", "last").out == "attempt 1\nattempt 2\n"


def test_it_outlives_the_terminal_that_it_was_started_from(project: Project) -> None:
    project.write("train.py", WAITING)
    words = [*command(), "run", "train.py", "--detach"]
    with Terminal(words, cwd=project.folder, env=project.environ()) as tty:
        assert tty.end() == 0
        assert project.record()["id"] in tty.shown
        tty.close()
    agent, keeper = (project.holder()[who] for who in ("agent", "keeper"))
    os.kill(agent, signal.SIGHUP)
    project.write("go", "")
    project.wait_for_state("completed")
    wait_for(lambda: not is_running(agent) and not is_running(keeper), "both to leave")


def test_logs_follow_a_run_to_its_end(project: Project) -> None:
    project.write("train.py", WAITING)
    project.run("run", "train.py", "--detach")
    following = project.start("logs", "-f", "last")
    assert following.stdout is not None
    assert json.loads(following.stdout.readline()) == {"step": 1, "loss": 0.5}
    project.write("go", "")
    assert project.end(following).out == "went on\n"


def test_stop_ends_it_gracefully(project: Project) -> None:
    project.write("train.py", WAITING)
    project.run("run", "train.py", "--detach", "-n", "it")
    assert project.run("stop", "it").code == 0
    record = project.wait_for_state("stopped")
    assert record["reason"] == "backprop stop"
    assert project.run("logs", "it").out.endswith("interrupted\n")
    assert project.run("stop", "it").code == 2


def test_stop_takes_a_run_that_waits_for_its_turn_out_of_the_queue(project: Project) -> None:
    project.write("train.py", WAITING)
    project.machine(ram_free_gb=0.5)
    waiting = project.start("run", "train.py", "--detach", "--wait", "5", "-n", "it")
    record = wait_for(
        lambda: project.records() and project.record()["host"] and project.record(), "the queue"
    )
    assert record
    assert record["status"] == "queued"
    assert project.call("stop", "it").code == 0
    assert project.end(waiting).code == 143
    assert project.records() == []
    assert list((project.home / "runs").iterdir()) == []


def test_ctrl_c_before_it_returns_takes_the_run_back(project: Project) -> None:
    project.write("train.py", WAITING)
    project.machine(ram_free_gb=0.5)
    waiting = project.start("run", "train.py", "--detach", "--wait", "5")
    wait_for(lambda: project.records() and project.record()["host"], "the queue")
    waiting.send_signal(signal.SIGINT)
    assert project.end(waiting).code == 130
    assert project.records() == []
    assert project.processes() == []
