"""`backprop run`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from .options import Detach, Force, Plain, ResumeFrom, Set, base_ask, with_settings
from .result import see_through, show_dry_run
from .views import choose_view


def register(app: typer.Typer, about: str, *, hidden: bool) -> None:
    """Add the command."""
    app.command("run", help=about, hidden=hidden)(with_settings(run, with_globals=True))


def run(
    context: typer.Context,
    script: Annotated[
        Path | None, typer.Argument(help="The training script; its arguments follow after --.")
    ] = None,
    module: Annotated[
        str | None, typer.Option("--module", metavar="PKG.MODULE", help="Run a module in place of a script.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", "-n", help="A name to find the run by.")] = None,
    run_id: Annotated[
        str | None, typer.Option("--run-id", metavar="ID", help="An id instead of a new one.")
    ] = None,
    resume_from: ResumeFrom = None,
    force: Force = False,
    detach: Detach = False,
    plain: Plain = False,
    set_: Set = None,
    *,
    flags: Mapping[str, str],
) -> int:
    from backprop_core import session

    ask = base_ask(
        context,
        script=script,
        module=module,
        arguments=context.obj["script_arguments"],
        name=name,
        run_id=run_id,
        resume_from=resume_from,
        flags=flags,
        assignments=tuple(set_ or ()),
        force=force,
        detach=detach,
    )
    view = choose_view(plain=plain or detach, verbose=context.obj["verbose"])
    if context.obj["dry_run"]:
        return show_dry_run(session.dry_run(ask, view, os.environ))
    return see_through(lambda: session.run(ask, view, os.environ), view, detached=detach)
