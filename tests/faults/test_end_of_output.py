"""The end of the output is not the end of the script, and the end of the script needs no end of output."""

from __future__ import annotations

import subprocess
import sys
import time

from keeper_client import is_running
from kit import Project, wait_for

DRAIN_S = 2.0


def test_a_script_that_closes_its_output_runs_on_to_its_own_end(project: Project) -> None:
    script = """
        import os, sys, time
        os.close(1), os.close(2)
        time.sleep(0.7)
        with open("ended", "w") as file:
            file.write(str(time.monotonic()))
        os._exit(7)
    """
    project.write("train.py", script)
    assert project.run("run", "train.py").code == 7
    told_s = time.monotonic()
    assert (project.record()["status"], project.record()["exitCode"]) == ("failed", 7)
    assert told_s - float((project.folder / "ended").read_text()) < DRAIN_S


def test_somebody_outside_who_holds_the_output_open_keeps_no_run_alive(project: Project) -> None:
    """It belongs to nobody of the run, and so it is neither waited for longer than 2 s nor ended."""
    script = """
        import os, sys, time
        print("ready", os.getpid(), flush=True)
        while not os.path.exists("go"):
            time.sleep(0.01)
        with open("ended", "w") as file:
            file.write(str(time.monotonic()))
    """
    project.write("train.py", script)
    running = project.start("run", "train.py")
    project.wait_for_state("running")
    log = project.run_folder() / "output.log"
    wait_for(lambda: log.exists() and b"\n" in log.read_bytes(), "the script")
    output = f"/proc/{int(log.read_text().split()[1])}/fd/1"
    code = f"import time; file = open({output!r}, 'wb'); print(flush=True); time.sleep(60)"
    outsider = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    with outsider:
        assert outsider.stdout is not None
        assert outsider.stdout.readline() == b"\n"
        (project.folder / "go").touch()
        assert project.end(running).code == 0
        told_s = time.monotonic()
        assert told_s - float((project.folder / "ended").read_text()) < DRAIN_S + 1  # 1 s for a busy machine
        assert is_running(outsider.pid)
        outsider.kill()
    assert project.record()["status"] == "completed"
