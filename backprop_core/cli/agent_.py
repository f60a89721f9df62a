"""`backprop agent`: what launchers start."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated

from backprop_core.errors import RefusedError
from backprop_core.interrupts import Interrupted
from backprop_core.units import escape

from .declared import Command, Given, option
from .options import Force, Run, SameCode, base_ask
from .views import SilentView


def agent(
    given: Given,
    run: Run,
    storage: Annotated[str | None, option("--storage", help="Where the record is.")] = None,
    force: Force = False,
    same_code: SameCode = False,
) -> int:
    from backprop_core import session

    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # no terminal that is closed is the agent's
    flags = {"storage": storage} if storage else {}
    ask = base_ask(given, flags=flags, force=force, same_code=same_code, detach=True)
    try:
        return session.agent(run, ask, SilentView(), os.environ).exit_code
    except Interrupted as interrupted:
        return interrupted.exit_code
    except RefusedError as refused:  # who handed the run over reads the reasons, and says the rest
        for reason in refused.reasons:
            print(escape(reason), file=sys.stderr)
        return refused.exit_code


COMMAND = Command(agent)
