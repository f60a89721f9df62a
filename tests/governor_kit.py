"""What the Governor's acceptance tests work with besides: machines whose GPUs a test scripts while runs go on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from kit import Project, wait_for
from stub_nvml.build import StubNvml, build, compiler

from backprop_core.testing import FakeNvidiaSmi

TICKING = """
    import os, signal, sys, time

    def note(what):
        with open(f"{what}-{os.environ['BACKPROP_RUN_ID']}", "a") as file:
            file.write(f"{time.monotonic()}\\n")

    def end(*_):
        note("interrupted")
        sys.exit(3)

    signal.signal(signal.SIGINT, end)
    note("started")
    print(os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
    while True:
        note("ticks")
        time.sleep(0.02)
"""
"""A script that notes in its folder when it started, that it lives, and when it was interrupted (CLOCK_MONOTONIC)."""


class GpuProject(Project):
    """A project on a machine whose GPUs an `nvidia-smi` tells of; there is one of 24 GB unless a test says else."""

    def __init__(self, place: Path, *, keeps_log: bool = False) -> None:
        super().__init__(place)
        self.smi = FakeNvidiaSmi(place / "nvidia", keeps_log=keeps_log)
        path = os.pathsep.join([self.smi.path_entry, os.environ["PATH"]])
        self.env |= {"PATH": path, "BACKPROP_GPU_PROBE": "nvidia-smi"}
        self.write("train.py", TICKING)


class NvmlProject(Project):
    """A project on a machine whose GPUs a stub of NVIDIA's library tells of.

    :param library: The folder of the library, as `built_stub` returns it.
    """

    def __init__(self, place: Path, library: Path) -> None:
        super().__init__(place)
        self.nvml = StubNvml(library, place / "machine.txt")
        self.env |= {**self.nvml.environment, "BACKPROP_GPU_PROBE": "nvml"}
        self.write("train.py", TICKING)


def built_stub(folder: Path) -> Path:
    """Build the stub of libnvidia-ml.so.1, or skip where nothing can."""
    if compiler() is None:
        pytest.skip("no C compiler to build the stub of libnvidia-ml.so.1 with")
    return build(folder)


def moments(project: Project, what: str, run_id: str) -> list[float]:
    """When TICKING noted this, in seconds on the monotonic clock."""
    try:
        return [float(line) for line in (project.folder / f"{what}-{run_id}").read_text().split("\n")[:-1]]
    except FileNotFoundError:
        return []


def wait_for_ticks(project: Project, run_id: str) -> None:
    """Wait until the script has shown a sign of life."""
    before = len(moments(project, "ticks", run_id))
    wait_for(lambda: len(moments(project, "ticks", run_id)) > before, "the script to go on")


def pauses(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every pause of every attempt."""
    return [pause for attempt in record["attempts"] for pause in attempt["pauses"]]


def standing(project: Project, *words: object) -> dict[str, Any]:
    """What `backprop status --json` says."""
    done = project.call("status", "--json", *words)
    assert done.code == 0, done.err
    return dict(json.loads(done.out))
