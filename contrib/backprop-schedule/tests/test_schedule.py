"""No start in quiet hours; never more starts than allowed, however processes end."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest

import backprop_schedule
from backprop_core import Passed, Refusal, RunRequest, Script, Settings
from backprop_core.testing import FakeClock, Project, wait_for
from backprop_schedule.bucket import KEEP_S, Bucket
from backprop_schedule.quiet import parse_quiet, quiet_until

ASKING = """
import sys, time
from pathlib import Path
from backprop_schedule.bucket import Bucket, boot_clock_s

place, name, per_minute, burst = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
bucket = Bucket(place / "starts.json", per_minute, burst)
number = 0
while True:
    number += 1
    run_id = f"{name}-{number}"
    while (wait_s := bucket.take(run_id)) > 0:
        time.sleep(min(wait_s, 0.005))
    bucket.use(run_id)
    with open(place / "started", "a") as file:
        file.write(f"{boot_clock_s()}\\n")
"""


# --- quiet hours ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spans", "now", "until"),
    [
        ("22:00-07:00", "21:59", None),
        ("22:00-07:00", "22:00", "07:00"),
        ("22:00-07:00", "00:00", "07:00"),
        ("22:00-07:00", "06:59", "07:00"),
        ("22:00-07:00", "07:00", None),
        ("12:30-13:30, 22:00-07:00", "13:00", "13:30"),
        ("20:00-24:00, 00:00-06:00", "23:00", "06:00"),
        ("22:00-02:00, 01:00-05:00, 05:00-6:30", "23:00", "06:30"),
        ("", "03:00", None),
    ],
)
def test_quiet_hours_hold_from_their_begin_to_before_their_end(
    spans: str, now: str, until: str | None
) -> None:
    assert quiet_until(parse_quiet(spans), time.strptime(now, "%H:%M")) == until


@pytest.mark.parametrize(
    "text", ["25:00-07:00", "22-7", "22:00", "22:60-07:00", "07:00-07:00", "0:00-24:00", "-", "٢٢:00-07:00"]
)
def test_what_is_no_span_is_said(text: str) -> None:
    with pytest.raises(ValueError, match="quiet-hours: "):
        parse_quiet(text)


@pytest.fixture
def request_(tmp_path: Path) -> RunRequest:
    return RunRequest(script=Script(path=tmp_path / "train.py"), run_id="r-1", run_dir=tmp_path)


def configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, **options: object) -> None:
    monkeypatch.setenv("BACKPROP_HOME", str(tmp_path))
    backprop_schedule.backprop_configure(
        Settings(plugin={"schedule": {k.replace("_", "-"): v for k, v in options.items()}})
    )


def test_rule_refuses_by_the_clock_on_the_wall_and_says_until_when(
    fake_clock: FakeClock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request_: RunRequest
) -> None:
    configured(monkeypatch, tmp_path, quiet_hours="22:00-07:00")
    fake_clock.set(datetime(2027, 3, 1, 6, 59, 59))  # noqa: DTZ001 - the clock on the wall
    assert backprop_schedule.backprop_admit(request_) == Refusal("quiet hours until 07:00")
    fake_clock.advance(1)
    assert isinstance(backprop_schedule.backprop_admit(request_), Passed)


@pytest.mark.parametrize(
    "options",
    [
        {"quiet_hours": "all day"},
        {"max_starts_per_minute": -1},
        {"max_starts_per_minute": 1, "start_burst": 0},
    ],
)
def test_option_that_makes_no_sense_is_no_permission(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request_: RunRequest, options: dict[str, object]
) -> None:
    configured(monkeypatch, tmp_path, **options)
    assert isinstance(backprop_schedule.backprop_admit(request_), Refusal)


# --- the bucket ----------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "starts.json"


def started_within(bucket: Bucket, clock: Clock, seconds: int) -> list[float]:
    """Ask for a new run every tenth of a second; return when turns were granted."""
    granted = []
    for tick in range(seconds * 10):
        clock.now = 1000.0 + tick / 10
        if bucket.take(f"r-{tick}") == 0:
            granted.append(clock.now)
    return granted


@pytest.mark.parametrize(("per_minute", "burst"), [(1, 1), (6, 3), (90, 1), (2.5, 2)])
def test_no_window_has_more_starts_than_allowed_and_none_is_withheld(
    file: Path, clock: Clock, per_minute: float, burst: int
) -> None:
    granted = started_within(Bucket(file, per_minute, burst, clock), clock, 70)
    assert_no_excess(granted, per_minute, burst)
    assert len(granted) >= min(per_minute * 70 / 60, 700) * 0.9
    if burst == 1:
        assert all(sum(begin <= t < begin + 60 for t in granted) <= max(per_minute, 1) for begin in granted)


def assert_no_excess(granted: list[float], per_minute: float, burst: int) -> None:
    """Hold that any n starts take at least n - burst intervals."""
    interval_s = 60 / per_minute
    for first in range(len(granted)):
        for last in range(first + burst, min(len(granted), first + burst + 50)):
            assert granted[last] - granted[first] >= (last - first + 1 - burst) * interval_s - 1e-6


def test_run_that_asks_again_has_its_turn_until_it_uses_it_or_a_minute_has_passed(
    file: Path, clock: Clock
) -> None:
    bucket = Bucket(file, 1, 1, clock)
    assert [bucket.take("a"), bucket.take("a"), bucket.take("b")] == [0, 0, 60]
    bucket.use("a")
    assert bucket.take("a") == 60
    clock.now += 60
    assert bucket.take("b") == 0
    clock.now += KEEP_S
    assert [bucket.take("c"), bucket.take("b")] == [0, 60]


def test_looking_takes_no_turn(file: Path, clock: Clock) -> None:
    bucket = Bucket(file, 1, 1, clock)
    assert [bucket.look(), bucket.look(), bucket.take("a"), bucket.look()] == [0, 0, 0, 60]


@pytest.mark.parametrize("jump_s", [-86_400.0, -5.0])
def test_clock_that_is_set_back_costs_one_interval_at_most(file: Path, clock: Clock, jump_s: float) -> None:
    bucket = Bucket(file, 2, 3, clock)
    while bucket.take(str(random.random())) == 0:
        pass
    clock.now += jump_s
    assert 0 < bucket.take("after") <= 30
    clock.now += 30
    assert bucket.take("after") == 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "nonsense",
        '{"boot": "other", "arrival": 0, "kept": {}}',
        '{"boot": "B", "arrival": NaN, "kept": {}}',
        '{"boot": "B", "arrival": 1, "kept": 5}',
        "[" * 100_000,
    ],
)
def test_damaged_or_foreign_state_is_worth_one_start(
    file: Path, clock: Clock, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backprop_schedule.bucket.boot_id", lambda: "B")
    bucket = Bucket(file, 1, 3, clock)
    bucket.look()
    file.write_text(text)
    assert [bucket.take("a"), bucket.take("b")] == [0, 60]


def test_state_is_nobody_elses(file: Path, clock: Clock) -> None:
    Bucket(file, 1, 1, clock).take("a")
    assert {path.stat().st_mode & 0o777 for path in file.parent.iterdir()} == {0o600}


def kill_and_count(place: Path, kills: int, per_minute: float, burst: int) -> list[float]:
    """Let four processes start what they may, killing one each time another start was made; return when they were."""
    (place / "asking.py").write_text(ASKING)
    environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
    chance = random.Random(kills)

    def begin(name: str) -> subprocess.Popen[bytes]:
        arguments = [str(place), name, str(per_minute), str(burst)]
        return subprocess.Popen([sys.executable, str(place / "asking.py"), *arguments], env=environ)

    def count() -> int:
        return (place / "started").stat().st_size if (place / "started").exists() else 0

    def wait_for_another_start() -> None:
        before = count()
        wait_for(lambda: count() > before, "another start")

    processes = [begin(f"p{number}") for number in range(4)]
    try:
        for number in range(kills):
            wait_for_another_start()
            time.sleep(chance.uniform(0, 0.03))
            victim = chance.randrange(4)
            processes[victim].send_signal(signal.SIGKILL)
            processes[victim].wait()
            processes[victim] = begin(f"q{number}")
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return sorted(float(line) for line in (place / "started").read_text().split("\n")[:-1])


@pytest.mark.parametrize("kills", [15, pytest.param(200, marks=pytest.mark.soak)])
@pytest.mark.parametrize("burst", [1, 5])
def test_killed_processes_make_no_start_too_many(tmp_path: Path, kills: int, burst: int) -> None:
    per_minute = 3000.0
    started = kill_and_count(tmp_path, kills, per_minute, burst)
    # What is noted is a moment after the turn: over all of it, the number tells of any excess.
    assert len(started) <= burst + (started[-1] - started[0]) * per_minute / 60 + 1
    assert len(started) >= kills


# --- in a run ------------------------------------------------------------------------------------


def test_second_start_within_the_minute_is_refused_and_a_dry_run_and_status_take_no_turn(
    backprop: Project,
) -> None:
    backprop.write("backprop.toml", "[plugin.schedule]\nmax-starts-per-minute = 1\n")
    backprop.write("train.py", "print('trained')")
    assert backprop.run("run", "train.py", "--dry-run").code == 0
    assert backprop.run("status").code == 0
    assert backprop.run("run", "train.py").out == "trained\n"
    refused = backprop.run("run", "train.py")
    assert refused.code == 75
    assert "1 a minute are allowed, the next one in" in refused.err
    resumed = backprop.run("run", "train.py", "--max-starts-per-minute", "600", "--wait", "1")
    assert (resumed.code, resumed.out) == (0, "trained\n")


def test_run_waits_for_its_turn(backprop: Project) -> None:
    backprop.write("train.py", "")
    began_s = time.monotonic()
    for _ in range(3):
        assert backprop.run("run", "train.py", "--max-starts-per-minute", "60", "--wait", "1").code == 0
    assert time.monotonic() - began_s >= 2


def test_quiet_hours_refuse_a_run_and_status_says_so(backprop: Project) -> None:
    begin = time.localtime(time.time() - 3600)
    end = time.localtime(time.time() + 7200)
    span = f"{time.strftime('%H:%M', begin)}-{time.strftime('%H:%M', end)}"
    backprop.write("train.py", "")
    refused = backprop.run("run", "train.py", "--quiet-hours", span)
    assert refused.code == 75
    assert f"quiet hours until {time.strftime('%H:%M', end)}" in refused.err
    backprop.env["BACKPROP_PLUGIN_SCHEDULE_QUIET_HOURS"] = span
    assert backprop.run("status", "--json").json["verdict"]["allowed"] is False
