"""`backprop resume`: a run goes on from where it was, as what it was."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import pytest
from keeper_client import is_running
from kit import Project, wait_for

# Saves after each of three steps, or after as many as it is told to, and then fails.
COUNTING = """
    import json, os, pathlib, sys
    source = os.environ.get("BACKPROP_RESUME_FROM")
    first = int(pathlib.Path(source).read_text()) if source else 0
    print("from", first, "in attempt", os.environ["BACKPROP_ATTEMPT"], "with", sys.argv[1:], "in", os.getcwd())
    for step in range(first + 1, first + 4):
        path = pathlib.Path(f"step-{step}.txt")
        path.write_text(str(step))
        print(json.dumps({"step": step, "loss": 1 / step}))
        print(json.dumps({"event": "checkpoint_saved", "path": str(path)}))
    sys.exit(5 if step < 6 else 0)
"""


def test_a_run_goes_on_from_its_last_checkpoint_in_the_same_record(project: Project) -> None:
    project.write("train.py", COUNTING)
    first = project.run("run", "train.py", "-n", "it", "--", "--lr", "0.1")
    before = project.record()
    again = project.run("resume", "it")
    (record,) = project.records()
    assert (first.code, again.code) == (5, 0)
    assert again.out.splitlines()[0] == f"from 3 in attempt 2 with ['--lr', '0.1'] in {project.folder}"
    assert (record["status"], record["lastStep"], record["exitCode"]) == ("completed", 6, 0)
    assert record["reason"] is None
    assert record["startTime"] == before["startTime"]
    assert record["endTime"] > before["endTime"]
    assert [path.rpartition("/")[2] for path in record["checkpoints"]] == [
        f"step-{n}.txt" for n in range(1, 7)
    ]
    assert record["attempts"][0] == before["attempts"][0]
    assert record["attempts"][1]["resumedFrom"] == str(project.folder / "step-3.txt")
    assert [attempt["status"] for attempt in record["attempts"]] == ["failed", "completed"]


def test_the_log_and_the_metrics_of_the_next_attempt_follow_those_of_the_first(project: Project) -> None:
    project.write("train.py", COUNTING)
    first, again = project.run("run", "train.py"), project.run("resume", "last")
    folder = project.run_folder()
    assert (folder / "output.log").read_text() == first.out + again.out
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_recorded_settings_and_interpreter_and_folder_hold_and_flags_win(project: Project) -> None:
    project.write("sub/train.py", COUNTING)
    python = project.folder / "my-python"
    python.symlink_to(sys.executable)
    project.call(
        "run", "sub/train.py", "-n", "it", "-m", "3", "-p", "7", "--python", "./my-python", "--", "a"
    )
    project.write("backprop.toml", "max_run_minutes = 9\nmax_parallel = 9\n")
    again = project.call("resume", "it", "-p", "8", "--", "b", cwd=project.place)
    record = project.record()
    assert again.out.splitlines()[0] == f"from 3 in attempt 2 with ['b'] in {project.folder}"
    assert (record["settings"]["maxRunMinutes"], record["settings"]["maxParallel"]) == (3, 8)
    assert (record["python"], record["cwd"]) == (str(python), str(project.folder))
    assert record["scriptArgs"] == ["b"]


def test_broken_checkpoints_are_passed_over_aloud(project: Project) -> None:
    project.write("train.py", COUNTING)
    project.call("run", "train.py")
    project.write("step-3.txt", "")
    (project.folder / "step-2.txt").unlink()
    again = project.call("resume", "last")
    assert again.out.startswith("from 1 in attempt 2")
    folder = project.folder
    assert again.err.splitlines()[:2] == [
        f"backprop: passing over the checkpoint {folder / 'step-3.txt'}: it is empty",
        f"backprop: passing over the checkpoint {folder / 'step-2.txt'}: it does not exist",
    ]


def test_a_zip_checkpoint_that_was_cut_short_is_not_used(project: Project) -> None:
    script = """
        import json, os, zipfile
        print("from", os.environ.get("BACKPROP_RESUME_FROM"))
        for name in ("whole.pt", "short.pt"):
            with zipfile.ZipFile(name, "w") as file:
                file.writestr("data", "x" * 1000)
            print(json.dumps({"event": "checkpoint_saved", "path": name}))
        os.truncate("short.pt", 500)
        raise SystemExit(1)
    """
    project.write("train.py", script)
    project.call("run", "train.py")
    again = project.call("resume", "last")
    assert again.out.startswith(f"from {project.folder / 'whole.pt'}\n")
    assert "short.pt: it was cut short" in again.err


def test_with_no_checkpoint_left_it_starts_afresh_aloud(project: Project) -> None:
    project.write("train.py", COUNTING)
    project.call("run", "train.py")
    for path in project.folder.glob("step-*"):
        path.unlink()
    again = project.call("resume", "last")
    assert again.out.startswith("from 0 in attempt 2")
    assert "no checkpoint can be used: starting afresh" in again.err
    assert project.record()["attempts"][1]["resumedFrom"] is None


@pytest.mark.parametrize("content", [None, ""])
def test_a_given_checkpoint_that_is_not_there_or_broken_is_an_error(
    project: Project, content: str | None
) -> None:
    project.write("train.py", COUNTING)
    project.call("run", "train.py", "-n", "it")
    before = project.records()
    if content is not None:
        project.write("mine.txt", content)
    again = project.call("resume", "it", "-r", "mine.txt")
    fresh = project.call("run", "train.py", "-r", "mine.txt")
    assert (again.code, fresh.code) == (66, 66)
    assert f"the checkpoint {project.folder / 'mine.txt'} " in again.err
    assert project.records() == before


def test_a_completed_run_is_not_resumed(project: Project) -> None:
    project.write("train.py", "")
    project.call("run", "train.py", "-n", "it")
    before = project.records()
    again = project.call("resume", "it")
    assert (again.code, again.err) == (
        2,
        f"backprop: run {before[0]['id']} is completed: there is nothing to resume\n  start a new run\n",
    )
    assert project.records() == before


def test_a_live_run_is_not_resumed_and_its_id_not_given_twice(project: Project) -> None:
    project.write("train.py", "import time; time.sleep(60)")
    running = project.start("run", "train.py", "--run-id", "mine")
    project.wait_for_state("running")
    again = project.call("resume", "mine")
    assert (again.code, again.err.splitlines()[0]) == (2, "backprop: run mine is running")
    twice = project.call("run", "train.py", "--run-id", "mine")
    assert (twice.code, twice.err.splitlines()[0]) == (2, "backprop: there is a run mine already")
    assert project.record()["status"] == "running"
    running.send_signal(signal.SIGTERM)
    assert project.end(running).code == 143
    assert project.call("run", "train.py", "--run-id", "mine").code == 2


def test_a_refused_resume_leaves_the_record_as_it_was(project: Project) -> None:
    project.write("train.py", COUNTING)
    project.call("run", "train.py")
    before = project.records()
    project.machine(ram_free_gb=0.5)
    assert project.call("resume", "last").code == 75
    assert project.call("resume", "last", "--wait", "0.005").code == 75
    assert project.call("resume", "last", "--detach").code == 75
    assert project.records() == before


def test_a_run_whose_folder_is_gone_says_so(project: Project) -> None:
    gone = project.write("gone/train.py", COUNTING)
    project.call("run", "train.py", cwd=gone.parent)
    for path in gone.parent.iterdir():
        path.unlink()
    gone.parent.rmdir()
    again = project.call("resume", "last")
    assert again.code == 66
    assert str(gone.parent) in again.err


def lose(project: Project, running: Any) -> None:
    """Kill a run's supervisor and keeper, which leaves nobody to write its end."""
    keeper = project.holder()["keeper"]
    for pid in (running.pid, keeper):
        os.kill(pid, signal.SIGKILL)
    running.wait()


