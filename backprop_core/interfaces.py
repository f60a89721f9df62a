"""The five parts that a plugin can bring, and what an open storage can do.

All are Protocols: a plugin's class needs the right methods, not a base class. `name` is what people type.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from .errors import UsageError
from .records import EngineState, Event, Gpu, Intent, LaunchPlan, Progress, RunRecord, RunRequest, Script
from .states import RunState


@runtime_checkable
class GpuProbe(Protocol):
    """A way to read GPU memory and temperature."""

    name: str
    order: int
    """`auto` asks the lowest first: nvml 10, nvidia-smi 20, none 1000."""

    def is_available(self) -> bool:
        """Tell cheaply whether reading is worth a try here; never raises."""
        ...

    def read(self) -> Sequence[Gpu]:
        """Read every GPU. Called off the main thread, with a time limit.

        :raises ProbeError: with the named failure, when nothing can be read.
        """
        ...

    def visible_devices(self, gpu: Gpu) -> Mapping[str, str]:
        """Give the environment that confines a process to this GPU."""
        ...


@runtime_checkable
class Framework(Protocol):
    """A training framework: how to recognise it and what to tell it.

    A framework may have more, which is asked for only where it is there:

    - `checkpoint_forms`, a tuple of CheckpointForm: what its trainers' checkpoints look like. They are then found
      on disk, in and under the run's working directory and the folders that its arguments and its source name.
    - `missing_line(script: Script) -> str | None`: the line, in words, without which this script does not go on
      from a checkpoint; None where it does. `backprop_core.read_source` tells what a script calls and names.
    - `memory_layer(request: RunRequest, gpu: Gpu | None) -> str`: what holds a run to its GPU memory limit.
    """

    name: str
    order: int
    """Between equal scores the lowest wins: the more specific comes first, lightning before pytorch."""

    def score(self, script: Script) -> float:
        """Tell from the script's imports how surely it uses this framework: 0 no, 1 certain."""
        ...

    def environment(self, request: RunRequest, gpu: Gpu | None) -> Mapping[str, str]:
        """Give the variables that pass the run's limits to the framework."""
        ...

    def resume_arguments(self, script: Script, checkpoint: Path) -> Sequence[str]:
        """Give the arguments with which this script goes on from the checkpoint; () where it takes none."""
        ...


EventParser = Callable[[str], Sequence[Event] | None]
"""Reads one line of output without its end; None means "not mine".

A parser that is an object may also have `parse_chunk(lines: bytes)`, which is offered many lines at once where no
parser before it has taken any. It answers with the events of all of them, numbers finite and integers within 64
bits, or None to be offered fewer of them at once, and in the end one. A `ProgressBatch` spares the core a look at
each of them.

It may also have `signs`, a tuple of bytes one of which is in every line of its own: it is then passed over for
output that holds none of them, and `parse_chunk` may be offered the lines with a sign alone. An empty tuple, as ever
when `signs` is missing, means any line.
"""


@runtime_checkable
class Storage(Protocol):
    """An open store of run records, safe for many processes at once."""

    def get(self, run_id: str) -> RunRecord | None:
        """Return the record, or None where there is none."""
        ...

    def save(self, record: RunRecord) -> None:
        """Add or replace the record; durable when it returns.

        :raises StorageError: when it could not be made durable.
        """
        ...

    def runs(self, *, states: Collection[RunState] = (), limit: int | None = None) -> Sequence[RunRecord]:
        """List runs, newest first; `states` keeps those alone, () means every state."""
        ...

    def delete(self, run_id: str) -> None:
        """Forget the run; one that is not there is no error."""
        ...

    def append_metrics(self, run_id: str, points: Sequence[Progress]) -> None:
        """Add points to the run's series; buffered, lost at most with the machine."""
        ...

    def metrics(self, run_id: str) -> Iterable[Progress]:
        """Read the run's series, oldest first."""
        ...

    def post(self, run_id: str, intent: Intent) -> None:
        """Leave a request for the run's supervisor, from any terminal or machine."""
        ...

    def take(self, run_id: str) -> Intent | None:
        """Take the oldest request that nobody took yet; read by the run's own supervisor."""
        ...

    def close(self) -> None:
        """Write what is buffered and let go of files."""
        ...


@runtime_checkable
class StorageBackend(Protocol):
    """A kind of storage, chosen by name or by URL scheme."""

    name: str
    schemes: tuple[str, ...]

    def open(self, url: str | None, home: Path) -> Storage:
        """Open the store.

        :param url: What the `storage` setting holds where it is a URL; None for a bare name.
        :param home: Backprop's folder. It may not be there yet; whoever needs it makes it, with mode 0700.
        :raises StorageError: when it cannot be used.
        """
        ...


@runtime_checkable
class Launcher(Protocol):
    """A way to start a run's agent: on this machine, or through a cluster's queue."""

    name: str

    def preflight(self, plan: LaunchPlan) -> Sequence[str]:
        """List what stands in the way, in words; empty means go."""
        ...

    def render(self, plan: LaunchPlan) -> str:
        """Show what would be run or submitted, for --dry-run."""
        ...

    def submit(self, plan: LaunchPlan) -> str:
        """Start the agent and return the engine's handle; the same attempt is never started twice."""
        ...

    def state(self, handles: Sequence[str]) -> Mapping[str, EngineState]:
        """Ask the engine about all handles with one question."""
        ...

    def cancel(self, handle: str, *, force: bool) -> None:
        """End the job through the engine: escalation only, a stop request comes first."""
        ...


NEEDS: Mapping[str, tuple[str, ...]] = {
    "backprop_storage_backend": ("name", "schemes", "open"),
    "backprop_launcher": ("name", "preflight", "render", "submit", "state", "cancel"),
    "backprop_framework": ("name", "order", "score", "environment", "resume_arguments"),
    "backprop_gpu_probe": ("name", "order", "is_available", "read", "visible_devices"),
    "backprop_event_parser": ("__call__",),
}
"""What a part must have, by the hook that hands it over."""


def named(parts: Sequence[Any], wanted: str, what: str, setting: str) -> Any:
    """Pick a part by its name.

    :raises UsageError: when it is not installed, with the installed ones and a close match.
    """
    for part in parts:
        if part.name == wanted:
            return part
    import difflib

    names = sorted(part.name for part in parts)
    close = difflib.get_close_matches(wanted, names, 1)
    hint = f'did you mean "{close[0]}"? ' if close else ""
    raise UsageError(
        f'no {what} named "{wanted}" is installed ({setting})',
        f"{hint}installed: {', '.join(names) or 'none'}",
    )
