"""Time box after time box in the one job that another launcher has submitted."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

from kit import Project

# As a cluster's queue does it: a job of its own session that is ended when its time limit is over.
QUEUE = """
    import json, pathlib, subprocess
    from backprop_core import EngineState, hookimpl

    @hookimpl
    def backprop_launcher():
        return Queue()

    class Queue:
        name = "queue"

        def __init__(self):
            self.jobs = {}

        def preflight(self, plan):
            return []

        def render(self, plan):
            return f"{plan.job_minutes:g} minutes"

        def submit(self, plan):
            handle = f"{plan.run_id}/{plan.attempt}"
            limit = [] if plan.job_minutes is None else ["timeout", f"{plan.job_minutes}m"]
            with open("jobs.jsonl", "a") as file:
                told = {"handle": handle, "minutes": plan.job_minutes, "command": plan.command}
                print(json.dumps(told), file=file)
            with open(plan.run_dir / "job.log", "wb") as log:
                self.jobs[handle] = subprocess.Popen(
                    [*limit, *plan.command], cwd=plan.cwd, env=dict(plan.environment), start_new_session=True,
                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log,
                )
            return handle

        def state(self, handles):
            return {handle: self.state_of(handle) for handle in handles}

        def state_of(self, handle):
            code = self.jobs[handle].poll()
            detail = pathlib.Path("HOME", "runs", handle.partition("/")[0], "job.log")
            detail = detail.read_text() if code is not None and detail.exists() else None
            return EngineState(phase="running" if code is None else "gone", exit_code=code, detail=detail)

        def cancel(self, handle, *, force):
            self.jobs[handle].kill() if force else self.jobs[handle].terminate()
"""
# Counts to what it is told to, ten in a time box.
COUNTING = """
    import os, pathlib, sys, time
    from backprop_core import script
    source = script.resume_path()
    step = int(pathlib.Path(source).read_text()) if source else 0
    for _ in range(10):
        step += 1
        script.report(step=step)
    while not pathlib.Path("go").exists():
        time.sleep(0.01)
    if step < int(sys.argv[1]):
        script._say_stopping()
        pathlib.Path("step.txt").write_text(str(step))
        script.checkpoint("step.txt")
"""


def queue_in(project: Project, script: str = COUNTING) -> None:
    project.write("backprop_plugins.py", QUEUE.replace("HOME", str(project.home)))
    project.write("train.py", script)


def jobs(project: Project) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (project.folder / "jobs.jsonl").read_text().splitlines()]


def statuses(project: Project) -> list[str]:
    return [attempt["status"] for attempt in project.record()["attempts"]]


def test_a_series_is_one_job_whose_limit_is_that_of_all_its_time_boxes(project: Project) -> None:
    queue_in(project)
    project.write("go", "")
    words = ("run", "train.py", "--launcher", "queue", "--slices", 3, "-m", 2, "--stop-grace", 30)
    done = project.run(*words, "--", 30)
    assert (done.code, project.record()["status"]) == (0, "completed"), done.err
    assert statuses(project) == ["timeboxed", "timeboxed", "completed"]
    assert [attempt["firstStep"] for attempt in project.record()["attempts"]] == [1, 11, 21]
    (job,) = jobs(project)
    assert (job["handle"].endswith("/1"), job["minutes"]) == (True, 3 * (2 + 0.5 + 1))


def test_until_done_alone_has_no_limit_and_a_budget_is_one(project: Project) -> None:
    queue_in(project)
    project.write("go", "")
    words = ("run", "train.py", "--launcher", "queue", "--until-done")
    assert project.run(*words, "--", 20).code == 0
    assert project.run(*words, "--total-minutes", 90, "--", 20).code == 0
    assert [job["minutes"] for job in jobs(project)] == [None, 90 + 0.5 + 1]
    assert statuses(project) == ["timeboxed", "completed"]


def test_two_series_in_jobs_take_turns_and_a_detached_one_is_stopped_between_its_time_boxes(
    project: Project,
) -> None:
    queue_in(project)
    words = ("run", "train.py", "--launcher", "queue", "--until-done", "-p", 1, "--detach")
    assert project.run(*words, "-n", "one", "--", 20).code == 0
    second = project.start(*words, "-n", "two", "--", 20)
    project.wait_for_state("queued", "two")
    assert project.run("stop", "two").code == 0
    assert project.end(second).code == 143
    project.write("go", "")
    assert project.wait_for_state("completed", "one")["lastStep"] == 20


def test_ctrl_c_ends_the_series_and_resume_goes_on_with_it_in_another_job(project: Project) -> None:
    queue_in(project)
    process = project.start("run", "train.py", "--launcher", "queue", "--slices", 3, "-n", "it", "--", 20)
    project.wait_for_state("running", "it")
    process.send_signal(signal.SIGINT)
    assert project.end(process).code == 130
    assert statuses(project) == ["stopped"]
    project.write("go", "")
    assert project.run("resume", "it").code == 0
    assert statuses(project) == ["stopped", "timeboxed", "completed"]
    assert [job["handle"].rpartition("/")[2] for job in jobs(project)] == ["1", "2"]


CHANGING = """
    import pathlib
    from backprop_core import script
    script.report(step=int(pathlib.Path(script.resume_path() or "zero").read_text()))
    script._say_stopping()
    pathlib.Path("step.txt").write_text("9")
    script.checkpoint("step.txt")
    if pathlib.Path("change").exists():
        with open(__file__, "a") as file:
            file.write("# another line\\n")
"""


def test_same_code_holds_for_the_time_boxes_of_a_job_and_of_a_detached_run(project: Project) -> None:
    queue_in(project, CHANGING)
    project.write("zero", "0")
    assert project.run("run", "train.py", "-n", "it").code == 0
    project.write("change", "")
    assert project.run("resume", "it", "--same-code", "--slices", 3, "--detach").code == 0
    project.wait_for_state("timeboxed", "it")
    assert statuses(project) == ["timeboxed"] * 2, "the script changed in the second"
    refused = project.run("resume", "it", "--same-code", "--slices", 3, "--launcher", "queue")
    assert (refused.code, "has changed since" in refused.err) == (2, True)
    Path(project.folder, "change").unlink()
    assert project.run("resume", "it", "--slices", 2, "--launcher", "queue").code == 0
    assert statuses(project) == ["timeboxed"] * 4
    assert "--same-code" not in jobs(project)[-1]["command"]
    assert project.run("resume", "it", "--same-code", "--slices", 1, "--launcher", "queue").code == 0
    assert "--same-code" in jobs(project)[-1]["command"]


def test_who_follows_a_job_exits_as_the_run_has_ended(project: Project) -> None:
    queue_in(project, "raise SystemExit(7)")
    assert project.run("run", "train.py", "--launcher", "queue").code == 7
    queue_in(project, "import time\ntime.sleep(60)")
    process = project.start("run", "train.py", "--launcher", "queue", "-n", "it")
    project.wait_for_state("running", "it")
    assert project.run("stop", "it").code == 0
    assert project.end(process).code == 143
