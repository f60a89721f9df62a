"""Somebody keeps the lock of the store: a person can stop a run all the same, and is told what cannot be removed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kit import Project, wait_for

from backprop_builtin.storage._locks import locked

HOLD = r"""
import sys
from backprop_builtin.storage._locks import locked
with locked(sys.argv[1], 10.0):
    print("held", flush=True)
    sys.stdin.read()
"""

WAITS = """
    import json, time
    print(json.dumps({"step": 1}), flush=True)
    open("started", "w").close()
    time.sleep(120)
"""
NAMES = {"json": "experiments.json", "sqlite": "experiments.db"}


@contextmanager
def stopped_holder(lock: Path) -> Iterator[None]:
    """Have a process hold the lock, stopped; killed in the end."""
    child = subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdin=-1, stdout=-1)
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        child.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            child.kill()


@pytest.mark.soak
@pytest.mark.parametrize("storage", ["json", "sqlite"])
def test_stop_past_a_stopped_holder_of_the_lock_is_heard_and_the_end_is_not_lost(
    project: Project, storage: str
) -> None:
    project.write("train.py", WAITS)
    process = project.start("run", "train.py", "--run-id", "r", "--storage", storage)
    wait_for((project.folder / "started").exists, "the script to start")
    with stopped_holder(project.home / f"{NAMES[storage]}.lock"):
        stopped = project.run("stop", "r", env={"BACKPROP_STORAGE": storage}, timeout=60)
        assert stopped.code == 0, stopped.err
        assert project.end(process, timeout=60).code == 143
        listed = project.run("list", "--json", "--storage", storage, timeout=60)
        assert [record["status"] for record in json.loads(listed.out)] == ["stopped"]
    with locked(f"{project.home / NAMES[storage]}.lock", 10.0):
        pass
    listed = project.run("list", "--json", "--storage", storage)
    assert [record["status"] for record in json.loads(listed.out)] == ["stopped"]


@pytest.mark.soak
@pytest.mark.parametrize("storage", ["json", "sqlite"])
def test_removal_past_a_stopped_holder_of_the_lock_is_told_and_done_the_next_time(
    project: Project, storage: str
) -> None:
    project.write("train.py", "print('done')")
    assert project.run("run", "train.py", "--run-id", "r", "--storage", storage).code == 0
    env: dict[str, str | None] = {"BACKPROP_STORAGE": storage}
    with stopped_holder(project.home / f"{NAMES[storage]}.lock"):
        removed = project.run("rm", "r", "--yes", env=env, timeout=60)
        assert removed.code == 2
        assert "has been locked by another process for 10 s" in removed.err
        assert len(removed.err.splitlines()) <= 3
        assert json.loads(project.run("list", "--json", env=env).out)[0]["id"] == "r"
    assert project.run("rm", "r", "--yes", env=env).code == 0
    assert json.loads(project.run("list", "--json", env=env).out) == []
