"""`backprop checkpoints RUN --keep-last N` keeps the newest whole ones, and asks about what nobody announced."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkpoint_files import cut
from kit import Project, command
from terminal import Terminal

SAVING = """
    import json, os, pathlib, sys, time, zipfile
    for step in range(1, 6):
        name = pathlib.Path(f"out/step-{step}.pt")
        name.parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(name, "w") as file:
            file.writestr("data", "weights" * 100)
        if "say" in sys.argv:
            print(json.dumps({"event": "checkpoint_saved", "path": str(name)}), flush=True)
        time.sleep(0.05)
    sys.exit(5)
"""


def trained(project: Project, *arguments: str) -> None:
    project.write("train.py", SAVING)
    project.call("run", "train.py", "-f", "pytorch", "-n", "it", "--", *arguments)


def left(project: Project) -> list[str]:
    return sorted(path.name for path in (project.folder / "out").iterdir())


def test_what_the_script_announced_goes_without_a_question(project: Project) -> None:
    trained(project, "say")
    done = project.call("checkpoints", "it", "--keep-last", "2")
    assert done.code == 0
    assert left(project) == ["step-4.pt", "step-5.pt"]
    assert "deleted 3 checkpoints" in done.err
    record = project.record()
    assert [Path(path).name for path in record["checkpoints"]] == ["step-4.pt", "step-5.pt"]
    assert record["lastCheckpoint"].endswith("step-5.pt")
    assert "step-3.pt" not in project.call("checkpoints", "it").out


def test_what_was_found_is_not_deleted_unasked(project: Project) -> None:
    trained(project)
    done = project.run("checkpoints", "it", "--keep-last", "2")
    assert done.code == 2
    assert "3 checkpoints were not seen being made" in done.err
    assert "--yes" in done.err
    assert len(left(project)) == 5
    assert project.run("checkpoints", "it", "--keep-last", "2", "--yes").code == 0
    assert left(project) == ["step-4.pt", "step-5.pt"]


@pytest.mark.parametrize(("answer", "stay"), [("y", 2), ("", 5)])
def test_a_person_is_asked(project: Project, answer: str, stay: int) -> None:
    trained(project)
    words = [*command(), "checkpoints", "it", "--keep-last", "2"]
    with Terminal(words, cwd=project.folder, env=project.environ()) as terminal:
        terminal.wait_for("delete them?")
        terminal.press(f"{answer}\r")
        assert terminal.end() == 0
    assert len(left(project)) == stay


def test_a_broken_newest_one_does_not_count_as_kept(project: Project) -> None:
    trained(project, "say")
    cut(project.folder / "out" / "step-5.pt")
    project.call("checkpoints", "it", "--keep-last", "2", "--yes")
    assert left(project) == ["step-3.pt", "step-4.pt"]


def test_with_no_more_than_that_nothing_is_deleted(project: Project) -> None:
    trained(project, "say")
    for step in (3, 4, 5):
        cut(project.folder / "out" / f"step-{step}.pt")
    done = project.call("checkpoints", "it", "--keep-last", "2", "--yes")
    assert (done.code, len(left(project))) == (0, 5)
    assert "nothing to delete" in done.err


@pytest.mark.parametrize("number", ["0", "-1", "x"])
def test_a_number_that_keeps_none_is_refused(project: Project, number: str) -> None:
    assert project.call("checkpoints", "it", "--keep-last", number).code == 2
