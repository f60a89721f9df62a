"""Tell people how a run goes: webhook, Slack, ntfy, desktop."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from backprop_core import PluginOption, RunRecord, Settings, SettingsError, hookimpl

if TYPE_CHECKING:
    from .sending import Post

EVENTS = ("started", "paused", "continued", "finished")
LAST_WORDS_S = 4.0
"""Within the 5 s that Backprop gives to observers when a run has ended."""

_wanted: set[str] = set()
_post: Post | None = None


@hookimpl
def backprop_options() -> Sequence[PluginOption]:
    return [
        PluginOption(
            name="notify-on",
            default="finished,paused",
            help=f"What to tell of, by commas: {', '.join(EVENTS)}.",
        ),
        PluginOption(name="notify-desktop", type=bool, default=False, help="Show it on this desktop, too."),
    ]


@hookimpl
def backprop_configure(settings: Settings) -> None:
    global _post  # noqa: PLW0603 - a module is the plugin, so its state is the module's
    options = settings.plugin.get("notify", {})
    _wanted.clear()
    _wanted.update(word.strip() for word in str(options.get("notify-on", "finished,paused")).split(","))
    if unknown := _wanted - {*EVENTS, ""}:
        raise SettingsError(
            f"notify-on: there is no {', '.join(sorted(unknown))}", f"there is {', '.join(EVENTS)}"
        )
    from .channels import channels_in
    from .sending import Post

    channels = channels_in(os.environ, desktop=bool(options.get("notify-desktop")))
    _post = Post(channels) if channels else None


@hookimpl
def backprop_run_started(run: RunRecord) -> None:
    tell("started", run)


@hookimpl
def backprop_run_paused(run: RunRecord, reason: str) -> None:
    tell("paused", run, reason)


@hookimpl
def backprop_run_continued(run: RunRecord) -> None:
    tell("continued", run)


@hookimpl
def backprop_run_finished(run: RunRecord) -> None:
    tell("finished", run, run.reason)
    if _post is not None and (failures := _post.close(LAST_WORDS_S)):
        raise RuntimeError("not delivered: " + "; ".join(failures))


def tell(event: str, run: RunRecord, reason: str | None = None) -> None:
    """Hand a message over; it is sent by and by."""
    if _post is not None and event in _wanted:
        from .message import message_of

        _post.send(message_of(event, run, reason))
