"""The helper that training scripts import: what it prints, and what it tells of the time box."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

SOURCE = Path(__file__).parents[2] / "backprop_core" / "script.py"
RANKS = 4
LINES_PER_RANK = 2000


class Tensor:
    """What tensors of PyTorch, JAX and NumPy have in common for the helper."""

    def __init__(self, *values: Any) -> None:
        self.values = values

    def item(self) -> Any:
        if len(self.values) != 1:
            raise RuntimeError(f"a Tensor with {len(self.values)} elements cannot be converted to Scalar")
        return self.values[0]


class EagerTensor:
    """A TensorFlow scalar: it has no `item`."""

    def __float__(self) -> float:
        return 0.5


class Clock:
    """The monotonic clock, moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    """Return a folder with a package that holds the helper and nothing else."""
    package = tmp_path / "alone" / "backprop_core"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    shutil.copy(SOURCE, package)
    return package.parent


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return a fresh copy of the helper, outside a run."""
    for name in [name for name in os.environ if name.startswith("BACKPROP_")]:
        monkeypatch.delenv(name)
    spec = importlib.util.spec_from_file_location("script_under_test", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def script(outside: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """Return a fresh copy of the helper, inside a run whose folder is `tmp_path`."""
    monkeypatch.setenv("BACKPROP_RUN_ID", "some-run")
    monkeypatch.setenv("BACKPROP_RUN_DIR", str(tmp_path))
    return outside


@pytest.fixture
def clock(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(script, "time", clock)
    return clock


def write_time_box(folder: Path, deadline: float, limit_s: float) -> None:
    """Write the file as the supervisor does: beside it first, then renamed over it."""
    fresh = folder / "time-box.json.new"
    fresh.write_text(json.dumps({"deadline": deadline, "limit_s": limit_s}))
    fresh.replace(folder / "time-box.json")


def run_child(folder: Path, code: str, **environ: str) -> str:
    """Run a script against the helper that lies alone in `folder`; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(folder), "BACKPROP_RUN_ID": "some-run", **environ},
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


