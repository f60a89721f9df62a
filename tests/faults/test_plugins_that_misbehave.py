"""A plugin raises, exits, hangs, answers nonsense or closes what is not its own: it is named, and the run lives."""

from __future__ import annotations

import json
import signal
import time

import pytest
from figures import Figures
from kit import Project, wait_for

DECIDES = ("backprop_admit", "backprop_select_gpu")
BEFORE = ("backprop_configure", "backprop_environment", "backprop_gpu_probe", "backprop_framework")
DURING = (
    "backprop_event_parser",
    "backprop_govern",
    "backprop_run_started",
    "backprop_run_events",
    "backprop_run_paused",
    "backprop_run_continued",
    "backprop_run_finished",
)
AFTER = ("backprop_unconfigure",)
HARMLESS = (*BEFORE, *DURING, *AFTER)
WAYS = ("raise", "exit", "nonsense")

MISBEHAVES = """
import os, re, sys, time
from backprop_core import hookimpl

WAY = os.environ["WAY"]
HOOKS = os.environ["HOOKS"].split()

def misbehave(*_):
    open(os.environ["SIGN"], "a").close()
    if WAY == "raise":
        raise RuntimeError("mis\\x1b[31mbehaves")
    if WAY == "exit":
        sys.exit(3)
    if WAY == "hang":
        time.sleep(60)
    if WAY == "expression":
        re.match(r"(a+)+$", "a" * 60 + "b")
    if WAY == "close":
        for descriptor in range(3, 256):
            try:
                os.close(descriptor)
            except OSError:
                pass
    return object()

def hook(name):
    def implementation(): return misbehave()
    if name == "backprop_event_parser":
        def implementation(): return misbehave
    implementation.__name__ = name
    return hookimpl(implementation)

for name in HOOKS:
    globals()[name] = hook(name)
"""

COUNTS = """
    import json, time
    for step in range(1, 41):
        print(json.dumps({"step": step, "sent": time.time()}), flush=True)
        time.sleep(0.05)
"""

STUBBORN = """
    import json, time
    step = 0
    while True:
        step += 1
        print(json.dumps({"step": step, "sent": time.time()}), flush=True)
        time.sleep(0.05)
"""


def given(project: Project, way: str, *hooks: str, script: str = COUNTS) -> dict[str, str | None]:
    """Write a project whose plugin misbehaves in these hooks, and return the environment that says how."""
    (project.folder / "backprop_plugins.py").write_text(MISBEHAVES)
    project.write("train.py", script)
    return {"WAY": way, "HOOKS": " ".join(hooks), "SIGN": str(project.place / "called")}


def delays_s(project: Project) -> list[float]:
    """How long after it was printed each step was read."""
    lines = (project.run_folder() / "metrics.jsonl").read_text().splitlines()
    points = [json.loads(line) for line in lines]
    assert [point["step"] for point in points] == list(range(1, len(points) + 1)), "no step is missing"
    return [point["at"] / 1000 - point["metrics"]["sent"] for point in points]


@pytest.mark.parametrize("way", ["raise", "exit", pytest.param("nonsense", marks=pytest.mark.soak)])
def test_a_plugin_that_fails_everywhere_is_named_and_the_run_is_as_without_it(
    project: Project, way: str
) -> None:
    env = given(project, way, *HARMLESS)
    done = project.run("run", "train.py", env=env)
    assert done.code == 0, done.err
    assert (project.place / "called").exists()
    assert (project.record()["status"], project.record()["lastStep"]) == ("completed", 40)
    assert len(delays_s(project)) == 40
    assert "\x1b" not in done.err
    for hook in ("backprop_event_parser", "backprop_environment"):
        assert hook in done.err
    assert len(done.err.splitlines()) < 3 * len(HARMLESS)
    assert project.processes() == []


@pytest.mark.soak
@pytest.mark.parametrize("hook", HARMLESS)
@pytest.mark.parametrize("way", [*WAYS, "hang", "close"])
def test_no_hook_can_misbehave_so_that_a_run_is_lost_or_something_left(
    project: Project, way: str, hook: str
) -> None:
    env = given(project, way, hook)
    done = project.run("run", "train.py", env=env, timeout=120)
    if way == "close":  # before the start, nothing is recorded; after it, how the run ended
        assert {record["status"] for record in project.records()} <= {"completed", "failed"}, done.err
    else:
        assert (done.code, project.record()["lastStep"]) == (0, 40), done.err
    wait_for(lambda: project.processes() == [], "everybody to be gone")


@pytest.mark.parametrize("hook", DECIDES[:1])
@pytest.mark.parametrize("way", WAYS)
def test_a_rule_that_fails_is_no_permission(project: Project, way: str, hook: str) -> None:
    done = project.call("run", "train.py", "--max-parallel", "1", env=given(project, way, hook))
    assert done.code == 75
    assert "backprop_plugins.py" in done.err
    assert project.records() == []


