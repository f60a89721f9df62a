"""Refuse to start in quiet hours, and more than so many times a minute."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backprop_core import Passed, PluginOption, Refusal, RunRequest, Settings, hookimpl

from .bucket import Bucket
from .quiet import Quiet, parse_quiet, quiet_until

_quiet: tuple[Quiet, ...] = ()
_bucket: Bucket | None = None
_problem: str | None = None


@hookimpl
def backprop_options() -> Sequence[PluginOption]:
    return [
        PluginOption(
            name="quiet-hours", help="Start no run then, such as 22:00-07:00; several by commas, local time."
        ),
        PluginOption(name="max-starts-per-minute", type=float, help="How many runs may start a minute."),
        PluginOption(name="start-burst", type=int, default=1, help="How many of them may start at once."),
    ]


@hookimpl
def backprop_configure(settings: Settings) -> None:
    global _quiet, _bucket, _problem  # noqa: PLW0603 - a module is the plugin, so its state is the module's
    options: dict[str, Any] = settings.plugin.get("schedule", {})
    _quiet, _bucket, _problem = (), None, None
    try:
        _quiet = parse_quiet(options.get("quiet-hours") or "")
        if (per_minute := options.get("max-starts-per-minute")) is not None:
            _bucket = Bucket(state_file(), per_minute, options.get("start-burst", 1))
    except ValueError as error:
        _problem = str(error)


@hookimpl
def backprop_admit(request: RunRequest) -> Refusal | Passed | None:
    if _problem:
        return Refusal(f"schedule: {_problem}")
    if until := quiet_until(_quiet, time.localtime(time.time())):
        return Refusal(f"quiet hours until {until}")
    if _bucket is None:
        return Passed("schedule: no quiet hours now") if _quiet else None
    wait_s = _bucket.take(request.run_id) if will_start(request) else _bucket.look()
    if wait_s > 0:
        return Refusal(f"starts: {_bucket.per_minute:g} a minute are allowed, the next one in {wait_s:.1f} s")
    return Passed(f"starts: fewer than the {_bucket.per_minute:g} a minute that are allowed")


@hookimpl
def backprop_environment(request: RunRequest) -> dict[str, str]:
    """Note that the start for which a turn was taken happens: it is not good for another one."""
    if _bucket is not None and will_start(request):
        _bucket.use(request.run_id)
    return {}


def will_start(request: RunRequest) -> bool:
    """Tell a start from `status` and `--dry-run`, which make no folder for the run."""
    return bool(request.run_id) and request.run_dir is not None and request.run_dir.is_dir()


def state_file() -> Path:
    home = Path(os.environ.get("BACKPROP_HOME") or "~/.backprop").expanduser()
    return home / "schedule" / socket.gethostname() / "starts.json"
