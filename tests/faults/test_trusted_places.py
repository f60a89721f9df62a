"""A program that lies in the working folder is not run because PATH names that folder as `.` or by nothing at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from kit import Project

PROGRAMS = ("nvidia-smi", "python3", "python", "git", "torchrun", "sh", "env")
TRAP = """#!/bin/sh
echo "$0" >> "$OWNED"
exec sleep 60
"""


def trapped(project: Project, folder: Path, path: str) -> dict[str, str | None]:
    """Plant programs into a folder, and return the environment that leads there."""
    for name in PROGRAMS:
        (folder / name).write_text(TRAP)
        (folder / name).chmod(0o755)
    return {
        "PATH": path + os.pathsep + os.environ["PATH"],
        "OWNED": str(project.place / "owned"),
        "BACKPROP_GPU_PROBE": "auto",
        "VIRTUAL_ENV": None,
    }


def owned(project: Project) -> list[str]:
    found = project.place / "owned"
    return found.read_text().splitlines() if found.exists() else []


@pytest.mark.parametrize("path", [".", "", "./", "../project"])
def test_nothing_in_the_working_folder_is_run_for_a_look_up_on_path(project: Project, path: str) -> None:
    env = trapped(project, project.folder, path)
    project.write("train.py", "print('trained')")
    for words in [("run", "train.py", "--python", "python3"), ("status",)]:
        done = project.run(*words, env=env, cwd=project.folder, timeout=20)
        assert done.code == 0, done.err
    through = project.run(
        "run", "train.py", "--through", "torchrun", "--dry-run", env=env, cwd=project.folder
    )
    assert "./torchrun" not in through.out
    assert str(project.folder / "torchrun") not in through.out
    assert owned(project) == []


def test_a_measuring_program_from_a_folder_that_others_may_write_is_not_run(project: Project) -> None:
    folder = project.place / "shared"
    folder.mkdir()
    env = trapped(project, folder, str(folder))
    folder.chmod(0o777)
    project.write("train.py", "print('trained')")
    assert project.run("status", env=env, timeout=20).code == 0
    assert not any("nvidia-smi" in name for name in owned(project))
