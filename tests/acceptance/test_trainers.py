"""Real trainings by real libraries, cut off by a time box, go on from the right step, or say what they lack.

The scripts are those of docs/how-to. Another interpreter than the tests' own can be named by TRAINERS_PYTHON.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from checkpoint_files import cut
from kit import Done, Project

from backprop_core.description import versions_in

PAGES = Path(__file__).parents[2] / "docs" / "how-to"
PYTHON = os.environ.get("TRAINERS_PYTHON", sys.executable)
SLOWLY = {"STEP_SECONDS": "0.2", "HF_HUB_OFFLINE": "1"}
MINUTES = (0.34, 0.7, 1.4, 2.8)
"""The first time box is enough where importing takes seconds; where it takes longer, so may the next."""
LIMIT_S = 600.0
LAST_STEP = 300

VERSIONS = versions_in(PYTHON, ["torch", "transformers", "accelerate", "lightning", "keras", "numpy"])
pytestmark = pytest.mark.trainers


def needs(*names: str) -> pytest.MarkDecorator:
    missing = [name for name in names if VERSIONS[name] is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed for {PYTHON}")


def script_of(page: str) -> str:
    """Return the complete script that a page shows."""
    found = re.search(r"^```python\n(.*?)^```$", (PAGES / f"{page}.md").read_text(), re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


def with_line(source: str, new: str, old: str) -> str:
    assert source.count(old) == 1
    return source.replace(old, new)


def train_until_saved(project: Project, *arguments: str) -> Done:
    """Train in a short time box, and on a slow machine in longer ones, until there is a checkpoint."""
    words: tuple[object, ...] = ("run", "train.py", "-n", "it", "--python", PYTHON)
    given = ("--", *arguments) if arguments else ()
    for minutes in MINUTES:
        done = project.run(*words, "-m", minutes, *given, env=SLOWLY, timeout=LIMIT_S)
        assert (done.code, project.record()["status"]) == (0, "timeboxed"), done
        if project.record()["checkpoints"]:
            break
        words, given = ("resume", "it"), ()
    return done


def go_on(project: Project) -> Done:
    return project.run("resume", "it", "-m", 10, timeout=LIMIT_S)


def checkpoints(project: Project) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(project.run("checkpoints", "it", "--json").out)
    return found


def newest_step(project: Project) -> int:
    """The step of the newest checkpoint; of Lightning's `last.ckpt` that of the other one."""
    return max(int(entry["step"]) for entry in checkpoints(project) if entry["valid"] and entry["step"])


def first_step(done: Done) -> int:
    found = re.search(r"training from step (\d+)", done.out)
    assert found, done
    return int(found[1])


AS_IT_IS = [
    pytest.param("pytorch", None, marks=needs("torch")),
    pytest.param("accelerate", None, marks=needs("accelerate")),
    pytest.param(
        "hugging-face",
        (
            'get_last_checkpoint("out") if os.path.isdir("out") else None',
            'os.environ.get("BACKPROP_RESUME_FROM")',
        ),
        marks=needs("transformers", "accelerate"),
    ),
    pytest.param("lightning", ('"last"', 'os.environ.get("BACKPROP_RESUME_FROM")'), marks=needs("lightning")),
]


@pytest.mark.parametrize(("page", "line"), AS_IT_IS)
def test_a_script_that_was_cut_off_goes_on_from_the_step_of_its_newest_checkpoint(
    project: Project, page: str, line: tuple[str, str] | None
) -> None:
    source = with_line(script_of(page), *line) if line else script_of(page)
    if page == "hugging-face":
        source = "from transformers.trainer_utils import get_last_checkpoint\n" + source
    project.write("train.py", source)
    stopped = train_until_saved(project)
    step = newest_step(project)
    assert 0 < step < LAST_STEP
    assert "as it is" not in stopped.err
    assert project.record()["lastStep"] >= step, "steps were read while it ran"
    again = go_on(project)
    assert (again.code, first_step(again)) == (0, step)
    record = project.record()
    assert record["status"] == "completed"
    if page == "lightning":  # its bar does not tell the step where the last epoch is resumed
        assert step <= record["lastStep"] <= LAST_STEP
    else:
        assert record["lastStep"] == (320 if page == "accelerate" else LAST_STEP)


