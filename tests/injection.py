"""Making one system call of a running child fail, or killing the child in the middle of it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

LIMIT_S = 60.0
ALLOW_TRACING = """
try:
    import ctypes
    ctypes.CDLL(None).prctl(0x59616D61, -1, 0, 0, 0)  # PR_SET_PTRACER: whoever wants to trace
except (OSError, AttributeError):
    pass
"""
"""What a child runs first, so that a system with restricted tracing lets its parent's child trace it."""


def finished_with_fault(
    child: subprocess.Popen[str], syscall: str, fault: str, when: int
) -> tuple[str, int | None]:
    """Let a child that said `ready` go on, with the fault at one system call; give what it said, and how it ended.

    :param fault: As strace takes it: `error=EIO`, `signal=KILL`.
    """
    return _finished_traced(child, "-o", os.devnull, "-e", f"inject={syscall}:{fault}:when={when}")


def finished_and_seen(child: subprocess.Popen[str], syscalls: str, log: Path) -> list[str]:
    """Let a child that said `ready` go on, and give its system calls, with the paths of what they are about."""
    _, status = _finished_traced(child, "-o", str(log), "-y", "-s", "0", "-e", f"trace={syscalls}")
    assert status == 0
    return log.read_text().splitlines()


def _finished_traced(child: subprocess.Popen[str], *options: str) -> tuple[str, int | None]:
    strace = shutil.which("strace")
    if strace is None:
        child.kill()
        child.communicate()
        pytest.skip("strace is not installed")
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    tracer = subprocess.Popen([strace, *options, "-p", str(child.pid)], stderr=subprocess.PIPE, text=True)
    assert tracer.stderr is not None
    try:
        said = tracer.stderr.readline()
        if "attached" not in said:
            pytest.skip(f"strace cannot trace here: {said.strip()}")
        return child.communicate("go\n", timeout=LIMIT_S)[0], child.returncode
    finally:
        child.kill()
        child.communicate()
        tracer.communicate(timeout=LIMIT_S)
