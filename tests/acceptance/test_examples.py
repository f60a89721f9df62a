"""The examples do what their page says, on their own: they learn, and they go on from where they were."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
INTERRUPTED = 130


def inside_a_run(run_dir: Path) -> dict[str, str]:
    """Return the environment in which the helper speaks, with the checkpoint in `run_dir`."""
    told = {"BACKPROP_RUN_ID": "some-run", "BACKPROP_RUN_DIR": str(run_dir), "PYTHONUNBUFFERED": "1"}
    return {name: value for name, value in os.environ.items() if not name.startswith("BACKPROP_")} | told


def train(name: str, run_dir: Path, *arguments: str, python: Sequence[str] = (sys.executable,)) -> list[str]:
    """Run an example to its end; return the lines it printed."""
    run_dir.mkdir(exist_ok=True)
    done = subprocess.run(
        [*python, str(EXAMPLES / name), *arguments],
        cwd=run_dir,
        env=inside_a_run(run_dir),
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout.splitlines()


def interrupt(name: str, run_dir: Path, *arguments: str, after_step: int) -> list[str]:
    """Run an example and send it SIGINT once it has reported a step; return the lines it printed."""
    run_dir.mkdir(exist_ok=True)
    lines: list[str] = []
    with subprocess.Popen(
        [sys.executable, str(EXAMPLES / name), *arguments],
        env=inside_a_run(run_dir),
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            lines.append(line.rstrip())
            if last_value(lines[-1:], "step", default=0) >= after_step:
                child.send_signal(signal.SIGINT)
                break
        lines += child.stdout.read().splitlines()
        assert child.wait(60) == INTERRUPTED
    return lines


def last_value(lines: Sequence[str], key: str, default: Any = None) -> Any:
    told = [json.loads(line) for line in lines if line.startswith("{")]
    return next((values[key] for values in reversed(told) if key in values), default)


def test_the_iris_data_are_the_published_ones() -> None:
    with (EXAMPLES / "iris.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    kinds = {
        kind: [row for row in rows if row["species"] == kind] for kind in {row["species"] for row in rows}
    }
    assert {kind: len(members) for kind, members in kinds.items()} == {
        "setosa": 50, "versicolor": 50, "virginica": 50,
    }  # fmt: skip
    means = {
        kind: tuple(round(fmean(float(row[name]) for row in members), 3) for name in list(rows[0])[:4])
        for kind, members in kinds.items()
    }
    assert means == {
        "setosa": (5.006, 3.428, 1.462, 0.246),
        "versicolor": (5.936, 2.770, 4.260, 1.326),
        "virginica": (6.588, 2.974, 5.552, 2.026),
    }
    measures = [tuple(row.values())[:4] for row in rows]
    assert measures[34] == ("4.9", "3.1", "1.5", "0.2")
    assert measures[37] == ("4.9", "3.6", "1.4", "0.1")


@pytest.mark.soak
def test_the_iris_network_names_flowers_it_has_never_seen(tmp_path: Path) -> None:
    lines = train("train_iris.py", tmp_path)
    assert last_value(lines, "test_accuracy") >= 0.93
    assert last_value(lines, "path") == str(tmp_path / "iris-checkpoint.json")
    assert [path.name for path in tmp_path.iterdir()] == ["iris-checkpoint.json"]


def test_the_iris_example_needs_nothing_but_the_standard_library(tmp_path: Path) -> None:
    lines = train("train_iris.py", tmp_path, "--epochs", "20", python=[sys.executable, "-I", "-S"])
    assert last_value(lines, "step") == 20


def epoch_of(checkpoint: Path) -> int:
    return int(json.loads(checkpoint.read_text())["epoch"])


def test_an_interrupted_iris_training_ends_with_the_weights_of_an_uninterrupted_one(tmp_path: Path) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    saved, endless = broken / "iris-checkpoint.json", ("--epochs", "1000000")
    interrupt("train_iris.py", broken, *endless, after_step=20)
    first = epoch_of(saved)
    again = interrupt("train_iris.py", broken, *endless, "--resume-from", str(saved), after_step=first + 20)
    assert first < last_value(again[:3], "step") <= first + 20
    epochs = str(epoch_of(saved) + 20)
    train("train_iris.py", broken, "--epochs", epochs, "--resume-from", str(saved))
    train("train_iris.py", straight, "--epochs", epochs)
    assert saved.read_text() == (straight / saved.name).read_text()
    assert epoch_of(saved) == int(epochs)


@pytest.fixture
def torch() -> Any:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    return pytest.importorskip("torch")


@pytest.mark.torch
def test_the_digits_network_reads_digits_it_has_never_seen(torch: Any, tmp_path: Path) -> None:
    lines = train("train_digits_torch.py", tmp_path, "--epochs", "12")
    assert last_value(lines, "test_accuracy") >= 0.95
    assert [path.name for path in tmp_path.iterdir()] == ["digits-checkpoint.pt"]


@pytest.mark.torch
def test_an_interrupted_digits_training_ends_with_the_weights_of_an_uninterrupted_one(
    torch: Any, tmp_path: Path
) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    train("train_digits_torch.py", straight, "--epochs", "6")
    saved = broken / "digits-checkpoint.pt"
    interrupt("train_digits_torch.py", broken, "--epochs", "6", after_step=40)
    stopped_at = torch.load(saved)["epoch"]
    train("train_digits_torch.py", broken, "--epochs", "6", "--resume-from", str(saved))
    assert 2 <= stopped_at < 6
    expected, found = torch.load(straight / saved.name), torch.load(saved)
    assert found["step"] == expected["step"]
    for name, weights in expected["network"].items():
        assert torch.equal(found["network"][name], weights), name