@pytest.mark.parametrize("look", [["list"], ["status", "last"]], ids=["list", "status"])
def test_a_run_that_lost_its_supervisor_and_keeper_is_found_swept_and_resumed(
    project: Project, look: list[str]
) -> None:
    script = """
        import json, os, pathlib, subprocess, sys, time
        if os.environ["BACKPROP_ATTEMPT"] == "2":
            print("from", os.environ["BACKPROP_RESUME_FROM"])
            sys.exit()
        stay = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"
        child = subprocess.Popen([sys.executable, "-c", stay], start_new_session=True)
        pathlib.Path("child").write_text(str(child.pid))
        pathlib.Path("model.bin").write_text("weights")
        print(json.dumps({"event": "checkpoint_saved", "path": "model.bin"}), flush=True)
        time.sleep(60)
    """
    project.write("train.py", script)
    running = project.start("run", "train.py", "-n", "it")
    wait_for(lambda: project.records() and project.record()["checkpoints"], "the checkpoint")
    child = int((project.folder / "child").read_text())
    lose(project, running)
    assert is_running(child)
    assert project.run(*look).code == 0
    record = project.record()
    assert record["status"] == "lost"
    assert (record["attempts"][0]["status"], record["attempts"][0]["end"]) == ("lost", record["endTime"])
    wait_for(lambda: not is_running(child), "what was left behind to be swept")
    again = project.run("resume", "it")
    assert (again.code, again.out) == (0, f"from {project.folder / 'model.bin'}\n")
    assert [attempt["status"] for attempt in project.record()["attempts"]] == ["lost", "completed"]


def test_a_run_goes_by_its_id_its_name_the_beginning_of_its_id_and_last(project: Project) -> None:
    project.write("train.py", "")
    for run_id, name in (("aaa1", "twin"), ("aab2", "twin"), ("b", "aaa1")):
        project.call("run", "train.py", "--run-id", run_id, "-n", name)
    seen = [
        json.loads(project.call("status", word, "--json").out) for word in ("aaa1", "twin", "aaa", "last")
    ]
    assert [record["id"] for record in seen] == ["aaa1", "aab2", "aaa1", "b"]
    ambiguous = project.call("status", "aa")
    assert (ambiguous.code, ambiguous.err.splitlines()[0]) == (2, "backprop: 'aa' fits 2 runs: aab2, aaa1...")