@needs("keras", "torch")
def test_keras_goes_on_in_the_epoch_after_its_backup(project: Project) -> None:
    project.write("train.py", script_of("keras"))
    stopped = train_until_saved(project)
    backup = project.folder / "backup"
    assert project.record()["lastCheckpoint"] == str(backup)
    epoch = json.loads((backup / "training_metadata.json").read_text())["epoch"]
    assert 0 < epoch < 40
    assert "as it is" not in stopped.err
    again = go_on(project)
    assert re.findall(r"Epoch (\d+)/40", again.out)[0] == str(epoch + 1)
    assert (again.code, project.record()["status"], project.record()["lastStep"]) == (0, "completed", 320)


LACKING = [
    pytest.param(
        "hugging-face",
        "trainer.train()",
        'trainer.train(resume_from_checkpoint=os.environ.get("BACKPROP_RESUME_FROM"))',
        marks=needs("transformers", "accelerate"),
    ),
    pytest.param(
        "lightning",
        "trainer.fit(Line(), batches)",
        'trainer.fit(Line(), batches, ckpt_path=os.environ.get("BACKPROP_RESUME_FROM"))',
        marks=needs("lightning"),
    ),
]


@pytest.mark.parametrize(("page", "without", "line"), LACKING)
def test_a_script_that_begins_anew_is_told_its_line_and_goes_on_with_it_past_a_broken_checkpoint(
    project: Project, page: str, without: str, line: str
) -> None:
    path = project.write("train.py", with_line(script_of(page), without, line))
    number = path.read_text().splitlines().index(without) + 1
    stopped = train_until_saved(project)
    missing = re.sub(r"\(.*, ", "(..., ", line)
    assert f"as it is: train.py, line {number}: {missing}\n" in stopped.err
    newest = next(Path(entry["path"]) for entry in checkpoints(project) if entry["isNext"])
    cut(newest / "model.safetensors" if newest.is_dir() else newest)
    whole = [entry["step"] for entry in checkpoints(project) if entry["valid"] and entry["step"]]
    project.write("train.py", script_of(page))
    again = go_on(project)
    assert f"the script {path} has changed" in again.err
    assert f"passing over the checkpoint {newest}: " in again.err
    assert (again.code, first_step(again)) == (0, max(whole, default=0))
    assert project.record()["status"] == "completed"


@needs("torch")
def test_a_run_whose_every_checkpoint_is_broken_starts_afresh_aloud(project: Project) -> None:
    project.write("train.py", script_of("pytorch"))
    train_until_saved(project, "--steps", "300")
    for path in (project.folder / "out").iterdir():
        cut(path)
    again = go_on(project)
    assert "no checkpoint can be used: starting afresh" in again.err
    assert first_step(again) == 0
    assert (project.record()["status"], project.record()["lastStep"]) == ("completed", LAST_STEP)


@needs("numpy")
def test_a_loop_of_ones_own_goes_on_from_what_it_announces(project: Project) -> None:
    project.write("train.py", script_of("make-any-script-resumable"))
    done = project.run("run", "train.py", "-n", "it", "--python", PYTHON, timeout=LIMIT_S)
    assert (done.code, first_step(done)) == (0, 0)
    (saved,) = checkpoints(project)
    assert (saved["step"], saved["learned"], saved["valid"]) == (300, "announced", True)
    again = project.run("run", "train.py", "-r", saved["path"], "--python", PYTHON, timeout=LIMIT_S)
    assert (again.code, first_step(again)) == (0, 300)
