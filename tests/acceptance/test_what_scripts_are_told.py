"""What a script is told of its run: by its environment, its arguments where it names them, and the helper."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kit import Project

ENVIRONMENT = """
    import json, os
    print(json.dumps({k: v for k, v in os.environ.items() if k.startswith("BACKPROP_") or k == "PYTHONUNBUFFERED"}))
"""


def told(done_out: str) -> dict[str, Any]:
    """The contract's variables among those that the script saw."""
    seen: dict[str, Any] = json.loads(done_out)
    ours = ("BACKPROP_HOME", "BACKPROP_TEST_HOST", "BACKPROP_GPU_PROBE", "BACKPROP_DISABLE_PLUGIN_AUTOLOAD")
    return {name: value for name, value in seen.items() if name not in ours}


def test_the_environment_tells_the_script_what_it_is_part_of(project: Project) -> None:
    project.write("train.py", ENVIRONMENT)
    done = project.run("run", "train.py", "-m", "5", "-c", "1.5", "-f", "pytorch", "--run-id", "mine")
    assert told(done.out) == {
        "BACKPROP_RUN_ID": "mine",
        "BACKPROP_ATTEMPT": "1",
        "BACKPROP_RUN_DIR": str(project.home / "runs" / "mine"),
        "BACKPROP_MAX_RUN_SECONDS": "300",
        "BACKPROP_CHECKPOINT_EVERY_SECONDS": "90",
        "BACKPROP_FRAMEWORK": "pytorch",
        "PYTHONUNBUFFERED": "1",
    }


def test_a_run_inside_a_run_is_told_of_its_own_alone(project: Project) -> None:
    project.write("train.py", ENVIRONMENT)
    outer = {
        "BACKPROP_RUN_ID": "outer",
        "BACKPROP_ATTEMPT": "4",
        "BACKPROP_RUN_DIR": "/elsewhere",
        "BACKPROP_MAX_RUN_SECONDS": "1",
        "BACKPROP_CHECKPOINT_EVERY_SECONDS": "1",
        "BACKPROP_RESUME_FROM": "/elsewhere/model.pt",
        "BACKPROP_FRAMEWORK": "pytorch",
    }
    seen = told(project.call("run", "train.py", "--set", "unbuffered=false", env=outer).out)
    assert set(seen) == {
        "BACKPROP_RUN_ID", "BACKPROP_ATTEMPT", "BACKPROP_RUN_DIR", "BACKPROP_MAX_RUN_SECONDS",
    }  # fmt: skip
    assert (seen["BACKPROP_ATTEMPT"], seen["BACKPROP_MAX_RUN_SECONDS"]) == ("1", "600")
    assert project.record()["framework"] is None


STRICT = """
    import argparse
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float)
    print(parser.parse_args())
"""
NAMING = """
    import argparse, json
    parser = argparse.ArgumentParser()
    for name in ("--resume-from", "--run-id", "--framework"):
        parser.add_argument(name)
    parser.add_argument("--max-minutes", type=float)
    parser.add_argument("--checkpoint-every-seconds", type=float)
    print(json.dumps(vars(parser.parse_args())))
    raise SystemExit(1)
"""


def test_a_strict_argument_parser_is_given_nothing_that_it_did_not_ask_for(project: Project) -> None:
    project.write("train.py", STRICT)
    checkpoint = project.write("model.bin", "weights")
    done = project.call("run", "train.py", "-r", checkpoint, "-c", "1", "--", "--lr", "0.5")
    assert (done.code, done.out) == (0, "Namespace(lr=0.5)\n")


def test_a_script_that_names_the_arguments_gets_them_in_run_and_resume(project: Project) -> None:
    project.write("train.py", NAMING)
    first, second = (str(project.write(f"{name}.bin", "weights")) for name in ("first", "second"))
    fresh = project.call("run", "train.py", "-m", "2.5", "--run-id", "mine")
    assert json.loads(fresh.out) == {
        "resume_from": None, "run_id": "mine", "max_minutes": 2.5, "framework": None,
        "checkpoint_every_seconds": None,
    }  # fmt: skip
    again = project.call("resume", "mine", "-r", first, "-c", "1", "-m", "5", "-f", "pytorch")
    assert json.loads(again.out) == {
        "resume_from": first, "run_id": "mine", "max_minutes": 5, "framework": "pytorch",
        "checkpoint_every_seconds": 60,
    }  # fmt: skip
    given = project.call("run", "train.py", "-r", first)
    assert json.loads(given.out)["resume_from"] == first
    own = project.call("run", "train.py", "-r", first, "--", "--resume-from", second)
    assert json.loads(own.out)["resume_from"] == second


