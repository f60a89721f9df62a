"""Real trainings by real libraries, cut off by a time box, go on from the right step, or say what they lack.

The scripts are those of docs/how-to.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from checkpoint_files import cut
from kit import Project
from trainings import (
    LIMIT_S,
    PYTHON,
    checkpoints,
    first_step,
    go_on,
    needs,
    newest_step,
    script_of,
    train_until_saved,
    with_line,
)

LAST_STEP = 300
pytestmark = pytest.mark.trainers

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
