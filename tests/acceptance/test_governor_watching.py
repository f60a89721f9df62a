"""While a run goes on the Governor watches: it pauses on heat and shortage, continues, and stops what must be.

What takes long is a story (`governor_stories`): all of them begin with the first test and go on beside the others.
"""

from __future__ import annotations

import signal
import statistics
import subprocess
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from governor_kit import GpuProject, NvmlProject, built_stub, moments, pauses, wait_for_ticks
from governor_stories import (
    DWELL_S,
    OFTEN,
    Heat,
    hanging_at_first,
    heat_by_nvidia_smi,
    heat_by_nvml,
    lasting_shortage,
    readings,
    silence_while_hot,
)
from hanging_probe import Hanging
from kit import Done, Project, wait_for
from stub_nvml.build import Call, StubGpu

SLOWDOWN_BY_HEAT = 0x40


@pytest.fixture
def project(tmp_path: Path) -> Iterator[GpuProject]:
    made = GpuProject(tmp_path, keeps_log=True)
    yield made
    made.clean_up()


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Build the stub of NVIDIA's library for the first who asks; skip whoever does where nothing can build it."""
    return cache(lambda: built_stub(tmp_path_factory.mktemp("stub_nvml")))


@pytest.fixture(scope="module")
def stories(
    tmp_path_factory: pytest.TempPathFactory, library: Callable[[], Path]
) -> Iterator[Mapping[str, Future[Any]]]:
    places = [tmp_path_factory.mktemp("story") for _ in range(5)]
    smi, silent, hanging = (GpuProject(place, keeps_log=True) for place in places[:3])
    short = GpuProject(places[3])
    tellers: dict[str, Callable[[], Any]] = {
        "heat by nvidia-smi": lambda: heat_by_nvidia_smi(smi),
        "heat by nvml": lambda: heat_by_nvml(places[4], library()),
        "silence": lambda: silence_while_hot(silent),
        "hanging": lambda: hanging_at_first(hanging),
        "shortage": lambda: (lasting_shortage(short), short.record()),
    }
    with ThreadPoolExecutor(len(tellers)) as pool:
        yield {name: pool.submit(teller) for name, teller in tellers.items()}
        for project in (smi, silent, hanging, short):
            project.clean_up()


def wait_for_readings(project: GpuProject, count: int) -> None:
    seen = [0]

    def enough() -> bool:
        seen[0] += readings(project)
        return seen[0] >= count

    wait_for(enough, f"{count} readings")


# --- heat ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("stories")  # which are told meanwhile
def test_slowdown_by_heat_pauses_at_any_temperature(project: GpuProject) -> None:
    running = project.start("run", "train.py", *OFTEN)
    wait_for_ticks(project, project.wait_for_state("running")["id"])
    project.smi.set([{"index": 0, "temp": 70, "throttle": SLOWDOWN_BY_HEAT}])
    paused = project.wait_for_state("paused")
    assert "GPU 0 is at 70 C and slowed down by its driver" in paused["reason"]
    running.send_signal(signal.SIGTERM)
    assert project.end(running).code == 143
    assert project.record()["status"] == "stopped"


def test_a_temperature_that_is_not_told_never_pauses(project: GpuProject) -> None:
    project.smi.set([{"index": 0, "temp": 99}])
    assert project.run("run", "train.py").code == 75
    project.smi.set([{"index": 0, "temp": None, "throttle": None}])
    running = project.start("run", "train.py", *OFTEN)
    wait_for_ticks(project, project.wait_for_state("running")["id"])
    readings(project)
    wait_for_readings(project, 6)
    assert project.record()["status"] == "running"
    running.send_signal(signal.SIGTERM)
    project.end(running)
    assert pauses(project.record()) == []


