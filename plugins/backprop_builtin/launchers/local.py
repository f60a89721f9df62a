"""Start a run's agent as a background process of this machine."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from backprop_core import EngineState, Launcher, LauncherError, LaunchPlan, hookimpl, open_private

if TYPE_CHECKING:
    from subprocess import Popen

MOST_DETAIL_BYTES = 4096


@hookimpl
def backprop_launcher() -> Launcher:
    return LocalLauncher()


class LocalLauncher:
    """Runs agents in sessions of their own, so that closing the terminal does not end them."""

    name = "local"

    def __init__(self) -> None:
        self._started: dict[str, tuple[Popen[bytes], int]] = {}
        self._ended: dict[str, EngineState] = {}

    def preflight(self, plan: LaunchPlan) -> Sequence[str]:
        return [] if plan.run_dir.is_dir() else [f"the run's folder {plan.run_dir} does not exist"]

    def render(self, plan: LaunchPlan) -> str:
        return shlex.join(plan.command)

    def submit(self, plan: LaunchPlan) -> str:
        import subprocess

        handle = f"{plan.run_id}/{plan.attempt}"
        if handle in self._started or handle in self._ended:
            return handle
        log = open_log(plan.run_dir / "agent.log")
        try:
            process = subprocess.Popen(
                plan.command,
                env=dict(plan.environment),
                cwd=plan.cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        except OSError as error:
            os.close(log)
            raise LauncherError(f"the agent of run {plan.run_id} does not start: {error}") from error
        self._started[handle] = process, log
        return handle

    def state(self, handles: Sequence[str]) -> Mapping[str, EngineState]:
        return {handle: self._state(handle) for handle in handles}

    def _state(self, handle: str) -> EngineState:
        if handle not in self._started:
            return self._ended.get(handle, EngineState(phase="unknown"))
        process, log = self._started[handle]
        code = process.poll()
        if code is None:
            return EngineState(phase="running")
        del self._started[handle]
        detail = os.pread(log, MOST_DETAIL_BYTES, 0).decode("utf-8", "replace").strip()
        os.close(log)
        self._ended[handle] = EngineState(phase="gone", exit_code=code, detail=detail or None)
        return self._ended[handle]

    def cancel(self, handle: str, *, force: bool) -> None:
        if handle in self._started:
            process, _ = self._started[handle]
            (process.kill if force else process.terminate)()


def open_log(path: Path) -> int:
    """Open what the agent writes to stderr; it is read again even after the run's folder is gone."""
    try:
        return open_private(path, os.O_RDWR | os.O_TRUNC | os.O_APPEND)
    except OSError as error:
        raise LauncherError(f"{path} cannot be written: {error.strerror}") from error
