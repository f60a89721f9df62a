"""The names that plugin authors import. Nothing is loaded before it is used."""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # importing typing would cost a script that wants the helper alone 10 ms
if TYPE_CHECKING:
    from typing import Any

    from .description import versions_in
    from .description.source import Call, Source, read_source
    from .errors import (
        BackpropError,
        ExitCode,
        LauncherError,
        NotFoundError,
        PluginError,
        ProbeError,
        RefusedError,
        SettingsError,
        StorageError,
        UsageError,
    )
    from .hookspecs import hookimpl
    from .interfaces import EventParser, Framework, GpuProbe, Launcher, Storage, StorageBackend
    from .locks import is_on_network, open_private
    from .patterns import pattern
    from .records import (
        RUN_FILES,
        Attempt,
        CheckpointForm,
        CheckpointSaved,
        EngineState,
        Event,
        Flaw,
        Gpu,
        GpuIdentity,
        Host,
        Intent,
        LaunchPlan,
        Limits,
        Machine,
        Passed,
        Pause,
        PauseSpan,
        PluginFailure,
        PluginOption,
        ProcessExit,
        Progress,
        ProgressBatch,
        Refusal,
        RunRecord,
        RunRequest,
        Script,
        Stop,
        Warn,
    )
    from .settings import Settings
    from .states import RunState
    from .units import memory_limit_mb

__version__ = "0.1.0"

_HOMES = {
    "description": "versions_in",
    "description.source": "Call Source read_source",
    "errors": (
        "BackpropError ExitCode LauncherError NotFoundError PluginError ProbeError RefusedError "
        "SettingsError StorageError UsageError"
    ),
    "hookspecs": "hookimpl",
    "interfaces": "EventParser Framework GpuProbe Launcher Storage StorageBackend",
    "locks": "is_on_network open_private",
    "patterns": "pattern",
    "records": (
        "Attempt CheckpointForm CheckpointSaved EngineState Event Flaw Gpu GpuIdentity Host Intent LaunchPlan "
        "Limits Machine Passed Pause PauseSpan PluginFailure PluginOption ProcessExit Progress ProgressBatch "
        "RUN_FILES Refusal RunRecord RunRequest Script Stop Warn"
    ),
    "settings": "Settings",
    "states": "RunState",
    "units": "memory_limit_mb",
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = [
    "RUN_FILES",
    "Attempt",
    "BackpropError",
    "Call",
    "CheckpointForm",
    "CheckpointSaved",
    "EngineState",
    "Event",
    "EventParser",
    "ExitCode",
    "Flaw",
    "Framework",
    "Gpu",
    "GpuIdentity",
    "GpuProbe",
    "Host",
    "Intent",
    "LaunchPlan",
    "Launcher",
    "LauncherError",
    "Limits",
    "Machine",
    "NotFoundError",
    "Passed",
    "Pause",
    "PauseSpan",
    "PluginError",
    "PluginFailure",
    "PluginOption",
    "ProbeError",
    "ProcessExit",
    "Progress",
    "ProgressBatch",
    "Refusal",
    "RefusedError",
    "RunRecord",
    "RunRequest",
    "RunState",
    "Script",
    "Settings",
    "SettingsError",
    "Source",
    "Stop",
    "Storage",
    "StorageBackend",
    "StorageError",
    "UsageError",
    "Warn",
    "__version__",
    "hookimpl",
    "is_on_network",
    "memory_limit_mb",
    "open_private",
    "pattern",
    "read_source",
    "versions_in",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'backprop_core' has no attribute {name!r}")
    value = getattr(import_module(f"backprop_core.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