def test_only_the_heat_of_its_own_gpu_pauses_a_run(project: GpuProject) -> None:
    project.smi.set([{"index": 0, "free": 20000}, {"index": 1, "free": 24000}])
    running = project.start("run", "train.py", *OFTEN)
    assert project.wait_for_state("running")["gpu"]["index"] == 1
    project.smi.set([{"index": 0, "free": 20000, "temp": 99}, {"index": 1, "free": 24000}])
    readings(project)
    wait_for_readings(project, 6)
    assert project.record()["status"] == "running"
    project.smi.set([{"index": 0, "free": 20000}, {"index": 1, "free": 24000, "temp": 99}])
    assert "GPU 1 is at 99 C" in project.wait_for_state("paused")["reason"]
    running.send_signal(signal.SIGTERM)
    project.end(running)


# --- RAM and the bound of a pause ---------------------------------------------------------------


def test_no_pause_lasts_longer_than_its_bound(project: GpuProject) -> None:
    running = project.start("run", "train.py", "--max-pause", 0.02, *OFTEN)
    wait_for_ticks(project, project.wait_for_state("running")["id"])
    project.machine(ram_free_gb=0.01)
    done = project.end(running)
    record = project.record()
    (pause,) = pauses(record)
    assert (done.code, record["status"]) == (75, "stopped")
    assert record["reason"] == "paused for longer than maxPauseMinutes"
    assert "RAM: 0.01 GB available, 2.56 GB is the least" in pause["cause"]
    # The record's clock starts when the news of the pause arrives, a moment after the pause.
    assert 1.15 <= (pause["end"] - pause["begin"]) / 1000 < 5
    assert moments(project, "interrupted", record["id"]), "the script was not asked to end"


def test_a_pause_lasts_until_every_cause_is_gone_and_the_record_names_them_all(project: GpuProject) -> None:
    running = project.start("run", "train.py", *OFTEN)
    run_id = project.wait_for_state("running")["id"]
    wait_for_ticks(project, run_id)
    project.machine(ram_free_gb=0.01)
    ram = project.wait_for_state("paused")["reason"]
    project.run("pause", run_id)
    wait_for(lambda: ";" in project.record()["reason"], "the second cause")
    project.machine()
    wait_for(lambda: ram not in project.record()["reason"], "the first cause to be gone")
    assert project.record()["status"] == "paused"
    project.run("unpause", run_id)
    project.wait_for_state("running")
    wait_for_ticks(project, run_id)
    running.send_signal(signal.SIGTERM)
    done = project.end(running)
    (pause,) = pauses(project.record())
    assert pause["cause"] == f"{ram}; paused by `backprop pause`"
    assert "backprop: still paused: paused by `backprop pause`\n" in done.err


def test_a_run_that_was_forced_past_a_broken_probe_is_still_watched(project: GpuProject) -> None:
    project.smi.fail(9, "NVIDIA-SMI has failed")
    running = project.start("run", "train.py", "--force", *OFTEN)
    wait_for_ticks(project, project.wait_for_state("running")["id"])
    project.machine(ram_free_gb=0.01)
    assert "RAM" in project.wait_for_state("paused")["reason"]
    running.send_signal(signal.SIGTERM)
    assert "in spite of nvidia-smi: driver not loaded" in project.end(running).err


# --- GPU memory ---------------------------------------------------------------------------------

FAMILY = """
    import os, subprocess, sys, time
    child = subprocess.Popen(["sleep", "60"])
    print(os.getpid(), child.pid, flush=True)
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        print("saving")
"""


def test_a_run_over_its_memory_limit_is_warned_and_one_a_tenth_over_it_is_stopped(
    project: GpuProject,
) -> None:
    project.write("family.py", FAMILY)
    running = project.start("run", "family.py", "-g", "8", *OFTEN)
    assert running.stdout
    script, child = map(int, running.stdout.readline().split())
    stranger = 1

    def holds(script_mb: int, child_mb: int) -> None:
        held = {script: script_mb, child: child_mb, stranger: 9000}
        project.smi.set([{"index": 0, "processes": held}])
        readings(project)

    holds(4000, 4192)
    wait_for_readings(project, 6)
    holds(4000, 4300)
    wait_for_readings(project, 6)
    assert project.record()["status"] == "running"
    holds(4000, 5100)
    done = project.end(running)
    record = project.record()
    assert (done.code, record["status"]) == (75, "stopped")
    assert record["reason"] == "GPU memory: the run holds 9100 MB, its limit is 8192 MB"
    assert done.err.count("backprop: GPU memory: the run holds 8300 MB, its limit is 8192 MB\n") == 1
    assert done.out.endswith("saving\n"), "it was not asked to end"


