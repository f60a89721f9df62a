"""A person's wish to end what is going on, and how it is told from an error in a plugin's code."""

from __future__ import annotations

import signal
import threading


class Interrupted(BaseException):
    """A person ended the run while it was waiting for its turn; `why` is a word of `terms.STOPPED_WITH`."""

    def __init__(self, exit_code: int, why: str) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code
        self.why = why


def served_elsewhere(*_: object) -> None:
    """Handle a signal that is read from a socket: nothing is raised where it arrives."""


def is_persons(error: BaseException) -> bool:
    """Tell whether an exception that came out of a plugin's code is a person's wish and not the code's own.

    Python raises KeyboardInterrupt in the main thread alone, and nobody does while a run serves Ctrl-C elsewhere.
    """
    if not isinstance(error, KeyboardInterrupt):
        return isinstance(error, Interrupted)
    is_main = threading.current_thread() is threading.main_thread()
    return is_main and signal.getsignal(signal.SIGINT) is not served_elsewhere
