"""Write what a run reports to event files, which TensorBoard opens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from backprop_core import Event, PluginOption, Progress, RunRecord, Settings, hookimpl

from .curves import Curves

_folder = "runs"
_curves: dict[str, Curves] = {}


@hookimpl
def backprop_options() -> Sequence[PluginOption]:
    return [
        PluginOption(name="tensorboard-dir", default="runs", help="Where the event files of all runs lie.")
    ]


@hookimpl
def backprop_configure(settings: Settings) -> None:
    global _folder  # noqa: PLW0603 - a module is the plugin, so its state is the module's
    _folder = settings.plugin.get("tensorboard", {}).get("tensorboard-dir") or "runs"


@hookimpl
def backprop_run_events(run: RunRecord, events: Sequence[Event]) -> None:
    points = [event for event in events if isinstance(event, Progress)]
    if points:
        curves_of(run).add(points)


@hookimpl
def backprop_run_finished(run: RunRecord) -> None:
    if curves := _curves.pop(run.id, None):
        curves.close()


def curves_of(run: RunRecord) -> Curves:
    """Return the curves of a run's attempt; they are begun with its first point."""
    if run.id not in _curves:
        place = Path(run.cwd or ".") / Path(_folder).expanduser() / run.id
        _curves[run.id] = Curves(place, attempt=len(run.attempts))
    return _curves[run.id]
