"""The options that several commands share."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from backprop_core.opening import Ask
from backprop_core.plugins import Call

from .app import say
from .declared import Given, argument, option
from .text import shown_environment

MOST_SHOWN = 300
StorageChoice = Annotated[str | None, option("--storage", metavar="NAME", help="Where records are kept.")]
Json = Annotated[bool, option("--json", help="Print one JSON document and nothing else.")]
Run = Annotated[str, argument("A run's id, its name, the beginning of its id, or last.", metavar="RUN")]
Force = Annotated[bool, option("--force", help="Start in spite of the Governor; watching stays on.")]
Detach = Annotated[bool, option("--detach", help="Run in the background; return once the run has started.")]
Plain = Annotated[bool, option("--plain", help="No live display.")]
ResumeFrom = Annotated[
    Path | None, option("--resume-from", "-r", metavar="CHECKPOINT", help="The checkpoint to go on from.")
]
SameCode = Annotated[
    bool, option("--same-code", help="Refuse when the script or its git commit is not the last attempt's.")
]
Set = Annotated[
    list[str] | None, option("--set", metavar="KEY=VALUE", help="Set any setting, a plugin's too.")
]


def show_call(call: Call) -> None:
    """Say what a plugin answered to a call of a hook."""
    answer = f"raised {call.failure.error}" if call.failure else shown_answer(call.value)
    say(f"trace: {call.hook}: {call.plugin}: {answer} ({call.took_s * 1000:.2f} ms)")


def shown_answer(value: object) -> str:
    """Write what a plugin answered in one line, without the values of variables that are secret."""
    if isinstance(value, Mapping) and all(isinstance(item, str) for item in (*value, *value.values())):
        return f"{{{', '.join(shown_environment(value))}}}"
    text = " ".join(repr(value).split())
    return text if len(text) <= MOST_SHOWN else text[:MOST_SHOWN] + " ..."


def base_ask(given: Given, **more: Any) -> Ask:
    """Build what is asked for from the global options and a command's own."""
    return Ask(
        config=given.config,
        plugins=given.plugin,
        blocked=given.no_plugin,
        with_local_plugins=not given.no_local_plugins,
        loaded=given.loaded,
        tell=say,
        trace=show_call if given.trace else None,
        **more,
    )