def strictly(line: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(line, parse_constant=refuse)


def test_importing_loads_the_helper_and_nothing_else(alone: Path) -> None:
    code = """if True:
        import sys
        before = set(sys.modules)
        import backprop_core.script
        print(*sorted(set(sys.modules) - before))
    """
    assert run_child(alone, code).split() == ["__future__", "backprop_core", "backprop_core.script"]


def test_outside_a_run_nothing_happens(
    outside: ModuleType, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    outside.report(step="not looked at", loss=object())
    outside.checkpoint(tmp_path / "model.pt")
    answers = [outside.resume_path(), outside.time_left(), outside.should_stop(), outside.should_checkpoint()]
    assert answers == [None, None, False, False]
    assert capfd.readouterr().out == ""


def test_only_the_run_id_tells_a_run(
    outside: ModuleType, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKPROP_RESUME_FROM", "old.pt")
    monkeypatch.setenv("BACKPROP_MAX_RUN_SECONDS", "600")
    outside.report(step=1)
    assert (outside.resume_path(), outside.time_left(), capfd.readouterr().out) == (None, None, "")


def test_a_report_is_one_json_line(script: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    script.report(500, 0.015, accuracy=0.5, epoch=3)
    assert capfd.readouterr().out == '{"step": 500, "loss": 0.015, "accuracy": 0.5, "epoch": 3}\n'


def test_what_is_none_is_left_out_of_a_report(script: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    script.report()
    script.report(loss=0.5, accuracy=None)
    assert capfd.readouterr().out == '{"loss": 0.5}\n'


def test_numbers_that_are_not_finite_are_sent_as_null(
    script: ModuleType, capfd: pytest.CaptureFixture[str]
) -> None:
    script.report(step=1, loss=float("nan"), high=float("inf"), low=Tensor(float("-inf")))
    assert strictly(capfd.readouterr().out) == {"step": 1, "loss": None, "high": None, "low": None}


def test_scalars_of_other_libraries_are_numbers(
    script: ModuleType, capfd: pytest.CaptureFixture[str]
) -> None:
    script.report(step=Tensor(7), loss=Tensor(0.25), accuracy=EagerTensor())
    assert strictly(capfd.readouterr().out) == {"step": 7, "loss": 0.25, "accuracy": 0.5}


def test_a_whole_float_is_a_step(script: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    script.report(step=500.0)
    assert capfd.readouterr().out == '{"step": 500}\n'


@pytest.mark.parametrize("value", ["0.5", b"1", True, [0.5], 1j, Tensor(1, 2), Tensor("x"), Tensor(True)])
def test_what_is_no_number_is_refused_by_the_name_of_its_argument(
    script: ModuleType, capfd: pytest.CaptureFixture[str], value: Any
) -> None:
    with pytest.raises(TypeError, match="accuracy must be"):
        script.report(step=1, accuracy=value)
    with pytest.raises(TypeError, match="step must be"):
        script.report(step=value)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("value", [2.5, float("nan"), float("inf")])
def test_a_step_is_whole(script: ModuleType, value: float) -> None:
    with pytest.raises(TypeError, match="step must be a whole number"):
        script.report(step=value)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_reports_stay_in_order_with_what_is_printed(alone: Path, unbuffered: str) -> None:
    code = """if True:
        from backprop_core.script import report
        for step in range(100):
            print("before", step)
            report(step=step)
        print("after")
    """
    lines = run_child(alone, code, PYTHONUNBUFFERED=unbuffered).splitlines()
    assert lines == [text for n in range(100) for text in (f"before {n}", f'{{"step": {n}}}')] + ["after"]


def test_ranks_do_not_tear_each_others_lines(alone: Path) -> None:
    code = f"""if True:
        import os, sys
        from backprop_core.script import report
        padding = {{f"metric_{{n}}": n / 7 for n in range(20)}}
        for rank in range({RANKS}):
            if os.fork() == 0:
                for step in range({LINES_PER_RANK}):
                    report(step=step, rank=rank, **padding)
                os._exit(0)
        sys.exit(any(os.wait()[1] for rank in range({RANKS})))
    """
    lines = run_child(alone, code, PYTHONUNBUFFERED="1").splitlines()
    seen = sorted((told["rank"], told["step"]) for told in map(strictly, lines))
    assert seen == [(rank, step) for rank in range(RANKS) for step in range(LINES_PER_RANK)]


def test_a_pipe_that_does_not_block_loses_nothing(alone: Path) -> None:
    code = """if True:
        import os
        from backprop_core.script import report
        os.set_blocking(1, False)
        for step in range(100):
            report(step=step, **{"larger than the pipe" * 5000: step})
    """
    lines = run_child(alone, code).splitlines()
    assert [strictly(line)["step"] for line in lines] == list(range(100))


def test_a_checkpoint_is_announced_with_its_whole_path_and_the_last_step(
    script: ModuleType, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    script.checkpoint("first.pt")
    script.report(step=12)
    script.checkpoint(Path("second.pt"))
    first, _, second = map(strictly, capfd.readouterr().out.splitlines())
    assert first == {"event": "checkpoint_saved", "path": str(tmp_path / "first.pt")}
    assert second == {"event": "checkpoint_saved", "path": str(tmp_path / "second.pt"), "step": 12}


def test_the_checkpoint_to_resume_from_is_told_by_the_environment(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKPROP_RESUME_FROM", "")
    assert script.resume_path() is None
    monkeypatch.setenv("BACKPROP_RESUME_FROM", "/runs/old.pt")
    assert script.resume_path() == "/runs/old.pt"


def test_time_left_counts_down_to_zero_and_follows_extensions(
    script: ModuleType, clock: Clock, tmp_path: Path
) -> None:
    write_time_box(tmp_path, deadline=1060.0, limit_s=60.0)
    assert script.time_left() == 60.0
    clock.now = 1070.0
    assert script.time_left() == 0.0
    write_time_box(tmp_path, deadline=1120.0, limit_s=120.0)
    clock.now = 1080.0
    assert script.time_left() == 40.0


def test_a_broken_time_box_file_changes_nothing(script: ModuleType, clock: Clock, tmp_path: Path) -> None:
    write_time_box(tmp_path, deadline=1060.0, limit_s=60.0)
    assert script.time_left() == 60.0
    for broken in ('{"deadl', "[]", '{"deadline": null, "limit_s": 60}', "{}"):
        (tmp_path / "time-box.json").write_text(broken)
        clock.now += 1.0
        assert script.time_left() == 1060.0 - clock.now


def test_the_time_box_file_is_looked_at_a_few_times_a_second_at_most(
    script: ModuleType, clock: Clock, tmp_path: Path
) -> None:
    write_time_box(tmp_path, deadline=1060.0, limit_s=60.0)
    script.time_left()
    write_time_box(tmp_path, deadline=2000.0, limit_s=1000.0)
    clock.now += 0.1
    assert script.time_left() == pytest.approx(59.9)
    clock.now += 0.2
    assert script.time_left() == pytest.approx(999.7)


def test_without_the_file_the_time_box_begins_with_the_process(alone: Path, tmp_path: Path) -> None:
    code = """if True:
        import time
        time.sleep(0.5)
        from backprop_core.script import time_left
        print(time_left())
    """
    left_s = float(run_child(alone, code, BACKPROP_RUN_DIR=str(tmp_path), BACKPROP_MAX_RUN_SECONDS="600"))
    slept_s = 0.5 if Path("/proc/self/stat").exists() else 0.0
    assert 540 < left_s <= 600 - slept_s + 0.02  # process start is known to a clock tick


@pytest.mark.parametrize("limit", ["", "abc", "nan", "-1"])
def test_an_unknown_time_box_never_ends(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setenv("BACKPROP_MAX_RUN_SECONDS", limit)
    assert script.time_left() is None
    assert script.should_stop() is False


@pytest.mark.parametrize(
    ("limit_s", "save_s", "lead_s"),
    [(600, 0, 15), (600, 5, 15), (600, 20, 40), (600, 100, 150), (30, 0, 7.5)],
)
def test_the_last_checkpoint_is_asked_for_early_enough_to_be_saved(
    script: ModuleType, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *,
    limit_s: float, save_s: float, lead_s: float,
) -> None:  # fmt: skip
    deadline = clock.now + limit_s + save_s + 1
    write_time_box(tmp_path, deadline, limit_s)
    monkeypatch.setenv("BACKPROP_CHECKPOINT_EVERY_SECONDS", "1")
    assert not script.should_checkpoint()
    clock.now += 1
    assert script.should_checkpoint()
    clock.now += save_s
    script.checkpoint("model.pt")
    clock.now = deadline - lead_s - 0.25
    assert not script.should_stop()
    clock.now = deadline - lead_s + 0.25
    assert script.should_stop()


def test_a_slow_save_of_an_earlier_attempt_is_remembered(
    script: ModuleType, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKPROP_CHECKPOINT_EVERY_SECONDS", "1")
    script.should_checkpoint()
    clock.now += 1
    assert script.should_checkpoint()
    clock.now += 20
    script.checkpoint("model.pt")
    script._memory.slowest_save_s = None  # as in the next attempt's process
    write_time_box(tmp_path, deadline=clock.now + 600, limit_s=600.0)
    clock.now += 600 - 40.25
    assert not script.should_stop()
    clock.now += 0.5
    assert script.should_stop()


@pytest.mark.parametrize("text", ["", "soon", "nan", "inf", "-3"])
def test_a_slow_save_that_cannot_be_read_is_none(
    script: ModuleType, clock: Clock, tmp_path: Path, text: str
) -> None:
    (tmp_path / "slowest-save").write_text(text)
    write_time_box(tmp_path, deadline=clock.now + 600, limit_s=600.0)
    clock.now += 600 - 15.25
    assert not script.should_stop()
    clock.now += 0.5
    assert script.should_stop()


def test_who_asks_rarely_looks_ahead(script: ModuleType, clock: Clock, tmp_path: Path) -> None:
    write_time_box(tmp_path, deadline=clock.now + 600, limit_s=600.0)
    clock.now += 600 - 15 - 100.25
    assert not script.should_stop(100)
    clock.now += 0.5
    assert not script.should_stop()
    assert script.should_stop(100)


def test_only_what_was_asked_for_counts_as_a_slow_save(
    script: ModuleType, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_time_box(tmp_path, deadline=clock.now + 600, limit_s=600.0)
    monkeypatch.setenv("BACKPROP_CHECKPOINT_EVERY_SECONDS", "1")
    script.should_checkpoint()
    clock.now += 1
    assert script.should_checkpoint()
    script.checkpoint("asked-for.pt")
    clock.now += 100
    script.checkpoint("unasked.pt")
    clock.now += 600 - 101 - 16
    assert not script.should_stop()


def test_a_checkpoint_is_due_an_interval_after_the_start_and_after_the_last_one(
    script: ModuleType, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not script.should_checkpoint()
    monkeypatch.setenv("BACKPROP_CHECKPOINT_EVERY_SECONDS", "60")
    assert not script.should_checkpoint()
    clock.now += 60
    assert script.should_checkpoint()
    assert script.should_checkpoint()
    script.checkpoint("model.pt")
    assert not script.should_checkpoint()
    clock.now += 60
    assert script.should_checkpoint()


def test_standard_output_without_a_descriptor_still_gets_its_lines(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    tee = SimpleNamespace(write=lines.append, flush=lambda: None)
    monkeypatch.setattr(sys, "stdout", tee)
    script.report(step=1)
    assert lines == ['{"step": 1}\n']
