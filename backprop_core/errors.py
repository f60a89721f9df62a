"""Every error that Backprop raises on purpose, and the exit code it stands for.

::

    BackpropError                 (1)
    |-- UsageError                (2)   the command line is wrong
    |   `-- SettingsError         (2)   a settings file, variable or --set is wrong
    |-- PluginError               (2)   a plugin that was asked for does not load
    |-- StorageError              (2)   records cannot be read or written
    |   `-- HangingStorageError   (2)   the storage did not come back, and was interrupted
    |-- LauncherError             (2)   a launcher cannot take the run
    |-- NotFoundError            (66)   the script, the run or the checkpoint does not exist
    |-- RefusedError             (75)   the Governor does not let the run start now
    `-- ProbeError               (75)   a GPU probe cannot read

Only the command line turns them into output.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum


class ExitCode(IntEnum):
    """What `backprop` exits with; a failing script's own code is passed on instead."""

    OK = 0
    ERROR = 1
    USAGE = 2
    NOT_FOUND = 66
    REFUSED = 75
    INTERRUPTED = 130
    STOPPED = 143


class BackpropError(Exception):
    """What went wrong, where, and what to do about it, in one to three lines."""

    exit_code: ExitCode = ExitCode.ERROR

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(BackpropError):
    """The command line asks for something that does not exist or contradicts itself."""

    exit_code = ExitCode.USAGE


class SettingsError(UsageError):
    """A settings file, an environment variable or `--set` holds something that cannot be used."""


class PluginError(BackpropError):
    """A plugin that was asked for does not load, or breaks a rule of the framework."""

    exit_code = ExitCode.USAGE


class StorageError(BackpropError):
    """Records cannot be read or written."""

    exit_code = ExitCode.USAGE


class HangingStorageError(StorageError):
    """The storage did not come back in time, and was interrupted: it is better not asked again at once."""


class LauncherError(BackpropError):
    """A launcher cannot take the run."""

    exit_code = ExitCode.USAGE


class NotFoundError(BackpropError):
    """The script, the run or the checkpoint does not exist."""

    exit_code = ExitCode.NOT_FOUND


class RefusedError(BackpropError):
    """The Governor does not let the run start now; `reasons` holds every one of them."""

    exit_code = ExitCode.REFUSED

    def __init__(self, reasons: Sequence[str], hint: str | None = None) -> None:
        super().__init__("; ".join(reasons), hint)
        self.reasons = tuple(reasons)


class ProbeError(BackpropError):
    """A GPU probe cannot read; the message names the failure."""

    exit_code = ExitCode.REFUSED
