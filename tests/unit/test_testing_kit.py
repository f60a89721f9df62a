"""The test kit serves a stranger's tests, and its contracts fail for parts that do not keep them."""

from __future__ import annotations

import inspect
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from datetime import UTC, datetime
from importlib.metadata import distribution
from pathlib import Path

import pytest

from backprop_core.testing import FakeClock, FakeGpu, Project, wait_for

pytest_plugins = ["backprop_core.testing"]

BROKEN = """
import pytest
from backprop_core import EngineState, Gpu, Progress
from backprop_core.testing import EventParserContract, GpuProbeContract, LauncherContract

class Launcher:
    name = "broken"
    def preflight(self, plan): return "no"
    def render(self, plan): return ""
    def submit(self, plan): return "job"
    def state(self, handles): return {handle: EngineState(phase="gone") for handle in handles}
    def cancel(self, handle, *, force): raise KeyError(handle)

class TestLauncher(LauncherContract):
    patience_s = 0.1
    @pytest.fixture
    def launcher(self):
        return Launcher()

class Probe:
    name, order = "auto", 1
    reads = 0
    def is_available(self): return None
    def read(self):
        self.reads += 1
        return [Gpu(index=self.reads, vram_total_mb=0, is_selectable=False), Gpu(index=self.reads)]
    def visible_devices(self, gpu): return {"CUDA_VISIBLE_DEVICES": 0}

class TestProbe(GpuProbeContract):
    @pytest.fixture
    def probe(self):
        return Probe()

    @pytest.fixture
    def broken_probe(self):
        return Probe()

class Parser:
    signs = (b"loss",)
    def __call__(self, line):
        if line.startswith("{"):
            return [line]
        return [Progress(step=int(line.split()[1]))] if "step" in line else None
    def parse_chunk(self, lines):
        return [Progress(loss=float("nan"))]

class TestParser(EventParserContract):
    @pytest.fixture
    def parser(self):
        return Parser()

    @pytest.fixture
    def told(self):
        return {"step 3": [Progress(step=3)]}
"""


def pytest_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a stranger's tests, with warnings as errors."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-W", "error", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


# --- the plugin of pytest's ----------------------------------------------------------------------


def test_strangers_enable_it_in_a_conftest_and_see_what_an_assertion_compared(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        'from backprop_core.testing import Project\npytest_plugins = ["backprop_core.testing"]\n'
    )
    (tmp_path / "test_it.py").write_text(
        textwrap.dedent("""
            def test_runs(backprop):
                backprop.write("train.py", "print('{\\"step\\": 4}')")
                assert backprop.run("run", "train.py").code == 0
                assert backprop.record()["lastStep"] == 4

            def test_looks_for_a_run_that_is_not_there(backprop):
                backprop.record("nobody")
        """)
    )
    done = pytest_in(tmp_path)
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "no run 'nobody' among []" in done.stdout


def test_whoever_has_backprop_installed_does_not_get_it_into_all_their_tests() -> None:
    assert not [point for point in distribution("backprop-core").entry_points if point.group == "pytest11"]


def test_contracts_fail_for_parts_that_do_not_keep_them(tmp_path: Path) -> None:
    (tmp_path / "test_broken.py").write_text(BROKEN)
    done = pytest_in(tmp_path, "-p", "backprop_core.testing", "-q", "--tb=no", "-rA")
    passed = set(re.findall(r"^PASSED test_broken.py::(\w+::\w+)$", done.stdout, re.MULTILINE))
    failed = set(re.findall(r"^FAILED test_broken.py::(\w+::\w+)", done.stdout, re.MULTILINE))
    assert len(failed) > 20, done.stdout + done.stderr
    assert passed - failed == {
        "TestLauncher::test_launcher_has_a_name_and_every_method",
        "TestParser::test_parser_reads_its_own_lines",
    }


# --- the project ---------------------------------------------------------------------------------


