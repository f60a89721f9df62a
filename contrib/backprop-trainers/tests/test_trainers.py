"""Real trainings: cut into time boxes they end with the weights of one that was not cut."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from backprop_core.testing import Project

SCRIPTS = Path(__file__).parent / "scripts"
STEPS = {"huggingface": 24, "lightning": 48, "keras": 48}
PACKAGES = {"huggingface": "transformers", "lightning": "lightning", "keras": "keras"}
LIMIT_S = 300


@pytest.fixture(params=STEPS)
def trainer(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    for package in ("torch", PACKAGES[name]):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    return name


@pytest.fixture
def script(trainer: str, backprop: Project) -> str:
    for name in ("pacing.py", f"train_{trainer}.py"):
        shutil.copy(SCRIPTS / name, backprop.folder / name)
    return f"train_{trainer}.py"


def weights_in(path: Path) -> list[Any]:
    """Return the arrays of a file that a script has left, in their order."""
    if path.suffix == ".npz":
        import numpy

        with numpy.load(path) as file:
            return [file[name].tolist() for name in file.files]
    import torch

    return [tensor.tolist() for tensor in torch.load(path, weights_only=True).values()]


def test_cut_into_time_boxes_it_ends_with_the_weights_of_an_uncut_training(
    trainer: str, script: str, backprop: Project
) -> None:
    suffix = "npz" if trainer == "keras" else "pt"
    outside = {name: text for name, text in os.environ.items() if not name.startswith("BACKPROP_")}
    subprocess.run(
        [sys.executable, script, f"uncut.{suffix}"],
        cwd=backprop.folder,
        env=outside,
        check=True,
        timeout=LIMIT_S,
    )
    if trainer == "huggingface":
        shutil.rmtree(backprop.folder / "out", ignore_errors=True)
    done = backprop.run(
        "run", script, "--python", sys.executable, "--until-done", "-m", "10", "--", f"cut.{suffix}",
        timeout=LIMIT_S,
    )  # fmt: skip
    record = backprop.record()
    output = (backprop.run_folder() / "output.log").read_text()
    assert (done.code, record["status"]) == (0, "completed"), output
    assert [attempt["status"] for attempt in record["attempts"]] == ["timeboxed", "timeboxed", "completed"], (
        output
    )
    assert record["lastStep"] == STEPS[trainer]
    assert record["metrics"]["totalSteps"] == STEPS[trainer]
    assert record["lastLoss"] > 0
    ends = [attempt["lastStep"] for attempt in record["attempts"]]
    assert ends == sorted(set(ends))
    cut, uncut = (weights_in(backprop.folder / f"{name}.{suffix}") for name in ("cut", "uncut"))
    assert len(uncut) >= 4
    assert cut == uncut


def test_outside_a_run_nothing_is_saved(script: str, backprop: Project) -> None:
    outside = {name: text for name, text in os.environ.items() if not name.startswith("BACKPROP_")}
    before = {path.name for path in backprop.folder.iterdir()}
    last = "last.npz" if "keras" in script else "last.pt"
    subprocess.run(
        [sys.executable, script, last], cwd=backprop.folder, env=outside, check=True, timeout=LIMIT_S
    )
    left = {path.name for path in backprop.folder.iterdir() if path.is_file()} - before
    assert left == {last}
    assert not list(backprop.folder.rglob("*.ckpt"))
    assert not list(backprop.folder.rglob("checkpoint-*"))


def test_importing_the_package_imports_no_trainer() -> None:
    code = (
        "import sys, backprop_trainers, backprop_trainers._told, backprop_trainers._pace, backprop_trainers._places\n"
        "print(sorted({'torch', 'transformers', 'lightning', 'keras', 'msgspec'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == "[]\n"
