"""`backprop resume`."""

import os
from collections.abc import Mapping
from typing import Any

from .declared import Command, Given
from .options import Detach, Force, Plain, ResumeFrom, Run, SameCode, Set, base_ask
from .result import see_through, show_dry_run
from .views import choose_view


def resume(
    given: Given,
    run: Run,
    resume_from: ResumeFrom = None,
    force: Force = False,
    detach: Detach = False,
    plain: Plain = False,
    same_code: SameCode = False,
    set_: Set = None,
    *,
    flags: Mapping[str, Any],
) -> int:
    from backprop_core import session

    ask = base_ask(
        given,
        arguments=given.script_arguments,
        resume_from=resume_from,
        flags=flags,
        assignments=tuple(set_ or ()),
        force=force,
        detach=detach,
        same_code=same_code,
    )
    view = choose_view(plain=plain or detach or given.trace, verbose=given.verbose)
    if given.dry_run:
        return show_dry_run(session.dry_run(ask, view, os.environ, reference=run))
    return see_through(lambda: session.resume(run, ask, view, os.environ), view, detached=detach)


COMMAND = Command(resume, takes_settings=True, takes_globals=True)