@pytest.mark.soak
def test_a_rule_that_hangs_is_no_permission_and_lets_others_in_after_ten_seconds(
    project: Project, figures: Figures
) -> None:
    env = given(project, "hang", "backprop_admit")
    began_s = time.monotonic()
    done = project.run("run", "train.py", env=env, timeout=60)
    took_s = time.monotonic() - began_s
    assert done.code == 75
    assert "did nothing for 10 s" in done.err
    assert took_s < 20
    figures(refused_after_s=took_s)


@pytest.mark.parametrize("hooks", [DURING], ids=["every hook of a running attempt"])
def test_hanging_plugins_delay_neither_output_nor_a_stop_nor_the_others(
    project: Project, hooks: tuple[str, ...], figures: Figures
) -> None:
    env = given(project, "hang", *hooks, script=STUBBORN)
    process = project.start("run", "train.py", env=env)
    series = project.home / "runs"
    wait_for(
        lambda: any(path.read_bytes().count(b"\n") > 40 for path in series.glob("*/metrics.jsonl")),
        "40 steps",
    )
    asked_s = time.monotonic()
    assert project.run("stop", "last").code == 0
    wait_for(lambda: "stopped" in str(project.records()), "the stop")
    stopped_s = time.monotonic() - asked_s
    done = project.end(process)
    assert done.code == 143
    worst_s = max(delays_s(project))
    assert worst_s < 0.5, "the tick and the output waited for a plugin"
    assert stopped_s < 5
    assert "event_parser" in done.err
    assert "did not finish within 5 s and is left behind" in done.err
    figures(worst_delay_ms=worst_s * 1000, stop_recorded_after_s=stopped_s)


def test_a_time_box_ends_in_time_whatever_hangs(project: Project, figures: Figures) -> None:
    env = given(project, "expression", "backprop_event_parser", script=STUBBORN)
    done = project.run("run", "train.py", "-m", "0.04", "--stop-grace", "2", env=env)
    assert done.code == 0, done.err
    record = project.record()
    assert record["status"] == "timeboxed"
    took_s = (record["endTime"] - record["startTime"]) / 1000
    assert 2.4 <= took_s < 2.4 + 2.5, (
        "a regular expression without an end holds the interpreter, not the keeper"
    )
    figures(time_box_of_2_4_s_ended_after_s=took_s)


@pytest.mark.parametrize("hook", ["backprop_event_parser", "backprop_run_started"])
def test_a_plugin_that_closes_our_descriptors_ends_the_run_recorded_and_leaves_nobody(
    project: Project, hook: str
) -> None:
    env = given(project, "close", hook, script=STUBBORN)
    done = project.run("run", "train.py", "--stop-grace", "1", env=env)
    assert done.code == 128 + signal.SIGKILL
    record = project.record()
    assert record["status"] == "failed"
    assert "closed the descriptors" in record["reason"]
    wait_for(lambda: project.processes() == [], "everybody to be gone")
    assert project.run("status").code == 0, "the slot is free"


PARTS = """
import os, sys
from backprop_core import Gpu, hookimpl

FAILS, WAY = os.environ["FAILS"], os.environ["WAY"]

def fails(method, value):
    if method != FAILS:
        return value
    if WAY == "nonsense":
        return object()
    raise SystemExit(4) if WAY == "exit" else KeyError("in " + method)

class Probe:
    name, order = "frail", 1
    def is_available(self): return fails("is_available", True)
    def read(self): return fails("read", [Gpu(index=0, uuid="GPU-1", vram_total_mb=9000.0, vram_free_mb=9000.0)])
    def visible_devices(self, gpu): return fails("visible_devices", {"CUDA_VISIBLE_DEVICES": "0"})

class Framework:
    name, order = "frail", 1
    def score(self, script): return fails("score", 1.0)
    def environment(self, request, gpu): return fails("environment", {"FRAIL": "1"})
    def resume_arguments(self, script, checkpoint): return fails("resume_arguments", ["--from", str(checkpoint)])

@hookimpl
def backprop_gpu_probe(): return Probe()

@hookimpl
def backprop_framework(): return Framework()
"""


@pytest.mark.parametrize(
    ("method", "ways", "codes"),
    [
        ("is_available", WAYS, {0}),
        ("read", WAYS, {0, 75}),
        ("visible_devices", WAYS, {75}),
        ("score", WAYS, {0}),
        ("environment", WAYS, {0}),
        ("resume_arguments", WAYS, {0}),
    ],
)
def test_a_probe_or_framework_that_fails_in_any_method_is_named_and_never_a_traceback(
    project: Project, method: str, ways: tuple[str, ...], codes: set[int]
) -> None:
    (project.folder / "backprop_plugins.py").write_text(PARTS)
    project.write("train.py", "import torch")
    (project.folder / "a.bin").write_bytes(b"weights")
    for way in ways:
        env: dict[str, str | None] = {"FAILS": method, "WAY": way, "BACKPROP_GPU_PROBE": "auto"}
        done = project.call("run", "train.py", "-r", "a.bin", "--dry-run", env=env)
        assert done.code in codes, (way, done.code, done.err)
        if way != "nonsense" or method != "is_available":  # anything is true or false
            assert "frail" in done.out + done.err, (way, done.out, done.err)
