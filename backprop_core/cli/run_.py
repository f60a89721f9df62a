"""`backprop run`."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from .declared import Command, Given, argument, option
from .options import Detach, Force, Plain, ResumeFrom, Set, base_ask
from .result import see_through, show_dry_run
from .views import choose_view


def run(
    given: Given,
    script: Annotated[
        Path | None, argument("The training script; its arguments follow after --.", metavar="SCRIPT")
    ] = None,
    module: Annotated[
        str | None, option("--module", metavar="PKG.MODULE", help="Run a module in place of a script.")
    ] = None,
    name: Annotated[
        str | None, option("--name", "-n", metavar="NAME", help="A name to find the run by.")
    ] = None,
    run_id: Annotated[
        str | None, option("--run-id", metavar="ID", help="An id instead of a new one.")
    ] = None,
    resume_from: ResumeFrom = None,
    force: Force = False,
    detach: Detach = False,
    plain: Plain = False,
    set_: Set = None,
    *,
    flags: Mapping[str, Any],
) -> int:
    from backprop_core import session

    ask = base_ask(
        given,
        script=script,
        module=module,
        arguments=given.script_arguments,
        name=name,
        run_id=run_id,
        resume_from=resume_from,
        flags=flags,
        assignments=tuple(set_ or ()),
        force=force,
        detach=detach,
    )
    view = choose_view(plain=plain or detach or given.trace, verbose=given.verbose)
    if given.dry_run:
        return show_dry_run(session.dry_run(ask, view, os.environ))
    return see_through(lambda: session.run(ask, view, os.environ), view, detached=detach)


COMMAND = Command(run, takes_settings=True, takes_globals=True)
