"""Whatever a script prints, and however much: memory stays bounded, the last step is right, what is lost is counted."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from figures import Figures
from kit import Project, wait_for

SOAK = pytest.mark.soak
LARGEST_MB = 100


class Watched(NamedTuple):
    """A run that ended: the most memory that its supervisor had, and the processor time that it took."""

    code: int
    err: str
    peak_mb: float
    took_s: float
    processor_s: float


def watched(project: Project, *words: str, env: Mapping[str, str | None] | None = None) -> Watched:
    """Run the command with its output thrown away, and measure it until it has ended."""
    said = project.place / "stderr"
    began_s = time.monotonic()
    with said.open("wb") as err:
        process = project.start(
            "run", "train.py", *words, env=env, stdout=subprocess.DEVNULL, stderr=err.fileno()
        )
        peak_mb = processor_s = 0.0
        while process.poll() is None:
            peak_mb, processor_s = measured(process.pid) or (peak_mb, processor_s)
            time.sleep(0.01)
    took_s = time.monotonic() - began_s
    text = said.read_text()
    assert "Traceback" not in text, text
    return Watched(process.returncode, text, peak_mb, took_s, processor_s)


def measured(pid: int) -> tuple[float, float] | None:
    """How much memory a process has had at most, in MiB, and its seconds on a processor; None at its end.

    The kernel's figures of a child that has ended hold those of the process that started it.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    except OSError:
        return None
    if "VmHWM:" not in status:
        return None
    ticks = os.sysconf("SC_CLK_TCK")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024, sum(map(int, times)) / ticks


def steps(project: Project) -> list[dict[str, float]]:
    return [json.loads(line) for line in (project.run_folder() / "metrics.jsonl").read_text().splitlines()]


# Long lines ---------------------------------------------------------------------------------------

ONE_LINE = """
    import os, sys
    print('{"step": 1}', flush=True)
    piece = b"x" * (1 << 20)
    for _ in range(int(sys.argv[1])):
        left = piece
        while left:
            left = left[os.write(1, left):]
    print()
    print('{"step": 2}')
"""


@pytest.mark.parametrize("size_mb", [48, pytest.param(1024, marks=SOAK)])
def test_a_line_of_any_length_takes_no_memory_and_hides_no_step(
    project: Project, size_mb: int, figures: Figures
) -> None:
    project.write("train.py", ONE_LINE)
    done = watched(project, "--", str(size_mb))
    assert (done.code, project.record()["lastStep"]) == (0, 2), done.err
    assert "1 line was too long to be read for progress" in done.err
    assert done.peak_mb < LARGEST_MB
    figures(line_mb=size_mb, peak_mb=done.peak_mb, took_s=done.took_s)


# Many lines ---------------------------------------------------------------------------------------

MANY_LINES = """
    import os, sys
    lines, at_once = int(sys.argv[1]), 20_000
    for begin in range(0, lines, at_once):
        steps = range(begin + 1, min(lines, begin + at_once) + 1)
        left = "".join('{"step": %d, "loss": %.3f}\\n' % (step, 1000 / step) for step in steps).encode()
        if begin == 0:
            left += b'{"event": "checkpoint_saved", "path": "early.pt"}\\n'
        while left:
            left = left[os.write(1, left):]
    print('{"step": 0, "loss": NaN, "lr": 5}')
    print("y" * 70_000)
    print('{"event": "checkpoint_saved", "path": "late.pt", "step": 7}')
    print('{"step": %d, "loss": 0.125}' % lines)
"""


@pytest.mark.parametrize("lines", [200_000, pytest.param(10_000_000, marks=SOAK)])
def test_of_millions_of_lines_every_step_is_recorded_and_what_cannot_be_is_counted(
    project: Project, lines: int, figures: Figures
) -> None:
    project.write("train.py", MANY_LINES)
    done = watched(project, "-m", "10", "--", str(lines))
    record = project.record()
    assert done.code == 0, done.err
    assert (record["lastStep"], record["lastLoss"]) == (lines, 0.125)
    assert [Path(path).name for path in record["checkpoints"]] == ["early.pt", "late.pt"]
    assert "1 line was too long to be read for progress" in done.err
    assert "1 value that the script printed cannot be recorded and was left out" in done.err
    assert done.peak_mb < LARGEST_MB
    expected, odd = 1, []
    with (project.run_folder() / "metrics.jsonl").open("rb") as series:
        for line in series:
            (step,) = re.findall(rb'"step": ?(\d+)', line)
            if int(step) == expected:
                expected += 1
            else:
                odd.append(json.loads(line))
    assert expected == lines + 1, "every step is there, in its order"
    assert [(point["step"], point.get("loss")) for point in odd] == [(0, None), (lines, 0.125)]
    figures(lines=lines, peak_mb=done.peak_mb, took_s=done.took_s)


COPIES = """
    import os, sys
    source = os.open(sys.argv[1], os.O_RDONLY)
    while data := os.read(source, 1 << 18):
        while data:
            data = data[os.write(1, data):]
"""


@SOAK
def test_ten_million_lines_are_recorded_at_a_million_a_second_and_more(
    project: Project, figures: Figures
) -> None:
    lines, source = 10_000_000, project.place / "lines.jsonl"
    with source.open("wb") as file:
        for begin in range(0, lines, 100_000):
            text = "".join(f'{{"step": {step}, "loss": 0.5}}\n' for step in range(begin + 1, begin + 100_001))
            file.write(text.encode())
    project.write("train.py", COPIES)
    best = min((watched(project, "--", str(source)) for _ in range(3)), key=lambda done: done.processor_s)
    assert (best.code, project.record()["lastStep"]) == (0, lines), best.err
    assert best.peak_mb < LARGEST_MB
    per_s = lines / best.processor_s
    figures(lines_per_s_of_processor_time=per_s, lines_per_s=lines / best.took_s, peak_mb=best.peak_mb)
    assert per_s >= 1_000_000, "start and end of the run included"


