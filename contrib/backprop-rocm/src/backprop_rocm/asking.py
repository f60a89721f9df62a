"""Ask a program that may hang in its driver, found only where nobody else can write."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
from contextlib import suppress
from typing import Any

from backprop_core import ProbeError

LIMIT_S = 9.0
"""Below the 10 s that Backprop waits for a probe, so that the failure is told by name."""


def ask(program: str, *arguments: str) -> Any:
    """Return the JSON that a program prints, without what it prints before.

    :raises ProbeError: when it cannot be started, does not answer in time, or prints no JSON.
    """
    name = os.path.basename(program)
    try:
        child = subprocess.Popen(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise ProbeError(f"{name} cannot be started: {error.strerror}") from error
    with child:
        try:
            text, errors = child.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired as error:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            raise ProbeError(f"{name} did not answer within {LIMIT_S:g} s") from error
    found = first_json(text)
    if found is None:
        lines = [line.strip() for line in (text + "\n" + errors).splitlines() if line.strip()]
        raise ProbeError(f"{name}: {lines[0] if lines else f'no answer, exit code {child.returncode}'}")
    return found


def first_json(text: str) -> Any | None:
    """Decode the first object or list that begins a line; both tools print warnings before it."""
    decoder, start = json.JSONDecoder(), 0
    for line in text.splitlines(keepends=True):
        if line.lstrip()[:1] in ("{", "["):
            with suppress(ValueError, RecursionError):
                return decoder.raw_decode(text[start:].lstrip())[0]
        start += len(line)
    return None


def find(program: str) -> str | None:
    """Find a program on PATH where only root or this user may write: folder, file, and where a link leads."""
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        file = os.path.join(folder, program)
        if os.path.isabs(folder) and os.access(file, os.X_OK):
            target = os.path.realpath(file)
            if all(map(is_trusted, (folder, file, target, os.path.dirname(target)))):
                return file
    return None


def is_trusted(path: str) -> bool:
    try:
        status = os.stat(path)
    except OSError:
        return False
    return status.st_uid in {0, os.geteuid()} and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