# --- probes that hang or vanish -----------------------------------------------------------------

HARDLY_S = 0.05


@pytest.fixture(params=["nvidia-smi", "nvml"])
def start_hanging(
    request: pytest.FixtureRequest, tmp_path: Path, library: Callable[[], Path]
) -> Iterator[Callable[..., Hanging]]:
    """Run a script under a probe that works at first and then hangs."""
    projects: list[Project] = []

    def start(*words: object, is_stopped: bool = False) -> Hanging:
        place = tmp_path / str(len(projects))
        place.mkdir()
        if request.param == "nvml":
            nvml = NvmlProject(place, library())
            gpu = StubGpu(uuid="GPU-1", total=24576, free=24576, temp=50)
            nvml.nvml.set(gpu)
            projects.append(nvml)
            return Hanging(
                nvml,
                lambda: nvml.nvml.set(gpu, calls=[Call(function="*", hang_s=30)]),
                *words,
                is_stopped=is_stopped,
            )
        smi = GpuProject(place)
        projects.append(smi)
        return Hanging(smi, lambda: smi.smi.hang(30), *words, is_stopped=is_stopped)

    yield start
    for project in projects:
        project.clean_up()


def least(measure: Callable[[], float], limit_s: float) -> float:
    """Measure up to three times: what delays every time is a delay, what delays once is another process."""
    found = [measure()]
    while min(found) > limit_s and len(found) < 3:
        found.append(measure())
    return min(found)


def test_a_probe_that_hangs_delays_neither_output_nor_stop(start_hanging: Callable[..., Hanging]) -> None:
    output_s: list[float] = []

    def stop_s() -> float:
        run = start_hanging(is_stopped=True)
        output_s.append(statistics.median(heard - said for _, said, heard in run.heard[20:]))
        assert run.done.code == 143
        return max(
            run.said_at("interrupted") - run.stopped_at, run.ended_at - run.said_at("interrupted") - 0.2
        )

    assert least(stop_s, HARDLY_S) <= HARDLY_S
    assert min(output_s) <= HARDLY_S


def test_a_probe_that_hangs_does_not_delay_the_time_box(start_hanging: Callable[..., Hanging]) -> None:
    def late_s() -> float:
        run = start_hanging("-m", 1.2 / 60)
        assert run.done.code == 0
        return run.said_at("interrupted") - run.said_at("deadline")

    assert least(late_s, HARDLY_S) <= HARDLY_S


def test_a_probe_that_hangs_does_not_keep_other_rules_from_pausing(project: GpuProject) -> None:
    running = project.start("run", "train.py", *OFTEN)
    wait_for_ticks(project, project.wait_for_state("running")["id"])
    project.smi.hang(30)
    readings(project)
    wait_for(project.smi.asked, "the question that hangs")
    project.machine(ram_free_gb=0.01)
    assert "RAM" in project.wait_for_state("paused")["reason"]
    project.machine()
    project.wait_for_state("running")
    running.send_signal(signal.SIGTERM)
    assert project.end(running).code == 143


def test_a_probe_that_hangs_is_not_left_behind(project: GpuProject) -> None:
    running = project.start("run", "train.py", *OFTEN)
    wait_for_ticks(project, project.wait_for_state("running")["id"])
    project.smi.hang(47.11)
    wait_for(lambda: "47.11" in everybody(), "the question that hangs")
    running.send_signal(signal.SIGTERM)
    project.end(running)
    wait_for(lambda: "47.11" not in everybody(), "the question to be gone", 5)


def everybody() -> str:
    return subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout


def test_a_probe_that_vanishes_is_told_once_and_the_run_goes_on(project: GpuProject) -> None:
    running = project.start("run", "train.py", "-m", 2 / 60, *OFTEN)
    wait_for_ticks(project, project.wait_for_state("running")["id"])
    project.smi.executable.unlink()
    done = project.end(running)
    assert (done.code, project.record()["status"]) == (0, "timeboxed")
    assert done.err.count("backprop: nvidia-smi: not found in a trusted folder of PATH\n") == 1


