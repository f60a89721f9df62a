"""Whatever the umask, what Backprop makes is this user's alone; what a script makes is as its user wants it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from kit import Project

SCRIPT = """
    import json, os, sys
    from backprop_core.script import checkpoint, report, should_stop, time_left
    report(step=1, loss=0.5)
    should_stop(), time_left()
    made = os.path.join(os.getcwd(), "made-" + os.environ["BACKPROP_ATTEMPT"])
    open(made, "w").close()
    checkpoint(made)
    sys.exit(3)
"""


def modes(root: Path) -> dict[str, int]:
    found = {root: root.lstat(), **{path: path.lstat() for path in root.rglob("*")}}
    return {str(path.relative_to(root)): stat.S_IMODE(status.st_mode) for path, status in found.items()}


@pytest.mark.parametrize(
    ("storage", "umask"),
    [
        ("json", "0000"),
        ("sqlite", "0777"),
        pytest.param("json", "0777", marks=pytest.mark.soak),
        pytest.param("sqlite", "0000", marks=pytest.mark.soak),
    ],
)
def test_every_file_is_for_its_user_alone_under_any_umask(project: Project, umask: str, storage: str) -> None:
    if umask == "0777" and os.geteuid() != 0:
        pytest.skip("the interpreter itself cannot work with what it makes then, unless it is root's")
    project.write("train.py", SCRIPT)
    under = ("sh", "-c", f'umask {umask}; exec "$@"', "sh")
    more = ("--storage", storage)
    assert project.run("run", "train.py", "--run-id", "a", *more, before=under).code == 3
    assert project.run("resume", "a", *more, before=under).code == 3
    assert project.run("run", "train.py", "--run-id", "b", "--detach", *more, before=under).code == 0
    project.run("logs", "b", "-f", before=under)
    for words in (("status",), ("list",), ("status", "a"), ("config", "set", "maxParallel", "3", "--user")):
        project.run(*words, before=under)
    assert project.run("storage", "copy", storage, "sqlite:///" + str(project.home / "x/y.db"), before=under)
    assert project.run("rm", "b", *more, before=under).code == 0
    found = modes(project.home)
    assert {"runs/a/output.log", "runs/a/lock", "runs/a/run.json", "runs/a/metrics.jsonl"} <= set(found)
    folders = {name for name in found if (project.home / name).is_dir()}
    open_to_others = {
        name: oct(mode) for name, mode in found.items() if mode != (0o700 if name in folders else 0o600)
    }
    assert open_to_others == {}
    scripts_own = stat.S_IMODE((project.folder / "made-1").stat().st_mode)
    assert scripts_own == 0o666 & ~int(umask, 8), "the script's files are its own affair"
