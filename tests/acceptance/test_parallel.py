"""Many runs at once: slots hold across processes, nothing is lost, and who waits gets in by turns."""

from __future__ import annotations

import json
import signal
import subprocess

from kit import Done, Project, wait_for

# Runs until the file `go` is there.
WAITING = """
    import json, pathlib, sys, time
    print(json.dumps({"step": 1}))
    while not pathlib.Path("go").exists():
        time.sleep(0.02)
"""


def states(project: Project) -> list[str]:
    return [record["status"] for record in project.records()]


def listed(project: Project, *words: str) -> list[str]:
    """The names that `list` shows, newest first."""
    return [record["name"] for record in json.loads(project.call("list", "--json", *words).out)]


def end_all(project: Project, started: list[subprocess.Popen[bytes]]) -> list[Done]:
    return [project.end(process) for process in started]


def test_sixteen_runs_at_once_lose_no_record(project: Project) -> None:
    script = """
        import json, sys
        for step in range(1, 6):
            print(json.dumps({"step": step, "loss": float(sys.argv[1])}))
            print(json.dumps({"event": "checkpoint_saved", "path": f"{sys.argv[1]}-{step}"}))
    """
    project.write("train.py", script)
    numbers = range(16)
    started = [project.start("run", "train.py", "-p", "64", "-n", f"run-{n}", "--", n) for n in numbers]
    assert [done.code for done in end_all(project, started)] == [0] * 16
    assert set(states(project)) == {"completed"}
    assert len(project.records()) == 16
    for number in numbers:
        record = project.record(f"run-{number}")
        assert (record["lastStep"], record["lastLoss"], len(record["checkpoints"])) == (5, number, 5)
        assert len((project.run_folder(f"run-{number}") / "metrics.jsonl").read_text().splitlines()) == 5


def test_two_slots_hold_for_six_that_start_at_once(project: Project) -> None:
    project.write("train.py", WAITING)
    started = [project.start("run", "train.py", "-p", "2") for _ in range(6)]
    wait_for(lambda: [p.poll() for p in started].count(75) == 4, "four to be refused")
    assert states(project) == ["running", "running"]
    project.write("go", "")
    ended = end_all(project, started)
    assert sorted(done.code for done in ended) == [0, 0, 75, 75, 75, 75]
    for done in ended:
        assert (done.code == 75) == ("slots: 2 of 2 in use" in done.err)
    assert states(project) == ["completed", "completed"]
    assert len(list((project.home / "runs").iterdir())) == 2


def test_who_waits_is_seen_waiting_and_gets_in_by_order_of_arrival(project: Project) -> None:
    project.write("train.py", WAITING)
    first = project.start("run", "train.py", "-p", "1", "-n", "first")
    project.wait_for_state("running", "first")
    waiting = []
    for name in ("second", "third"):
        waiting.append(project.start("run", "train.py", "-p", "1", "-n", name, "--wait", "1"))
        project.wait_for_state("queued", name)
    assert listed(project, "--state", "queued") == ["third", "second"]
    assert "slots: 1 of 1 in use (first)" in project.record("second")["reason"]
    status = json.loads(project.call("status", "--json", "-p", "1").out)
    assert status["slots"] == {"used": 1, "max": 1}
    assert not status["verdict"]["allowed"]
    passing = project.call("run", "train.py", "-p", "2")
    assert passing.code == 75
    assert "queue: 2 waiting before this run" in passing.err
    project.write("go", "")
    ended = end_all(project, [first, *waiting])
    assert [done.code for done in ended] == [0, 0, 0]
    assert "place 2 of 2" in ended[2].err
    began = [project.record(name)["attempts"][0]["start"] for name in ("first", "second", "third")]
    assert began == sorted(began)


def test_a_wait_in_vain_leaves_no_record(project: Project) -> None:
    project.write("train.py", WAITING)
    project.machine(ram_free_gb=0.5)
    done = project.run("run", "train.py", "--wait", "0.01")
    assert done.code == 75
    assert "waited 0.01 minutes in vain" in done.err
    assert project.records() == []
    assert list((project.home / "runs").iterdir()) == []


def test_a_wait_ends_when_there_is_room(project: Project) -> None:
    project.write("train.py", "")
    project.machine(cpu_load_per_core=9.0)
    waiting = project.start("run", "train.py", "--wait", "1")
    project.wait_for_state("queued")
    project.machine()
    assert project.end(waiting).code == 0
    assert states(project) == ["completed"]


def test_ctrl_c_while_waiting_leaves_no_record_and_exits_130(project: Project) -> None:
    project.write("train.py", WAITING)
    project.machine(ram_free_gb=0.5)
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        waiting = project.start("run", "train.py", "--wait", "1")
        project.wait_for_state("queued")
        waiting.send_signal(number)
        assert project.end(waiting).code == code
        assert project.records() == []
        assert list((project.home / "runs").iterdir()) == []


def test_stop_takes_a_waiter_out_of_the_queue(project: Project) -> None:
    project.write("train.py", WAITING)
    project.machine(ram_free_gb=0.5)
    waiting = project.start("run", "train.py", "--wait", "1", "-n", "it")
    project.wait_for_state("queued")
    assert project.call("stop", "it").code == 0
    assert project.end(waiting).code == 143
    assert project.records() == []


def test_a_killed_waiter_becomes_lost_and_stands_in_nobodys_way(project: Project) -> None:
    project.write("train.py", "")
    project.machine(ram_free_gb=0.5)
    waiting = project.start("run", "train.py", "--wait", "1", "-n", "it")
    project.wait_for_state("queued")
    waiting.kill()
    waiting.wait()
    project.machine()
    assert project.call("run", "train.py").code == 0
    assert listed(project, "--state", "lost") == ["it"]


def test_force_passes_full_slots(project: Project) -> None:
    project.write("train.py", WAITING)
    first = project.start("run", "train.py", "-p", "1", "-n", "first")
    project.wait_for_state("running", "first")
    forced = project.start("run", "train.py", "-p", "1", "-n", "forced", "--force")
    project.wait_for_state("running", "forced")
    project.write("go", "")
    assert [done.code for done in end_all(project, [first, forced])] == [0, 0]


def test_a_slot_is_free_again_when_the_run_is_over(project: Project) -> None:
    project.write("train.py", "import sys; sys.exit(int(sys.argv[1]))")
    codes = [project.run("run", "train.py", "-p", "1", "--", code).code for code in (0, 3, 0)]
    assert codes == [0, 3, 0]