def test_one_failed_reading_among_hot_ones_does_not_keep_a_run_going(project: GpuProject) -> None:
    running = project.start("run", "train.py", *OFTEN)
    wait_for_ticks(project, project.wait_for_state("running")["id"])
    for _ in range(3):
        project.smi.set([{"index": 0, "temp": 95}])
        readings(project)
        wait_for_readings(project, 1)
        project.smi.fail(255, "Unknown Error")
        readings(project)
        wait_for_readings(project, 1)
    project.smi.set([{"index": 0, "temp": 95}])
    project.wait_for_state("paused")
    running.send_signal(signal.SIGTERM)
    project.end(running)


# --- the ends of the stories ---------------------------------------------------------------------


@pytest.mark.parametrize("probe", ["nvidia-smi", "nvml"])
def test_a_run_is_paused_at_95_still_paused_at_84_and_continued_at_60(
    stories: Mapping[str, Future[Heat]], probe: str
) -> None:
    story = stories[f"heat by {probe}"].result()
    if story.readings_until_paused is not None:
        assert 3 <= story.readings_until_paused <= 4
    assert story.at_84["status"] == "paused"
    assert story.ticks_at_84 == story.ticks_at_rest, "the script went on while it was paused"
    assert story.continued_after_s < 3


@pytest.mark.parametrize("probe", ["nvidia-smi", "nvml"])
def test_paused_time_is_outside_the_time_box_and_the_record_tells_the_pause(
    stories: Mapping[str, Future[Heat]], probe: str
) -> None:
    story = stories[f"heat by {probe}"].result()
    (pause,) = pauses(story.record)
    paused_s = (pause["end"] - pause["begin"]) / 1000
    assert paused_s >= DWELL_S
    assert story.lived_s - paused_s == pytest.approx(Heat.box_s, abs=0.6)
    assert (story.record["status"], story.done.code) == ("timeboxed", 0)
    assert pause["cause"] == "GPU temperature: GPU 0 is at 95 C, 85 C is the limit"
    assert story.paused["reason"] == story.at_84["reason"] == pause["cause"]
    assert story.record["reason"] is None
    assert f"backprop: paused: {pause['cause']}\nbackprop: continued\n" in story.done.err
    assert f"paused ({pause['cause']})" in story.shown
    assert f"still: {pause['cause']}" in story.shown


def test_a_run_paused_because_of_heat_stays_so_while_its_gpu_is_silent(
    stories: Mapping[str, Future[tuple[dict[str, Any], dict[str, Any], Done]]],
) -> None:
    meanwhile, afterwards, done = stories["silence"].result()
    assert meanwhile["status"] == "paused"
    assert (afterwards["status"], done.code) == ("running", 143)
    assert done.err.count("NVIDIA-SMI has failed") == 1


def test_a_probe_that_hangs_at_first_is_passed_over_aloud_and_refused_by_name(
    stories: Mapping[str, Future[tuple[Done, Done]]],
) -> None:
    by_itself, by_name = stories["hanging"].result()
    assert by_itself.code == 0
    assert "passing over the GPU probe nvidia-smi did not answer within 10 s\n" in by_itself.err
    assert by_name.code == 75
    assert "not started: nvidia-smi did not answer within 10 s\n" in by_name.err


def test_a_shortage_of_ram_that_lasts_stops_the_run_gracefully(
    stories: Mapping[str, Future[tuple[Done, dict[str, Any]]]],
) -> None:
    done, record = stories["shortage"].result()
    (pause,) = pauses(record)
    assert (done.code, record["status"]) == (75, "stopped")
    assert record["reason"] == "RAM: 0.01 GB available, 2.56 GB is the least, for longer than 30 s"
    assert record["exitCode"] == 3, "the script was not asked to end"
    assert 30 <= (pause["end"] - pause["begin"]) / 1000 < 35
