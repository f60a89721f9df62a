"""Time box after time box under one run id: turns, ends, retries, budgets, silence, and more time."""

from __future__ import annotations

import re
import signal
import time
from datetime import datetime, timedelta
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from kit import Project, wait_for

# Counts to as many as it is told to, ten in a time box, and then acts as if its time box were ending; the file `go`
# must be there for that. Fails where another one of the folder is at work.
COUNTING = """
    import os, pathlib, sys, time
    pathlib.Path("at-work").touch(exist_ok=False)
    from backprop_core import script
    saved = pathlib.Path(os.environ["BACKPROP_RUN_DIR"], "step.txt")
    source = script.resume_path()
    step = int(pathlib.Path(source).read_text()) if source else 0
    print("from", step, flush=True)
    for _ in range(10):
        time.sleep(0.001)
        step += 1
        script.report(step=step, total_steps=int(sys.argv[1]))
    while not pathlib.Path("go").exists():
        time.sleep(0.01)
    if step < int(sys.argv[1]):
        script._say_stopping()
        saved.write_text(str(step))
        script.checkpoint(saved)
    pathlib.Path("at-work").unlink()
"""
# Runs until the file `go` is there.
HOLDING = """
    import pathlib, time
    while not pathlib.Path("go").exists():
        time.sleep(0.02)
"""
SILENT = """
    import sys, time
    print("a last word", flush=True)
    time.sleep(60)
"""


def begun_at(project: Project, reference: str = "last") -> list[int]:
    """The steps from which a run's attempts began."""
    text = (project.run_folder(reference) / "output.log").read_text()
    return [int(line.split()[1]) for line in text.splitlines() if line.startswith("from ")]


def statuses(record: dict[str, Any]) -> list[str]:
    return [attempt["status"] for attempt in record["attempts"]]


def test_until_done_goes_from_checkpoint_to_checkpoint_under_one_id(project: Project) -> None:
    project.write("train.py", COUNTING)
    project.write("go", "")
    done = project.run("run", "train.py", "--until-done", "--", 30)
    (record,) = project.records()
    assert (done.code, record["status"], record["lastStep"]) == (0, "completed", 30)
    assert statuses(record) == ["timeboxed", "timeboxed", "completed"]
    assert begun_at(project) == [0, 10, 20]
    steps = [(attempt["firstStep"], attempt["lastStep"], attempt["saves"]) for attempt in record["attempts"]]
    assert steps == [(1, 10, 1), (11, 20, 1), (21, 30, 0)]
    assert "time box 1 is over, at step 10; the next one follows" in done.err
    assert "over 3 attempts" in done.err


def test_slices_bound_how_many_there_are_and_resume_adds_as_many(project: Project) -> None:
    project.write("train.py", COUNTING)
    project.write("go", "")
    project.write("backprop.toml", "slices = 2\n")
    done = project.call("run", "train.py", "--", 1000)
    assert (done.code, statuses(project.record())) == (0, ["timeboxed"] * 2)
    assert "time box 1 of 2 is over" in done.err
    assert project.call("resume", "last").code == 0
    assert statuses(project.record()) == ["timeboxed"] * 4


def test_a_time_box_that_ends_by_the_clock_is_followed_by_the_next(project: Project) -> None:
    project.write("train.py", HOLDING)
    done = project.call("run", "train.py", "--slices", 2, "-m", "0.005", "--stop-grace", "0.1")
    assert (done.code, statuses(project.record())) == (0, ["timeboxed"] * 2)


