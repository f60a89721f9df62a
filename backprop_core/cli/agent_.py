"""`backprop agent`: what launchers start."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated

import typer

from backprop_core.attempt import Interrupted
from backprop_core.errors import RefusedError
from backprop_core.units import escape

from .options import Force, Run, base_ask
from .views import SilentView


def register(app: typer.Typer, about: str, *, hidden: bool) -> None:
    """Add the command."""
    app.command("agent", help=about, hidden=hidden)(agent)


def agent(
    context: typer.Context,
    run: Run,
    storage: Annotated[str | None, typer.Option("--storage", help="Where the record is.")] = None,
    force: Force = False,
) -> int:
    from backprop_core import session

    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # no terminal that is closed is the agent's
    ask = base_ask(context, flags={"storage": storage} if storage else {}, force=force, detach=True)
    try:
        return session.agent(run, ask, SilentView(), os.environ).exit_code
    except Interrupted as interrupted:
        return interrupted.exit_code
    except RefusedError as refused:  # who handed the run over reads the reasons, and says the rest
        for reason in refused.reasons:
            print(escape(reason), file=sys.stderr)
        return refused.exit_code
