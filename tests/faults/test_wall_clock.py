"""Somebody sets the clock by a day while a run goes on: no time box minds, and nothing took less than 0."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from kit import Project, wait_for

from backprop_builtin.storage.json_file import JsonBackend
from backprop_core import Intent

DAY_S = 86_400
# Shifts the wall clock, and it alone, of whoever loads this, by as many seconds as a file says.
SHIFT = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static long shift(void) {
    const char *path = getenv("BACKPROP_WALL_CLOCK");
    FILE *file = path ? fopen(path, "r") : NULL;
    long seconds = 0;
    if (file) { if (fscanf(file, "%ld", &seconds) != 1) seconds = 0; fclose(file); }
    return seconds;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *)) dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (result == 0 && clock == CLOCK_REALTIME) now->tv_sec += shift();
    return result;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec exact;
    (void) zone;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}
"""
# Tells on the monotonic clock when it began and when it was interrupted, and the day that it believes it is.
TELLING = """
    import signal, sys, time
    def end(*_):
        print("interrupted", time.monotonic(), time.time(), flush=True)
        sys.exit(0)
    signal.signal(signal.SIGINT, end)
    print("began", time.monotonic(), time.time(), flush=True)
    while True:
        time.sleep(0.01)
"""
BOX_S = 1.8


@pytest.fixture(scope="module")
def shifting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that shifts the wall clock."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to build what shifts the clock")
    folder = tmp_path_factory.mktemp("clock")
    (folder / "shift.c").write_text(SHIFT)
    library = folder / "shift.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", library, folder / "shift.c", "-ldl"], check=True, timeout=60
    )
    return library


def test_a_clock_that_is_set_moves_no_time_box_and_makes_no_duration_negative(
    project: Project, shifting: Path
) -> None:
    """It is set a day on during a pause, and two days back after it."""
    clock = Clock(project)
    project.write("train.py", TELLING)
    env = {"LD_PRELOAD": str(shifting), "BACKPROP_WALL_CLOCK": str(clock.file)}
    running = project.start("run", "train.py", "-m", str(BOX_S / 60), env=env)
    run_id = project.wait_for_state("running")["id"]
    log = project.run_folder() / "output.log"
    wait_for(lambda: log.exists() and b"\n" in log.read_bytes(), "the script to begin")
    storage = JsonBackend().open(None, project.home)
    storage.post(run_id, Intent(kind="pause"))
    paused_s = time.monotonic()
    project.wait_for_state("paused")
    clock.set(DAY_S)
    storage.post(run_id, Intent(kind="unpause"))
    project.wait_for_state("running")
    continued_s = time.monotonic()
    clock.set(-DAY_S)
    assert project.end(running).code == 0

    record = project.record()
    assert record["status"] == "timeboxed"
    (_, began_s, began_at), (_, ended_s, ended_at) = (line.split() for line in log.read_text().splitlines())
    took_s = float(ended_s) - float(began_s)
    assert float(ended_at) - float(began_at) == pytest.approx(took_s - DAY_S, abs=0.1), "it was not set"
    assert BOX_S - 0.3 <= took_s <= BOX_S + (continued_s - paused_s) + 0.3
    (attempt,) = record["attempts"]
    (pause,) = attempt["pauses"]
    assert pause["end"] >= pause["begin"]
    assert attempt["end"] >= attempt["start"]
    assert record["endTime"] >= record["startTime"]
    (row,) = project.run("list", env=env).out.splitlines()[1:]
    assert not row.split()[3].startswith("-"), row


class Clock:
    """How far off the wall clock is, in seconds, in a file that is never half written."""

    def __init__(self, project: Project) -> None:
        self.file = project.place / "wall-clock"
        self.set(0)

    def set(self, shift_s: int) -> None:
        fresh = self.file.with_suffix(".new")
        fresh.write_text(str(shift_s))
        os.replace(fresh, self.file)