def test_the_checkpoint_stands_where_the_arguments_ask_for_it(project: Project) -> None:
    project.write("train.py", "import sys; print(sys.argv[1:]); raise SystemExit(1)")
    checkpoint = project.write("model.bin", "weights")
    given = ["--weights={resume_from}", "{resume_from}", "{}"]
    fresh = project.call("run", "train.py", "-n", "it", "--", *given)
    assert fresh.out == "['--weights=', '', '{}']\n"
    again = project.call("resume", "it", "-r", "model.bin")
    assert again.out == f"['--weights={checkpoint}', '{checkpoint}', '{{}}']\n"
    assert project.record("it")["scriptArgs"] == given


HELPED = """
    import sys, time
    from backprop_core.script import checkpoint, report, resume_path, should_checkpoint, should_stop, time_left

    step = int(open(resume_path()).read()) if resume_path() else 0
    print("from", step, "with", round(time_left(), 1) if time_left() else None, flush=True)
    while not should_stop():
        step += 1
        report(step=step, loss=1 / step, lr=0.1)
        time.sleep(0.01)
    with open("model.txt", "w") as file:
        file.write(str(step))
    checkpoint("model.txt")
"""


def test_the_helper_reports_saves_in_time_and_goes_on(project: Project) -> None:
    project.write("train.py", HELPED)
    done = project.run("run", "train.py", "-m", "0.03", "-n", "helped")
    record = project.record()
    saved = int((project.folder / "model.txt").read_text())
    assert done.code == 0
    assert done.out.startswith(("from 0 with 1.", "from 0 with 0."))
    assert (record["status"], record["lastStep"], record["metrics"]) == ("timeboxed", saved, {"lr": 0.1})
    assert saved > 1
    assert record["lastCheckpoint"] == str(project.folder / "model.txt")
    assert (record["endTime"] - record["attempts"][0]["start"]) / 1000 < 20
    again = project.run("resume", "helped")
    assert f"from {saved} with " in again.out
    assert project.record()["lastStep"] > saved


def test_the_helper_is_silent_outside_of_a_run(project: Project) -> None:
    project.write(
        "train.py", HELPED.replace("while not should_stop()", "while step < 3 and not should_stop()")
    )
    alone = subprocess.run(
        [sys.executable, "train.py"],
        cwd=project.folder,
        env=project.environ(),
        capture_output=True,
        check=True,
    )
    assert alone.stdout == b"from 0 with None\n"


@pytest.fixture
def bare_python(tmp_path: Path) -> Path:
    """An interpreter that has the standard library and nothing else."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    return tmp_path / "bare" / "bin" / "python"


def test_the_helper_and_nothing_else_is_lent_to_an_interpreter_without_it(
    project: Project, bare_python: Path
) -> None:
    script = """
        import importlib.util, os, sys
        import local_module
        import backprop_core, backprop_core.script
        found = [name for name in ("msgspec", "typer", "pluggy", "backprop_builtin") if importlib.util.find_spec(name)]
        print(sys.executable, found, sorted(os.listdir(os.path.dirname(backprop_core.__file__))))
        backprop_core.script.report(step=1, loss=0.5)
    """
    project.write("train.py", script)
    project.write("mine/local_module.py", "")
    mine = {"PYTHONPATH": str(project.folder / "mine"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = project.call("run", "train.py", "--python", bare_python, env=mine)
    assert (done.code, done.err.count("\n")) == (0, 1), done
    assert done.out.splitlines()[0] == f"{bare_python} [] ['__init__.py', 'script.py']"
    record = project.record()
    assert (record["python"], record["lastStep"], record["lastLoss"]) == (str(bare_python), 1, 0.5)


def test_the_projects_own_environment_runs_the_script(project: Project, bare_python: Path) -> None:
    project.write("train.py", "import sys; print(sys.prefix)")
    project.write("backprop.toml", "")
    (project.folder / ".venv").symlink_to(bare_python.parents[1])
    assert project.call("run", "train.py").out == f"{project.folder / '.venv'}\n"
    activated = {"VIRTUAL_ENV": str(bare_python.parents[1])}
    assert project.call("run", "train.py", env=activated).out == f"{bare_python.parents[1]}\n"
    chosen = project.call("run", "train.py", "--python", sys.executable, env=activated)
    assert chosen.out == f"{sys.prefix}\n"
