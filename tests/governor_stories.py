"""What takes long under the Governor's watch: each story is told once, beside other tests, which look at its end."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from governor_kit import GpuProject, NvmlProject, moments, wait_for_ticks
from kit import Done, Project, wait_for
from stub_nvml.build import StubGpu

DWELL_S = 10.0  # the heat rule's: a pause is at least this long
OFTEN = ("--set", "monitorSeconds=0.1")


def readings(project: GpuProject) -> int:
    """How often the GPUs were read since the last call."""
    return sum("--query-gpu" in question for question in project.smi.asked())


class Heat:
    """One GPU that goes from 50 to 95 to 84 to 60 C under a run with a time box of 3 s."""

    every_s = 0.3
    box_s = 3.0

    def __init__(
        self, project: Project, heat: Callable[[int], None], readings: Callable[[], int | None]
    ) -> None:
        heat(50)
        words = ("run", "train.py", "-m", self.box_s / 60, "--set", f"monitorSeconds={self.every_s}")
        running = project.start(*words)
        run_id = project.wait_for_state("running")["id"]
        wait_for_ticks(project, run_id)
        readings()
        heat(95)
        self.paused = project.wait_for_state("paused")
        self.readings_until_paused = readings()
        at_rest = time.monotonic()
        heat(84)
        self.ticks_at_rest = len(moments(project, "ticks", run_id))
        wait_for(lambda: time.monotonic() > at_rest + DWELL_S + 4 * self.every_s, "more than the dwell")
        self.at_84 = project.record()
        self.ticks_at_84 = len(moments(project, "ticks", run_id))
        self.shown = project.run("status", run_id).out
        heat(60)
        cooled = time.monotonic()
        project.wait_for_state("running")
        self.continued_after_s = time.monotonic() - cooled
        wait_for_ticks(project, run_id)
        self.done = project.end(running)
        self.record = project.record()
        self.lived_s = moments(project, "interrupted", run_id)[0] - moments(project, "started", run_id)[0]


def heat_by_nvidia_smi(project: GpuProject) -> Heat:
    return Heat(project, lambda c: project.smi.set([{"index": 0, "temp": c}]), lambda: readings(project))


def heat_by_nvml(place: Path, library: Path) -> Heat:
    project = NvmlProject(place, library)
    try:
        return Heat(
            project,
            lambda c: project.nvml.set(StubGpu(uuid="GPU-1", name="Stub", total=24576, free=24576, temp=c)),
            lambda: None,
        )
    finally:
        project.clean_up()


def lasting_shortage(project: Project) -> Done:
    """RAM that stays short for longer than a pause may wait for it."""
    running = project.start("run", "train.py", *OFTEN)
    wait_for_ticks(project, project.wait_for_state("running")["id"])
    project.machine(ram_free_gb=0.01)
    return project.end(running, timeout=60)


def silence_while_hot(project: GpuProject) -> tuple[dict[str, Any], dict[str, Any], Done]:
    """A probe that fails for longer than its last answer counts, while the run is paused because of heat."""
    running = project.start("run", "train.py", *OFTEN)
    wait_for_ticks(project, project.wait_for_state("running")["id"])
    project.smi.set([{"index": 0, "temp": 95}])
    project.wait_for_state("paused")
    project.smi.fail(9, "NVIDIA-SMI has failed")
    silent_since = time.monotonic()
    wait_for(lambda: time.monotonic() > silent_since + DWELL_S + 2, "the last answer to be stale")
    meanwhile = project.record()
    project.smi.set([{"index": 0, "temp": 60}])
    afterwards = project.wait_for_state("running")
    running.send_signal(signal.SIGTERM)
    return meanwhile, afterwards, project.end(running)


def hanging_at_first(project: GpuProject) -> tuple[Done, Done]:
    """A probe that hangs before anything has started: chosen by itself, and asked for by name."""
    project.smi.hang(40)
    project.write("empty.py", "")
    by_itself = project.start("run", "empty.py", env={"BACKPROP_GPU_PROBE": "auto", "LD_LIBRARY_PATH": None})
    by_name = project.start("run", "empty.py", "--gpu-probe", "nvidia-smi")
    return project.end(by_itself), project.end(by_name)
