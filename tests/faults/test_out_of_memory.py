"""A script that the kernel kills for want of memory has failed; that is no time box and no success."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from figures import Figures
from kit import Project

LIMIT_MB = 80
CGROUPS = Path("/sys/fs/cgroup")
GREEDY = """
    import os, sys
    with open(os.path.join(sys.argv[1], "cgroup.procs"), "w") as file:
        file.write(str(os.getpid()))
    print('{"step": 1}', flush=True)
    taken = []
    while True:
        taken.append(bytearray(os.urandom(1 << 20)))
"""


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A memory cgroup of 80 MB, of either version; skips where none can be made (which is for root)."""
    version_1, version_2 = CGROUPS / "memory", CGROUPS
    parent = version_1 if version_1.is_dir() else version_2
    group = parent / f"backprop-test-{os.getpid()}"
    limit = "memory.limit_in_bytes" if parent is version_1 else "memory.max"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no memory cgroup can be made in {parent}: {error.strerror}")
    try:
        if not (group / limit).exists():
            pytest.skip(f"{parent} hands no memory controller on")
        (group / limit).write_text(str(LIMIT_MB << 20))
        for swap, most in (("memory.memsw.limit_in_bytes", LIMIT_MB << 20), ("memory.swap.max", 0)):
            with suppress(OSError):
                (group / swap).write_text(str(most))
        yield group
    finally:
        group.rmdir()


@pytest.mark.parametrize("times", [1, pytest.param(20, marks=pytest.mark.soak)])
def test_a_script_that_runs_out_of_memory_has_been_killed(
    project: Project, cgroup: Path, figures: Figures, times: int
) -> None:
    project.write("train.py", GREEDY)
    for _ in range(times):
        done = project.run("run", "train.py", "--", cgroup, timeout=60)
        assert done.code == 128 + 9
        record = project.record()
        assert (record["status"], record["exitCode"], record["lastStep"]) == ("failed", 137, 1)
        assert record["reason"] == "killed by SIGKILL (often the kernel's out-of-memory killer)"
    figures(told_as_killed=f"{times}/{times}")
