"""What a run reports is read back by TensorBoard's own reader."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from backprop_core import Progress
from backprop_core.testing import Project, wait_for
from backprop_tensorboard.curves import Curves


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Read every curve as TensorBoard does: tag to steps with values."""
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return {
        tag: [(point.step, round(point.value, 5)) for point in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
    }


@pytest.mark.filterwarnings("ignore")
def test_loss_and_metrics_of_a_run_become_curves(backprop: Project) -> None:
    backprop.write(
        "train.py",
        """
        import json
        for step in range(1, 4):
            print(json.dumps({"step": step, "loss": 1 / step, "epoch": step / 2, "val/f1": 0.25}))
        """,
    )
    assert backprop.run("run", "train.py").code == 0
    folder = backprop.folder / "runs" / backprop.record()["id"]
    assert read(folder) == {
        "loss": [(1, 1.0), (2, 0.5), (3, 0.33333)],
        "epoch": [(1, 0.5), (2, 1.0), (3, 1.5)],
        "val/f1": [(1, 0.25), (2, 0.25), (3, 0.25)],
    }


@pytest.mark.filterwarnings("ignore")
def test_resumed_run_goes_on_with_its_curve_and_repeated_steps_count_once(backprop: Project) -> None:
    backprop.write(
        "train.py",
        """
        import json, os, pathlib
        attempt = int(os.environ["BACKPROP_ATTEMPT"])
        for step in (range(1, 6) if attempt == 1 else range(4, 8)):
            print(json.dumps({"step": step, "loss": float(attempt)}))
        pathlib.Path("c").write_text("3")
        print(json.dumps({"event": "checkpoint_saved", "path": "c", "step": 3}))
        raise SystemExit(3 if attempt == 1 else 0)
        """,
    )
    place = backprop.place / "elsewhere"
    assert backprop.run("run", "train.py", "--tensorboard-dir", place).code == 3
    assert backprop.run("resume", "last").code == 0
    assert read(place / backprop.record()["id"]) == {
        "loss": [(1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0), (5, 2.0), (6, 2.0), (7, 2.0)]
    }


@pytest.mark.filterwarnings("ignore")
def test_attempts_of_one_second_keep_a_curve_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_700_000_000.0)
    for attempt, steps in ((1, range(1, 4)), (2, range(3, 5))):
        curves = Curves(tmp_path, attempt=attempt)
        curves.add([Progress(step=step, loss=float(attempt)) for step in steps])
        curves.close()
    assert read(tmp_path) == {"loss": [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0)]}


@pytest.mark.filterwarnings("ignore")
def test_curves_can_be_watched_while_the_run_goes_on(backprop: Project) -> None:
    backprop.write(
        "train.py",
        """
        import time
        print('{"step": 1, "loss": 0.5}', flush=True)
        time.sleep(60)
        """,
    )
    process = backprop.start("run", "train.py")
    record = backprop.wait_for_state("running")
    folder = backprop.folder / "runs" / record["id"]
    wait_for(lambda: folder.is_dir() and read(folder), "the first point to be written")
    backprop.run("stop", "last")
    backprop.end(process)
    assert read(folder) == {"loss": [(1, 0.5)]}


@pytest.mark.filterwarnings("ignore")
def test_points_without_a_step_follow_on_and_what_is_not_finite_is_left_out(tmp_path: Path) -> None:
    curves = Curves(tmp_path, attempt=1)
    curves.add([Progress(loss=4.0), Progress(step=9, loss=math.nan, metrics={"a": math.inf, "b": 1.0})])
    curves.add([Progress(loss=2.0, at=int(time.time() * 1000))])
    curves.close()
    assert read(tmp_path) == {"loss": [(1, 4.0), (10, 2.0)], "b": [(9, 1.0)]}


def test_run_that_reports_nothing_makes_no_folder(backprop: Project) -> None:
    backprop.write("train.py", "print('hello')")
    assert backprop.run("run", "train.py").code == 0
    assert not (backprop.folder / "runs").exists()


def test_place_that_cannot_be_written_is_named_and_the_run_goes_on(backprop: Project) -> None:
    backprop.write("taken", "a file")
    backprop.write("train.py", """print('{"step": 1, "loss": 0.5}')""")
    done = backprop.run("run", "train.py", "--tensorboard-dir", "taken")
    assert done.code == 0
    assert "plugin tensorboard" in done.err
    assert backprop.record()["lastLoss"] == 0.5
