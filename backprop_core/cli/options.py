"""The options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from backprop_core.opening import Ask

from .declared import Given, argument, option

StorageChoice = Annotated[str | None, option("--storage", metavar="NAME", help="Where records are kept.")]
Json = Annotated[bool, option("--json", help="Print one JSON document and nothing else.")]
Run = Annotated[str, argument("A run's id, its name, the beginning of its id, or last.", metavar="RUN")]
Force = Annotated[bool, option("--force", help="Start in spite of the Governor; watching stays on.")]
Detach = Annotated[bool, option("--detach", help="Run in the background; return once the run has started.")]
Plain = Annotated[bool, option("--plain", help="No live display.")]
ResumeFrom = Annotated[
    Path | None, option("--resume-from", "-r", metavar="CHECKPOINT", help="The checkpoint to go on from.")
]
Set = Annotated[
    list[str] | None, option("--set", metavar="KEY=VALUE", help="Set any setting, a plugin's too.")
]


def base_ask(given: Given, **more: Any) -> Ask:
    """Build what is asked for from the global options and a command's own."""
    return Ask(
        config=given.config,
        plugins=given.plugin,
        blocked=given.no_plugin,
        with_local_plugins=not given.no_local_plugins,
        loaded=given.loaded,
        **more,
    )