# Bytes of any kind --------------------------------------------------------------------------------

NOISE = r"""
    import os, random, sys
    rng = random.Random(1)
    for number in range(int(sys.argv[1])):
        left = rng.randbytes(1 << 20) + b"\0\n\xff\xfe{\x00}\x1b[2J\r\n" + b'{"step": %d}\n' % (number + 1)
        while left:
            left = left[os.write(1, left):]
"""


@pytest.mark.parametrize("size_mb", [4, pytest.param(100, marks=SOAK)])
def test_bytes_of_any_kind_are_logged_as_they_are_and_crash_nothing(
    project: Project, size_mb: int, figures: Figures
) -> None:
    project.write("train.py", NOISE)
    done = watched(project, "--", str(size_mb))
    assert (done.code, project.record()["lastStep"]) == (0, size_mb), done.err
    assert "failed in" not in done.err, "no parser was given up"
    assert (project.run_folder() / "output.log").stat().st_size > size_mb << 20
    assert done.peak_mb < LARGEST_MB
    figures(noise_mb=size_mb, peak_mb=done.peak_mb)


# A line that is drawn again and again ---------------------------------------------------------------

BAR = r"""
    import os, sys, time
    total = int(sys.argv[1])
    for n in range(1, total + 1):
        os.write(1, b"\r %d%%|####    | %d/%d [00:%02d<00:10, 99.00it/s, loss=%.3f]"
                    % (100 * n // total, n, total, n % 60, 1 / n))
    while not os.path.exists("go"):
        time.sleep(0.01)
"""


@pytest.mark.parametrize("updates", [3_000, pytest.param(100_000, marks=SOAK)])
def test_a_bar_that_never_ends_its_line_is_followed_while_it_is_drawn(
    project: Project, updates: int, figures: Figures
) -> None:
    project.write("train.py", BAR)
    process = project.start("run", "train.py", "--", str(updates), stdout=subprocess.DEVNULL)
    wait_for(lambda: list((project.home / "runs").glob("*/metrics.jsonl")), "the first step")
    wait_for(lambda: steps(project)[-1]["step"] >= updates - 1, "the bar's end, the script still running")
    assert process.poll() is None
    peak_mb, _ = measured(process.pid) or (LARGEST_MB, 0.0)
    (project.folder / "go").touch()
    assert project.end(process).code == 0
    assert project.record()["lastStep"] == updates
    assert peak_mb < LARGEST_MB
    figures(updates=updates, peak_mb=peak_mb)


# Ranks that write at once ---------------------------------------------------------------------------

RANKS = """
    import json, os, subprocess, sys
    if len(sys.argv) == 2:
        me, lines = [sys.executable, __file__], sys.argv[1]
        sys.exit(max(each.wait() for each in [subprocess.Popen([*me, str(rank), lines]) for rank in range(4)]))
    rank, lines = int(sys.argv[1]), int(sys.argv[2])
    for step in range(rank * 10_000_000, rank * 10_000_000 + lines):
        print(json.dumps({"step": step, "loss": step * 0.5, "double": step * 2, "pad": "x" * (step % 3000)}))
"""


@pytest.mark.parametrize("lines", [500, pytest.param(20_000, marks=SOAK)])
def test_lines_that_ranks_tear_apart_are_never_recorded_as_wrong_values(
    project: Project, lines: int, figures: Figures
) -> None:
    project.write("train.py", RANKS)
    done = watched(project, "--", str(lines))
    assert done.code == 0, done.err
    points = steps(project)
    wrong = [
        point
        for point in points
        if "step" in point
        and (point.get("loss", point["step"] / 2), _double(point)) != (point["step"] / 2, point["step"] * 2)
    ]
    assert wrong == []
    assert {point["step"] // 10_000_000 for point in points if "step" in point} == {0, 1, 2, 3}
    figures(lines=4 * lines, recorded=len(points), wrong=len(wrong))


def _double(point: Mapping[str, object]) -> object:
    metrics = point.get("metrics")
    return metrics.get("double", None) if isinstance(metrics, dict) else None


# A disk that is full --------------------------------------------------------------------------------

FILLS = """
    print('{"step": 1}', flush=True)
    for _ in range(3000):
        print("z" * 1000)
    print('{"step": 2}')
"""


def test_a_log_on_a_full_disk_costs_output_that_is_counted_and_not_the_training(project: Project) -> None:
    project.write("train.py", FILLS)
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare")
    project.home.mkdir(mode=0o700)
    mount = f'mount -t tmpfs -o size=1m,mode=0700 none "{project.home}" && exec "$@" && true'
    before = ("unshare", "--map-root-user", "--user", "--mount", "sh", "-c", mount, "sh")
    if subprocess.run([*before, "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs user namespaces with a tmpfs of one's own")
    done = project.run("run", "train.py", "--force", before=before)
    assert done.code == 0, done.err
    assert done.out.count("z" * 1000) == 3000
    (lost,) = re.findall(r"(\d+) bytes of output are missing in .*: No space left on device", done.err)
    assert 1_900_000 < int(lost) < 3_100_000
