"""`backprop doctor`: what two kills left is told, ended only when asked for, and then nothing is wrong any more."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from keeper_client import processes_of, signs
from kit import Project, mode, wait_for


def test_nothing_is_wrong_where_nothing_is(project: Project) -> None:
    assert project.run("doctor") == (0, "", "backprop: nothing is wrong\n")
    assert not project.home.exists()
    project.write("train.py", "")
    project.run("run", "train.py")
    assert project.run("doctor", "--json").out == "[]\n"


def test_orphans_are_told_when_dry_and_ended_when_not(project: Project, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    running = project.start("run", project.child("stubborn"), "-n", "it", "--", place)
    wait_for(lambda: len(signs(place, "ready")) == 5, "everybody")
    wait_for(lambda: project.holder("it")["keeper"], "the keeper")
    for pid in (project.holder("it")["keeper"], running.pid):
        os.kill(pid, signal.SIGKILL)
    running.wait()
    project.home.chmod(0o755)

    dry = project.run("doctor", "--dry-run")
    assert dry.code == 1
    assert "would: end them, and mark the run lost" in dry.out
    assert dry.err == "backprop: 2 found, 0 repaired, 2 would be repaired without --dry-run\n"
    assert processes_of(place)
    assert (project.record("it")["status"], mode(project.home)) == ("running", 0o755)

    done = project.run("doctor", "--json")
    assert done.code == 0
    found = [(each["kind"], each["outcome"], each["error"]) for each in json.loads(done.out)]
    assert found == [("folder", "repaired", None), ("orphans", "repaired", None)]
    wait_for(lambda: not processes_of(place), "everybody to be gone")
    assert (project.record("it")["status"], mode(project.home)) == ("lost", 0o700)
    assert project.run("doctor") == (0, "", "backprop: nothing is wrong\n")


def test_a_storage_that_cannot_be_opened_is_left_to_the_person(project: Project) -> None:
    project.home.mkdir(0o700)
    done = project.run("doctor", "--storage", "sqlite:relative")
    assert done.code == 1
    assert done.out.startswith("storage: ")
    assert "Traceback" not in done.err
