"""What tests of real trainings by real libraries share: the scripts of docs/how-to, and time boxes that cut them off.

Another interpreter than the tests' own can be named by TRAINERS_PYTHON.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from kit import Done, Project

from backprop_core.description import versions_in

PAGES = Path(__file__).parents[1] / "docs" / "how-to"
PYTHON = os.environ.get("TRAINERS_PYTHON", sys.executable)
QUIETLY = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
"""Nothing is looked up, and nobody waits for threads that share too few cores."""
SLOWLY = {**QUIETLY, "STEP_SECONDS": "0.2"}
MINUTES = (0.34, 0.7, 1.4, 2.8)
"""The first time box is enough where importing takes seconds; where it takes longer, so may the next."""
LIMIT_S = 600.0

DISTRIBUTIONS = (
    *("torch", "transformers", "accelerate", "lightning", "keras", "numpy", "timm", "ultralytics", "jax"),
    *("optax", "orbax-checkpoint", "torchvision"),
)
VERSIONS = versions_in(PYTHON, DISTRIBUTIONS)


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
    return project.run("resume", "it", "-m", 10, env=QUIETLY, timeout=LIMIT_S)


def checkpoints(project: Project) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(project.run("checkpoints", "it", "--json").out)
    return found


def newest_step(project: Project) -> int:
    """The step of the newest checkpoint; of Lightning's `last.ckpt` that of the other one."""
    return max(int(entry["step"]) for entry in checkpoints(project) if entry["valid"] and entry["step"])


def first_step(done: Done) -> int:
    found = re.search(r"training from (?:step|epoch) (\d+)", done.out)
    assert found, done
    return int(found[1])
