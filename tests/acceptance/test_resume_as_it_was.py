"""A run is resumed as what it was: its code and its environment are compared, and what differs is said."""

from __future__ import annotations

from kit import Project

FAILING = """
    import os, sys
    print("with", os.environ.get("KERAS_BACKEND"), os.environ.get("SECRET"), sys.argv[1:])
    sys.exit(5)
"""
TOLD = "the script {} has changed since the last attempt"


def test_a_changed_script_is_said_and_refused_on_request(project: Project) -> None:
    path = project.write("train.py", FAILING)
    project.call("run", "train.py")
    assert "changed" not in project.call("resume", "last", "--same-code").err
    before = project.record()
    path.write_text(path.read_text() + "# another line\n")
    refused = project.call("resume", "last", "--same-code")
    assert (refused.code, refused.err.splitlines()) == (
        2,
        [f"backprop: {TOLD.format(path)}", "  bring it back, or leave out --same-code"],
    )
    assert project.record() == before
    assert f"backprop: {TOLD.format(path)}\n" in project.call("resume", "last").err
    assert "changed" not in project.call("resume", "last", "--same-code").err, (
        "it is that of the last attempt"
    )


def test_another_commit_is_said_and_refused_on_request(project: Project) -> None:
    project.write("train.py", FAILING)
    project.write(".git/HEAD", "a" * 40)
    project.call("run", "train.py")
    assert project.record()["code"]["commit"] == "a" * 40
    project.write(".git/HEAD", "b" * 40)
    told = f"the repository is at commit {'b' * 10}, the last attempt ran at {'a' * 10}"
    refused = project.call("resume", "last", "--same-code")
    assert (refused.code, refused.err.splitlines()[0]) == (2, f"backprop: {told}")
    assert told in project.call("resume", "last").err


def test_the_variables_of_the_allow_list_hold_and_no_other_is_recorded(project: Project) -> None:
    project.write("train.py", FAILING)
    project.call("run", "train.py", env={"KERAS_BACKEND": "torch", "SECRET": "s3cret"})
    again = project.call("resume", "last")
    assert again.out.startswith("with torch None")
    assert "set as when the run began: KERAS_BACKEND\n" in again.err
    record = project.record()
    assert record["environment"]["KERAS_BACKEND"] == "torch"
    assert "s3cret" not in str(record)


LOOPING = """
    import json, sys, zipfile
    class Trainer:
        def train(self):
            with zipfile.ZipFile("model.pt", "w") as file:
                file.writestr("data", "weights")
    Trainer().train()
    sys.exit(5)
"""


def test_the_line_that_a_script_lacks_is_said_at_its_end_and_when_it_is_resumed(project: Project) -> None:
    project.write("train.py", LOOPING)
    ended = project.call("run", "train.py", "-f", "pytorch", "-n", "it")
    line = 'model.load_state_dict(torch.load(path)) before the loop, with path = os.environ.get("BACKPROP_RESUME_FROM")'
    assert ended.err.splitlines()[-2:] == [
        "backprop: go on with: backprop resume it",
        f"backprop: but the script does not go on from a checkpoint as it is: {line}",
    ]
    again = project.call("resume", "it")
    assert f"the script does not go on from {project.folder / 'model.pt'} as it is: {line}\n" in again.err


def test_nothing_is_said_of_a_script_that_takes_the_checkpoint(project: Project) -> None:
    project.write("train.py", LOOPING.replace("sys.exit(5)", 'print("BACKPROP_RESUME_FROM"); sys.exit(5)'))
    assert "as it is" not in project.call("run", "train.py", "-f", "pytorch", "-n", "it").err
