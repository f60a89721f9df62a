"""Real trainings by Ultralytics, timm and JAX with Orbax: what they save is found and judged, and gone on from.

The scripts are those of docs/how-to.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from checkpoint_files import cut
from kit import Project
from trainings import PYTHON, checkpoints, first_step, go_on, needs, newest_step, script_of, train_until_saved

pytestmark = pytest.mark.trainers

CPU_NMS = Path(__file__).parents[1] / "cpu_nms.py"
EPOCHS = """
import sys
import cpu_nms, torch
for path in sys.argv[1:]:
    print(torch.load(path, map_location="cpu", weights_only=False)["epoch"])
"""


def newest_epoch(project: Project) -> int | None:
    """Return the newest epoch among the checkpoints that are whole, from what is in them.

    Ultralytics says a word of its own where it has no settings yet.
    """
    whole = [entry["path"] for entry in checkpoints(project) if entry["valid"]]
    if not whole:
        return None
    done = subprocess.run(
        [PYTHON, "-c", EPOCHS, *whole], cwd=project.folder, stdout=subprocess.PIPE, check=True, timeout=300
    )
    return max(int(line) for line in done.stdout.split(b"\n") if line.isdigit())


@pytest.mark.parametrize(
    ("page", "names", "last_step"),
    [
        pytest.param(
            "timm", {"last", "checkpoint", "model_best"}, 120, marks=needs("timm", "torchvision"), id="timm"
        ),
        pytest.param(
            "ultralytics", {"last", "epoch", "best"}, 24, marks=needs("ultralytics", "torchvision"), id="yolo"
        ),
    ],
)
def test_it_goes_on_in_the_epoch_after_its_newest_whole_checkpoint_past_one_that_was_cut_short(
    project: Project, page: str, names: set[str], last_step: int
) -> None:
    shutil.copy(CPU_NMS, project.folder)
    project.write("train.py", "import cpu_nms\n" + script_of(page))
    stopped = train_until_saved(project)
    assert "as it is" not in stopped.err
    assert project.record()["framework"] == page
    found = checkpoints(project)
    assert {Path(entry["path"]).name.partition(".")[0].rstrip("-0123456789") for entry in found} == names
    gone = "does not exist"  # timm keeps the newest three
    assert all(entry["valid"] or entry["problem"] == gone for entry in found), found
    newest = next(Path(entry["path"]) for entry in found if entry["isNext"])
    cut(newest)
    epoch = newest_epoch(project)
    again = go_on(project)
    assert f"passing over the checkpoint {newest}: it was cut short" in again.err
    assert (again.code, first_step(again)) == (0, 0 if epoch is None else epoch + 1)
    record = project.record()
    assert (record["status"], record["lastStep"]) == ("completed", last_step)


@needs("jax", "optax", "orbax-checkpoint")
def test_orbax_goes_on_from_its_newest_step_and_what_it_has_not_finished_is_no_checkpoint(
    project: Project,
) -> None:
    project.write("train.py", script_of("jax"))
    stopped = train_until_saved(project)
    assert "as it is" not in stopped.err
    step = newest_step(project)
    newest = project.folder / "out" / str(step)
    assert project.record()["lastCheckpoint"] == str(newest)
    # As a kill in the midst of saving leaves it.
    half = newest.with_name(f"{step + 25}.orbax-checkpoint-tmp")
    shutil.copytree(newest, half, ignore=shutil.ignore_patterns("commit_success.txt", "_METADATA"))
    assert (half / "_CHECKPOINT_METADATA").exists()
    assert str(half) not in [entry["path"] for entry in checkpoints(project)]
    again = go_on(project)
    assert "passing over" not in again.err
    assert (again.code, first_step(again)) == (0, step)
    record = project.record()
    assert (record["status"], record["lastStep"]) == ("completed", 300)
    assert record["attempts"][-1]["resumedFrom"] == str(newest)