def test_two_until_done_with_one_slot_take_turns(project: Project) -> None:
    project.write("train.py", COUNTING)
    words = ("run", "train.py", "--until-done", "-p", 1)
    first = project.start(*words, "-n", "one", "--", 30)
    project.wait_for_state("running", "one")
    second = project.start(*words, "-n", "two", "--", 30)
    record = project.wait_for_state("queued", "two")
    assert "slots: 1 of 1 in use (one)" in record["reason"]
    project.write("go", "")
    assert [project.end(process).code for process in (first, second)] == [0, 0]
    in_turn = sorted(
        (attempt["start"], attempt["end"], name)
        for name in ("one", "two")
        for attempt in project.record(name)["attempts"]
    )
    assert [name for *_, name in in_turn] == ["one", "two"] * 3
    assert all(before[1] <= after[0] for before, after in pairwise(in_turn))


@pytest.mark.parametrize(("how", "code"), [("backprop stop", 143), ("Ctrl-C", 130)])
def test_a_stop_between_two_time_boxes_ends_the_series(project: Project, how: str, code: int) -> None:
    project.write("train.py", COUNTING)
    project.write("hold.py", HOLDING.replace('"go"', '"end"'))
    series = project.start("run", "train.py", "--until-done", "-p", 1, "-n", "it", "--", 1000)
    project.wait_for_state("running", "it")
    holder = project.start("run", "hold.py", "-p", 1, "--wait", 5, "-n", "holder")
    project.wait_for_state("queued", "holder")
    project.write("go", "")
    project.wait_for_state("running", "holder")
    project.wait_for_state("queued", "it")
    if how == "Ctrl-C":
        series.send_signal(signal.SIGINT)
    else:
        assert project.call("stop", "it").code == 0
    assert project.end(series).code == code
    record = project.record("it")
    assert (record["status"], record["reason"]) == ("stopped", f"{how}, between two time boxes")
    assert statuses(record) == ["timeboxed"]
    project.write("end", "")
    assert project.end(holder).code == 0
    assert project.call("resume", "it", "--slices", 1).code == 0
    assert begun_at(project, "it") == [0, 10]


def test_ctrl_c_within_a_time_box_ends_the_series(project: Project) -> None:
    project.write("train.py", HOLDING)
    series = project.start("run", "train.py", "--until-done", "--retries", 3)
    project.wait_for_state("running")
    wait_for(project.processes, "the script")
    series.send_signal(signal.SIGINT)
    assert project.end(series).code == 130
    assert statuses(project.record()) == ["stopped"]


def test_in_the_background_the_agent_runs_the_series_and_stop_ends_it(project: Project) -> None:
    project.write("train.py", COUNTING)
    project.write("go", "")
    done = project.run("run", "train.py", "--until-done", "--detach", "-n", "it", "--", 30)
    assert (done.code, done.out.strip()) == (0, project.record()["id"])
    project.wait_for_state("completed")
    assert begun_at(project) == [0, 10, 20]
    project.run("run", "train.py", "--until-done", "--detach", "-n", "endless", "--", 100_000)
    wait_for(lambda: len(project.record("endless")["attempts"]) > 1, "its second time box")
    assert project.run("stop", "endless").code == 0
    record = project.wait_for_state("stopped", "endless")
    assert record["reason"].startswith("backprop stop")
    wait_for(lambda: not project.processes(), "everybody to leave")


# --- failures -----------------------------------------------------------------------------------


def test_a_crash_loop_ends_after_one_retry_without_progress(project: Project) -> None:
    project.write("train.py", """print('{"step": 3}'); raise RuntimeError("boom")""")
    done = project.run("run", "train.py", "--retries", 5)
    record = project.record()
    assert (done.code, statuses(record)) == (1, ["failed", "failed"])
    assert "retry 1 of 5 after a failure: exit code 1" in done.err
    assert "no retry: the step has not advanced since the last failure" in done.err
    assert [attempt["cause"] for attempt in record["attempts"]] == ["script", "script"]