@pytest.fixture
def training(backprop: Project) -> Project:
    backprop.env["BACKPROP_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    backprop.write("train.py", """print('{"step": 7, "loss": 0.5}'); import sys; sys.exit(3)""")
    return backprop


def test_command_inside_this_process_does_what_it_does_in_its_own(training: Project) -> None:
    outside, inside = training.run("run", "train.py"), training.call("run", "train.py")
    assert outside.code == inside.code == 3
    assert inside.out == outside.out == '{"step": 7, "loss": 0.5}\n'
    assert "failed" in inside.err
    assert [record["lastLoss"] for record in training.records()] == [0.5, 0.5]
    assert training.call("list", "--json").json == training.run("list", "--json").json


def test_command_inside_this_process_leaves_it_as_it_was(training: Project) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP)
    before = (dict(os.environ), Path.cwd(), sys.stdout, sys.stdin, [signal.getsignal(n) for n in numbers])
    streams = [os.fstat(number).st_ino for number in (0, 1, 2)]
    descriptors = len(os.listdir("/proc/self/fd"))
    training.call("run", "train.py")
    training.call("status", "nobody")
    after = (dict(os.environ), Path.cwd(), sys.stdout, sys.stdin, [signal.getsignal(n) for n in numbers])
    assert after == before
    assert [os.fstat(number).st_ino for number in (0, 1, 2)] == streams
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_command_inside_this_process_uses_what_a_test_has_patched(
    training: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backprop_core.identity.host_name", lambda: "patched-box")
    monkeypatch.setattr("backprop_core.attempt.host_name", lambda: "patched-box")
    training.call("run", "train.py")
    assert training.record()["host"] == "patched-box"


def test_settings_and_what_is_set_for_all_commands_hold(backprop: Project) -> None:
    backprop.settings(max_run_minutes=7, gpu={"max_temp_c": 70})
    backprop.env["BACKPROP_MAX_PARALLEL"] = "5"
    shown = backprop.call("config", "show", "--json").json
    names = ("maxRunMinutes", "gpu.maxTempC", "maxParallel")
    assert [shown[name]["value"] for name in names] == [7, 70, 5]
    assert backprop.run("status", "--json").json["slots"]["max"] == 5


def test_machine_is_what_a_test_says_also_while_a_command_runs(backprop: Project) -> None:
    assert backprop.call("status", "--json").json["verdict"]["allowed"]
    backprop.machine(ram_free_gb=1.0)
    standing = backprop.call("status", "--json").json
    assert standing["host"]["ram_free_gb"] == 1.0
    assert not standing["verdict"]["allowed"]
    backprop.machine(cpu_load_per_core=None)
    assert backprop.call("status", "--json").json["host"]["cpu_load_per_core"] is None


def test_gpus_are_what_a_test_says_and_a_run_is_given_the_free_one(backprop: Project) -> None:
    backprop.gpus(FakeGpu(index=0, free=100), {"index": 1, "free": 20_000, "temp": 41})
    backprop.write("train.py", "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])")
    assert backprop.run("run", "train.py").out == "1\n"
    assert [gpu["temp_c"] for gpu in backprop.call("status", "--json").json["gpus"]] == [40, 41]
    backprop.gpus()
    assert backprop.call("status", "--json").json["gpus"] == []


def test_children_are_real_scripts_that_end_with_their_time_box(backprop: Project) -> None:
    script = backprop.child("polite")
    done = backprop.run("run", script, "-m", "0.02", "--", backprop.folder)
    assert done.code == 0
    assert backprop.record()["status"] == "timeboxed"
    assert [path.name for path in backprop.folder.glob("saved-*")]
    wait_for(lambda: not backprop.processes(), "nobody to be left")


# --- the clock -----------------------------------------------------------------------------------


def test_fake_clock_stands_until_time_is_let_pass(fake_clock: FakeClock) -> None:
    assert datetime.fromtimestamp(time.time(), UTC) == datetime(2027, 1, 15, 8, tzinfo=UTC)
    began_s, began = time.monotonic(), time.time()
    fake_clock.advance(5)
    time.sleep(3600)
    assert (time.monotonic() - began_s, time.time() - began) == (3605, 3605)
    fake_clock.jump(-60)
    assert (time.monotonic() - began_s, time.time() - began) == (3605, 3545)
    fake_clock.set(datetime(2030, 1, 1, tzinfo=UTC))
    assert time.time_ns() == 1_893_456_000 * 10**9


def test_fake_clock_is_told_to_backprop_too(fake_clock: FakeClock) -> None:
    from backprop_core.clock import now_ms, now_s

    before = now_ms(), now_s()
    fake_clock.advance(2)
    assert (now_ms() - before[0], now_s() - before[1]) == (2000, 2)


def test_clock_is_the_real_one_again_after_the_test() -> None:
    assert all(inspect.isbuiltin(function) for function in (time.time, time.monotonic, time.sleep))
