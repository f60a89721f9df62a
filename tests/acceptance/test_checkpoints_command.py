"""`backprop checkpoints`: what there is of a run, whether it is whole, and how it was learned of."""

from __future__ import annotations

import json
import re
from typing import Any

from checkpoint_files import cut
from kit import Done, Project

SAVING = """
    import json, pathlib, sys, time, zipfile
    for name in ("said-step-1.pt", "step-2.pt", "step-3.pt"):
        with zipfile.ZipFile(name, "w") as file:
            file.writestr("data", "weights" * 100)
        if name.startswith("said"):
            print(json.dumps({"step": 1}))
            print(json.dumps({"event": "checkpoint_saved", "path": name}), flush=True)
        time.sleep(0.05)
    pathlib.Path("named.bin").write_text("weights")
    sys.exit(5)
"""


def saved(project: Project) -> None:
    project.write("train.py", SAVING)
    project.call("run", "train.py", "-f", "pytorch", "-n", "it", "--set", "checkpointGlob=*.bin")


def told(done: Done) -> list[dict[str, Any]]:
    assert done.code == 0
    assert done.err == ""
    found: list[dict[str, Any]] = json.loads(done.out)
    return found


def test_each_is_told_with_its_step_and_how_it_was_learned(project: Project) -> None:
    saved(project)
    found = told(project.call("checkpoints", "it", "--json"))
    names = [entry["path"].rpartition("/")[2] for entry in found]
    assert names == ["said-step-1.pt", "step-2.pt", "step-3.pt", "named.bin"]
    assert [entry["learned"] for entry in found] == ["announced", "found", "found", "glob"]
    assert [entry["step"] for entry in found] == [1, 2, 3, None]
    assert [entry["isNext"] for entry in found] == [False, False, False, True]
    assert all(entry["valid"] and entry["sizeBytes"] and entry["at"] for entry in found)


def test_what_has_become_of_them_since_is_told(project: Project) -> None:
    saved(project)
    (project.folder / "named.bin").unlink()
    cut(project.folder / "step-3.pt")
    found = {
        entry["path"].rpartition("/")[2]: entry for entry in told(project.call("checkpoints", "it", "--json"))
    }
    assert [name for name, entry in found.items() if entry["isNext"]] == ["step-2.pt"]
    assert found["named.bin"]["problem"] == "does not exist"
    assert (found["step-3.pt"]["valid"], found["step-3.pt"]["problem"]) == (False, "was cut short")


def test_what_a_plugin_names_is_the_next(project: Project) -> None:
    saved(project)
    project.write("elsewhere.weights", "weights")
    source = """
        from backprop_core import CheckpointSaved, hookimpl

        @hookimpl
        def backprop_find_checkpoint():
            return CheckpointSaved(path="elsewhere.weights", step=9)
    """
    project.write("naming.py", source)
    found = told(project.call("--plugin", "naming", "checkpoints", "it", "--json"))
    assert [(entry["learned"], entry["step"], entry["isNext"]) for entry in found][-2:] == [
        ("glob", None, False),
        ("plugin", 9, True),
    ]


def test_without_json_it_is_a_table(project: Project) -> None:
    saved(project)
    cut(project.folder / "step-2.pt")
    lines = project.run("checkpoints", "it").out.splitlines()
    assert lines[0].split() == ["PATH", "STEP", "SIZE", "WRITTEN", "STATE", "LEARNED"]
    assert [re.split(r"  +", line)[-2] for line in lines[1:]] == [
        "whole",
        "whole",
        "whole, the next",
        "was cut short",
    ], "what was cut short was written to last"


def test_what_lies_there_is_shown_when_the_script_is_gone(project: Project) -> None:
    saved(project)
    (project.folder / "train.py").unlink()
    done = project.call("checkpoints", "it", "--json")
    assert len(json.loads(done.out)) == 4
    assert "only what is recorded is shown" in done.err


def test_a_run_without_any_says_so(project: Project) -> None:
    project.write("train.py", "")
    project.call("run", "train.py", "-n", "none")
    done = project.call("checkpoints", "none")
    assert (done.code, done.out) == (0, "")
    assert "no checkpoint of run none" in done.err
    assert told(project.call("checkpoints", "none", "--json")) == []
    assert project.call("checkpoints", "nobody").code == 66
