"""Every extension point, in the order in which a run meets them.

A plugin implements a hook by defining a function of its name, marked with `@backprop_core.hookimpl`,
that takes only the arguments it uses. Defaults, hook wrappers, `async` and `yield` are refused. The `:on error:`
line of each hook says what happens when an implementation raises; the run's script is never taken down by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

from .interfaces import EventParser, Framework, GpuProbe, Launcher, StorageBackend
from .records import (
    CheckpointSaved,
    Event,
    Gpu,
    Machine,
    Passed,
    Pause,
    PluginOption,
    Refusal,
    RunRecord,
    RunRequest,
    Stop,
    Warn,
)

if TYPE_CHECKING:
    from .settings import Settings

PROJECT = "backprop"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
DEPRECATED: dict[str, str] = {}
"""Hooks that a later version will not have, with what takes their place; whoever implements one is told.

:source: docs/explanation/stability.md, which says how long they work.
"""

# ---------------------------------------------------------------------------------------------
# Setting up
# ---------------------------------------------------------------------------------------------


@hookspec
def backprop_options() -> Sequence[PluginOption]:
    """Declare options of this plugin.

    Called once, before the command line is read to its end. Each option becomes a flag of `run` and
    `resume`, a setting `plugin.<plugin>.<option>` and an environment variable; `backprop_configure` is given the value.
    A flag that another plugin or Backprop itself has is exit 2 for `run` and `resume`, naming both.

    :returns: The options.
    :on error: The plugin is named in a warning and its options are left out.
    """
    raise NotImplementedError


@hookspec
def backprop_commands() -> Mapping[str, Any]:
    """Add commands to the command line.

    Called when the command typed is none of Backprop's own, and for `--help`.

    :returns: Command name to Typer app.
    :on error: The plugin is named in a warning and its commands are left out.
    """
    raise NotImplementedError


@hookspec
def backprop_configure(settings: Settings) -> None:
    """Take note of the resolved settings.

    Called once for each command that loads plugins, before any other hook but the two above.

    :param settings: The resolved settings; `settings.plugin` maps plugin names to their options.
    :on error: The plugin is named in a warning.
    """
    raise NotImplementedError


# ---------------------------------------------------------------------------------------------
# Parts: each plugin may hand over one (or several, as a list)
# ---------------------------------------------------------------------------------------------


@hookspec
def backprop_storage_backend() -> StorageBackend:
    """Bring a storage backend, chosen by the `storage` setting.

    Called once, when records are first needed.

    :returns: The backend, or a list of them.
    :on error: Exit 2, for a backend that was chosen by name; a named warning otherwise.
    """
    raise NotImplementedError


@hookspec
def backprop_launcher() -> Launcher:
    """Bring a launcher, chosen by the `launcher` setting.

    Called once, before a run starts.

    :returns: The launcher, or a list of them.
    :on error: Exit 2, for a launcher that was chosen by name; a named warning otherwise.
    """
    raise NotImplementedError


@hookspec
def backprop_framework() -> Framework:
    """Bring a framework, chosen by `--framework` or by what the script imports.

    Called once, when the script is described.

    :returns: The framework, or a list of them.
    :on error: Exit 2, for a framework that was chosen by name; a named warning otherwise.
    """
    raise NotImplementedError


@hookspec
def backprop_gpu_probe() -> GpuProbe:
    """Bring a GPU probe, chosen by `--gpu-probe`; `auto` takes the first that works, by order.

    Called once, before the machine is first measured.

    :returns: The probe, or a list of them.
    :on error: Exit 2, for a probe that was chosen by name; a named warning otherwise. A probe that is there and cannot
        read is a refusal.
    """
    raise NotImplementedError


@hookspec
def backprop_event_parser(run: RunRecord) -> EventParser:
    """Bring a function that reads events from lines of output.

    Called once per attempt. Per line the parsers are asked in plugin order, the first that answers wins.

    :param run: The run whose output will be read.
    :returns: The parser, or a list of them.
    :on error: The plugin is named and its parser left out; a parser that raises is not asked again, nor is one
        that waits for 0.3 s, or works for 2 s, on a few lines: the whole run waits for it.
    """
    raise NotImplementedError


# ---------------------------------------------------------------------------------------------
# Before the script starts
# ---------------------------------------------------------------------------------------------


@hookspec
def backprop_find_checkpoint(run: RunRecord) -> CheckpointSaved | Path | str | None:
    """Name the checkpoint that a resumed run should go on from.

    Called by `resume` when no checkpoint was given. Every plugin is asked; the last step wins.

    :param run: The run to be resumed.
    :returns: A checkpoint, or None.
    :on error: The plugin is named and passed over.
    """
    raise NotImplementedError


@hookspec
def backprop_admit(request: RunRequest, machine: Machine) -> Refusal | Warn | Passed | None:
    """Object to starting this run now.

    Called once per admission attempt, under the admission lock, before anything is launched.
    Every plugin is asked; one refusal is enough, and all of them are shown.

    :param request: What the person asked for.
    :param machine: What was measured; unknown amounts are None, never 0. Free GPU memory is what is
        left after reservations of runs that have not allocated yet.
    :returns: A Refusal, a Warn or, for `status` to show, Passed, with the measured value and the limit in its
        reason; None where the rule has nothing to say.
    :on error: The run is refused and the plugin named: a broken rule is no permission, nor is one that takes
        longer than 10 s.
    """
    raise NotImplementedError


@hookspec
def backprop_select_gpu(request: RunRequest, gpus: Sequence[Gpu]) -> Gpu | None:
    """Choose the GPU for this run.

    Called under the admission lock with the GPUs that pass every rule, best first. The first answer wins;
    None leaves the choice to the next plugin, and in the end to the most free memory.

    :param request: What the person asked for.
    :param gpus: The candidates; an answer that is not among them is a failure of the plugin.
    :returns: One of `gpus`, or None.
    :on error: The run is refused and the plugin named.
    """
    raise NotImplementedError


@hookspec
def backprop_environment(request: RunRequest, gpu: Gpu | None) -> Mapping[str, str]:
    """Add variables to the script's environment.

    Called once per attempt, after a GPU was chosen. Later plugins do not overwrite earlier answers; the
    variables of the environment contract (`BACKPROP_*`) cannot be changed.

    :param request: What the person asked for.
    :param gpu: The run's first GPU, or None.
    :returns: Name to value.
    :on error: The plugin is named and its variables are left out.
    """
    raise NotImplementedError


# ---------------------------------------------------------------------------------------------
# While the script runs
# ---------------------------------------------------------------------------------------------


@hookspec
def backprop_run_started(run: RunRecord) -> None:
    """Take note that an attempt has started.

    Called on the observer thread after the record was saved and the script was started.

    :param run: The record, as saved.
    :on error: Recorded, shown once; the run is not touched.
    """
    raise NotImplementedError


@hookspec
def backprop_run_events(run: RunRecord, events: Sequence[Event]) -> None:
    """Take note of what the script reported.

    Called on the observer thread with batches, at most a few times a second.

    :param run: The record as it stands.
    :param events: What was read since the last call, in order. For a plugin that is too slow the newest 50,000
        are kept, and every checkpoint; how many it was not told of is said at the end of the run.
    :on error: Recorded, shown once; the run is not touched.
    """
    raise NotImplementedError


@hookspec
def backprop_govern(run: RunRecord, machine: Machine) -> Pause | Stop | Warn | None:
    """Object to going on.

    Called after each measurement while the run is running or paused. Every plugin is asked; the strictest
    answer wins (Stop, then Pause), all reasons are shown. While the run is paused, a Pause keeps it paused.

    :param run: The record as it stands; `run.status` tells whether it is paused.
    :param machine: What was measured; `gpus` holds the run's own GPUs alone, and is None while the probe fails
        or hangs.
    :returns: Stop, Pause or Warn with the measured value and the limit in its reason, or None.
    :on error: Recorded, shown once and passed over; a rule that takes longer than 10 s is not asked again.
    """
    raise NotImplementedError


@hookspec
def backprop_run_paused(run: RunRecord, reason: str) -> None:
    """Take note that the run was paused.

    Called on the observer thread.

    :param run: The record as it stands.
    :param reason: Why, with the measured value and the limit.
    :on error: Recorded, shown once; the run is not touched.
    """
    raise NotImplementedError


@hookspec
def backprop_run_continued(run: RunRecord) -> None:
    """Take note that the run goes on after a pause.

    Called on the observer thread.

    :param run: The record as it stands.
    :on error: Recorded, shown once; the run is not touched.
    """
    raise NotImplementedError


# ---------------------------------------------------------------------------------------------
# Afterwards
# ---------------------------------------------------------------------------------------------


@hookspec
def backprop_run_finished(run: RunRecord) -> None:
    """Take note that the attempt has ended.

    Called on the observer thread after the final record was saved; it has 5 s before it is left behind.

    :param run: The final record.
    :on error: Recorded, shown once; the run is not touched.
    """
    raise NotImplementedError


@hookspec
def backprop_status_report(settings: Settings) -> str | Sequence[str]:
    """Add lines to `backprop status`.

    :param settings: The resolved settings.
    :returns: One line or several, without line ends.
    :on error: The plugin is named instead of its lines.
    """
    raise NotImplementedError


@hookspec
def backprop_unconfigure(settings: Settings) -> None:
    """Let go of what `backprop_configure` took hold of.

    Called once at the end of the command.

    :param settings: The resolved settings.
    :on error: The plugin is named in a warning.
    """
    raise NotImplementedError