def test_while_the_step_advances_failures_are_retried_as_often_as_was_said(project: Project) -> None:
    script = """
        import json, os, pathlib, signal
        source = os.environ.get("BACKPROP_RESUME_FROM")
        step = int(pathlib.Path(source).read_text()) if source else 0
        print("from", step, flush=True)
        pathlib.Path("step.txt").write_text(str(step + 1))
        print(json.dumps({"step": step + 1}), json.dumps({"event": "checkpoint_saved", "path": "step.txt"}), sep="\\n")
        os.kill(os.getpid(), signal.SIGKILL)
    """
    project.write("train.py", script)
    done = project.call("run", "train.py", "--retries", 2)
    record = project.record()
    assert (done.code, begun_at(project)) == (137, [0, 1, 2])
    assert {attempt["cause"] for attempt in record["attempts"]} == {"killed"}
    assert "no retry: all 2 were used" in done.err


def test_what_would_fail_again_is_not_retried(project: Project) -> None:
    project.write("train.py", """import sys; sys.exit("OSError: [Errno 28] No space left on device")""")
    done = project.call("run", "train.py", "--retries", 5)
    (attempt,) = project.record()["attempts"]
    assert (attempt["cause"], attempt["reason"]) == ("disk-full", "exit code 1 (the disk is full)")
    assert "no retry: it would fail again (exit code 1 (the disk is full))" in done.err


# --- silence ------------------------------------------------------------------------------------


def test_a_run_that_says_nothing_is_stopped_and_retried(project: Project) -> None:
    project.write("train.py", SILENT)
    done = project.call("run", "train.py", "--stall", "0.006", "--retries", 3)
    record = project.record()
    reason = "stalled: no output for 0.006 minutes"
    assert (done.code, statuses(record), record["reason"]) == (75, ["stopped", "stopped"], reason)
    assert [attempt["cause"] for attempt in record["attempts"]] == ["stalled", "stalled"]
    assert 0.36 <= (record["attempts"][0]["end"] - record["attempts"][0]["start"]) / 1000 < 5


def test_a_pause_is_no_silence(project: Project) -> None:
    project.write(
        "train.py", HOLDING.replace("time.sleep(0.02)", "time.sleep(0.02); print('here', flush=True)")
    )
    running = project.start("run", "train.py", "--stall", "0.008")
    project.wait_for_state("running")
    project.call("pause", "last")
    project.wait_for_state("paused")
    paused_s = time.monotonic()
    wait_for(lambda: time.monotonic() > paused_s + 0.6, "longer than the silence that is allowed")
    assert project.record()["status"] == "paused"
    project.call("unpause", "last")
    project.write("go", "")
    assert project.end(running).code == 0
    assert statuses(project.record()) == ["completed"]


# --- time ---------------------------------------------------------------------------------------


def test_extend_gives_a_live_run_more_time_that_the_script_sees(project: Project) -> None:
    script = """
        import pathlib, time
        from backprop_core.script import time_left
        first = time_left()
        print("ready", flush=True)
        while time_left() < first + 30:
            time.sleep(0.02)
        print("extended", flush=True)
        while not pathlib.Path("go").exists():
            time.sleep(0.02)
    """
    project.write("train.py", script)
    running = project.start("run", "train.py", "-m", "0.5", "-n", "it")
    project.wait_for_state("running")
    log = project.run_folder() / "output.log"
    wait_for(lambda: log.exists() and "ready" in log.read_text(), "the script to be ready")
    done = project.run("extend", "it", 1)
    assert (done.code, done.err) == (
        0,
        f"backprop: run it ({project.record()['id']}) is given 1 minutes more\n",
    )
    wait_for(lambda: "extended" in log.read_text(), "the script to see it")
    project.write("go", "")
    ended = project.end(running)
    assert ended.code == 0
    assert "the time box is extended by 1 minutes" in ended.err
    late = project.call("extend", "it", 1)
    assert (late.code, "there is nothing to extend" in late.err) == (2, True)


@pytest.mark.parametrize("minutes", ["0", "nan"])
def test_what_is_no_number_of_minutes_extends_nothing(project: Project, minutes: str) -> None:
    assert project.call("extend", "last", "--", minutes).code == 2


