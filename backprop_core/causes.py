"""Why an attempt failed, told from how its process ended and from the last lines that it printed."""

from __future__ import annotations

import re
import signal
from enum import StrEnum

from .patterns import pattern
from .records import ProcessExit

TAIL_BYTES = 8192
"""How much of the end of an output is looked at."""


class Cause(StrEnum):
    """What ended an attempt that did not end well; the values are what records hold."""

    GPU_MEMORY = "gpu-memory"
    MEMORY = "memory"
    NAN_LOSS = "nan-loss"
    DISK_FULL = "disk-full"
    KILLED = "killed"
    UNUSABLE = "unusable"
    SCRIPT = "script"
    STALLED = "stalled"
    GOVERNOR = "governor"


WORDS = {
    Cause.GPU_MEMORY: "out of GPU memory",
    Cause.MEMORY: "out of memory",
    Cause.NAN_LOSS: "the loss is not a number",
    Cause.DISK_FULL: "the disk is full",
    Cause.UNUSABLE: "the script does not load or does not take its arguments",
}
"""What a reason says of a cause that the exit alone does not tell."""

RETRIED = frozenset(
    {Cause.GPU_MEMORY, Cause.MEMORY, Cause.KILLED, Cause.SCRIPT, Cause.STALLED, Cause.GOVERNOR}
)
"""What another try from the last checkpoint may get past; the others would end it again."""

# What PyTorch, TensorFlow, JAX, the C library and the kernel print. The more specific stands first.
_SIGNS = {
    Cause.GPU_MEMORY: r"""(?:CUDA|HIP|MPS\ backend|XPU)\ out\ of\ memory|torch(?:\.cuda)?\.OutOfMemoryError
        |CUDA_ERROR_OUT_OF_MEMORY|CU[A-Z]+_STATUS_ALLOC_FAILED|RESOURCE_EXHAUSTED|ResourceExhaustedError""",
    Cause.MEMORY: r"""^\s*MemoryError\b|can't\ allocate\ memory|Cannot\ allocate\ memory|std::bad_alloc
        |numpy\S*MemoryError|DataLoader\ worker\ .*\ killed\ by\ signal:\ Killed""",
    Cause.DISK_FULL: r"No\ space\ left\ on\ device|Disk\ quota\ exceeded|\bENOSPC\b",
    Cause.NAN_LOSS: r"""(?i:loss\b[^\n]{0,60}\b(?:nan\b|infinite\b|not\ (?:a\ number|finite)))
        |(?i:\b(?:nan|inf|non-finite)\b[^\n]{0,30}\bloss)
        |^\s*\{[^\n]*"loss":\s*(?:null|NaN|-?Infinity)\b""",
    Cause.KILLED: r"Signal\ (?:9\ \(SIGKILL\)|15\ \(SIGTERM\))\ .*received\ by\ PID|exitcode\s*:\s*-(?:9|15)\b",
    Cause.UNUSABLE: r"""^(?:SyntaxError|IndentationError|TabError|ModuleNotFoundError|ImportError)\b
        |^[^\n]*error:\ (?:unrecognized\ arguments|the\ following\ arguments\ are\ required|argument\ )""",
}
_PATTERNS = {cause: pattern(signs, re.MULTILINE | re.VERBOSE) for cause, signs in _SIGNS.items()}
_FROM_OUTSIDE = frozenset(
    {signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGXCPU, signal.SIGUSR1}
)


def cause_of(exited: ProcessExit | None, tail: bytes) -> Cause:
    """Classify a failure.

    :param exited: None where the script did not start.
    :param tail: The end of what it printed, some kilobytes.
    """
    if exited is None or exited.status in (126, 127):
        return Cause.UNUSABLE
    text = tail.decode("utf-8", "replace").replace("\r", "\n")
    for cause, signs in _PATTERNS.items():
        if signs.search(text):
            return cause
    if exited.status - 128 in _FROM_OUTSIDE:  # a shell in between tells of a signal by 128 + N
        return Cause.KILLED
    return Cause.SCRIPT


def told(exited: ProcessExit | None, cause: Cause) -> str:
    """Say how a script failed: its exit, and what lay behind it where that is known."""
    if exited is None:
        return "the script did not start"
    how = f"exit code {exited.code}"
    if exited.signal is not None:
        how = f"killed by {signal_name(exited.signal)}"
    if exited.signal == signal.SIGKILL and cause is Cause.KILLED:
        return f"{how} (often the kernel's out-of-memory killer)"
    return f"{how} ({WORDS[cause]})" if cause in WORDS else how


def signal_name(number: int) -> str:
    """Return SIGKILL for 9; the number where it has no name here."""
    return signal.Signals(number).name if number in set(signal.Signals) else str(number)
