"""For people who write plugins: a project to try them in, a machine that tests script, and what a part has to keep.

It is a plugin of pytest's. Say so in the `conftest.py` at the root of your tests::

    pytest_plugins = ["backprop_core.testing"]

and every test may ask for

- `backprop`: a `Project`. It writes scripts and settings, runs the command in a process of its own or inside this
  one, and tells what was printed and recorded. The machine has room and no GPUs until the test says otherwise.
- `fake_clock`: a `FakeClock` in place of `time.time`, `time.monotonic` and `time.sleep`, for this process alone.

`StorageContract`, `LauncherContract`, `GpuProbeContract` and `EventParserContract` are tests to inherit from: what
every storage, launcher, probe or parser keeps.

This package needs pytest, which Backprop itself does not depend on; nothing else in Backprop imports it. It is no
entry point, so that the tests of people who merely have Backprop installed do not load it. (PYTEST_DONT_REWRITE:
nothing is asserted in this file; the ones that assert are named below.)
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite(
    *(f"{__name__}.{name}" for name in ("project", "storage_contract", "launcher_contract")),
    *(f"{__name__}.{name}" for name in ("probe_contract", "parser_contract")),
)

from .fake_clock import FakeClock  # noqa: E402 - what asserts is rewritten when it is imported
from .launcher_contract import LauncherContract  # noqa: E402
from .parser_contract import EventParserContract  # noqa: E402
from .probe_contract import GpuProbeContract  # noqa: E402
from .project import CHILDREN, LIMIT_S, Done, Project, command, wait_for  # noqa: E402
from .samples import full_record, make_record  # noqa: E402
from .scripted_gpus import FakeGpu, FakeNvidiaSmi  # noqa: E402
from .storage_contract import Factory, StorageContract, ids  # noqa: E402

__all__ = [
    "CHILDREN",
    "LIMIT_S",
    "Done",
    "EventParserContract",
    "Factory",
    "FakeClock",
    "FakeGpu",
    "FakeNvidiaSmi",
    "GpuProbeContract",
    "LauncherContract",
    "Project",
    "StorageContract",
    "backprop",
    "command",
    "fake_clock",
    "full_record",
    "ids",
    "make_record",
    "wait_for",
]


@pytest.fixture
def backprop(tmp_path: Path) -> Iterator[Project]:
    """A project folder, a home and a machine with room; nobody that a command starts outlives the test."""
    project = Project(tmp_path)
    yield project
    project.clean_up()


@pytest.fixture
def fake_clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """A clock that stands still until the test lets time pass."""
    clock = FakeClock()
    clock.install(monkeypatch)
    return clock