def test_the_minutes_in_all_shorten_the_last_time_box_and_are_remembered(project: Project) -> None:
    project.write("train.py", HOLDING)
    words = ("--slices", 5, "-m", "0.01", "--total-minutes", "0.015", "--stop-grace", "0.1")
    done = project.call("run", "train.py", *words)
    record = project.record()
    assert (done.code, record["status"]) == (0, "timeboxed")
    first, *others = [(one["end"] - one["start"]) / 1000 for one in record["attempts"]]
    assert first >= 0.6
    assert sum(others) < 0.6
    again = project.call("resume", "last", "--total-minutes", "0.01")
    assert again.code == 2
    assert f"the 0.01 minutes of run {record['id']} in all are used up" in again.err


def soon(seconds: float) -> str:
    return (datetime.now().astimezone() + timedelta(seconds=seconds)).isoformat(timespec="milliseconds")


def test_the_last_moment_ends_the_time_box_and_the_series(project: Project) -> None:
    project.write("train.py", HOLDING)
    at = soon(4)
    done = project.call("run", "train.py", "--until-done", "-m", "9", "--until", at, "--stop-grace", "0.1")
    late_s = time.time() - datetime.fromisoformat(at).timestamp()
    record = project.record()
    assert (done.code, statuses(record)) == (0, ["timeboxed"])
    assert "no further time box: the time that the run was given is used up" in done.err
    assert 0 <= late_s < 3
    again = project.call("resume", "last")
    assert (again.code, f"{at} is over" in again.err) == (2, True)
    assert project.record() == record


def test_a_wait_ends_at_the_last_moment_too(project: Project) -> None:
    project.write("train.py", "")
    project.machine(ram_free_gb=0.5)
    done = project.call("run", "train.py", "--wait", 5, "--until", soon(4))
    assert done.code == 75
    assert project.records() == []


@pytest.mark.torch
def test_a_series_of_time_boxes_learns_what_one_long_run_learns(project: Project) -> None:
    for package in ("torch", "sklearn"):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    script = Path(__file__).parents[2] / "examples" / "train_digits_torch.py"
    began = time.monotonic()
    assert project.run("run", script, "-n", "start", "--", "--epochs", 1, timeout=120).code == 0
    start_s = (
        time.monotonic() - began
    )  # so that each time box trains for about as long again, whatever the machine
    box_s, train_s = 4 * start_s, 12 * start_s
    options = ("-m", train_s / 20, "-n", "long", "--", "--seconds", train_s)
    assert project.run("run", script, *options, timeout=600).code == 0
    long = project.record("long")
    epochs = int(long["metrics"]["epoch"])
    more = ("-m", box_s / 60, "-n", "short", "--", "--epochs", epochs, "--seconds", 100_000)
    done = project.run("run", script, "--until-done", *more, timeout=900)
    short = project.record("short")
    assert (done.code, short["status"]) == (0, "completed"), done.err
    assert len(short["attempts"]) >= 5
    assert short["lastStep"] == long["lastStep"]
    assert short["metrics"]["test_accuracy"] == long["metrics"]["test_accuracy"] >= 0.95


IN_EPOCHS = """
    import time
    from backprop_core import script
    for epoch in range(1, 5):
        time.sleep(0.1)
        print(f"Epoch {epoch}/40: loss 0.5", flush=True)
    script._say_stopping()
"""


def test_epochs_alone_tell_how_many_more_time_boxes_it_takes(project: Project) -> None:
    project.write("train.py", IN_EPOCHS)
    done = project.call("run", "train.py", "-m", "0.05")
    assert re.search(r", at epoch 4, loss 0.5; about \d+ more time boxes? to epoch 40\n", done.err), done.err
    assert re.search(r" timeboxed .* \d+ box(es)? ", project.call("list").out)
    assert "to go" in project.call("status", "last").out
    attempt = project.record()["attempts"][0]
    assert (attempt["firstEpoch"], attempt["lastEpoch"]) == (1, 4)
