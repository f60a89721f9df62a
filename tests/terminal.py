"""A terminal with a person at it: the command sees a real one, and keys that are pressed become signals."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from kit import LIMIT_S

CTRL_C, CTRL_Z, CTRL_BACKSLASH = "\x03", "\x1a", "\x1c"
# Makes the terminal the controlling one of a session of its own, as a terminal emulator does.
_LOGIN = "import os, sys; os.login_tty(0); os.execvp(sys.argv[1], sys.argv[1:])"


class Terminal:
    """One command on a terminal of its own; as a context it leaves nothing of it behind.

    :param argv: The command, or a shell to type commands into.
    """

    def __init__(
        self, argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], rows: int = 30, columns: int = 120
    ) -> None:
        self.shown = ""
        self._fd, theirs = os.openpty()
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-c", _LOGIN, *argv],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=cwd,
            env=dict(env),
        )
        os.close(theirs)

    def press(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def wait_for(self, text: str) -> None:
        """Look at the screen until it has shown the text."""
        end_s = time.monotonic() + LIMIT_S
        while text not in self.shown:
            left_s = end_s - time.monotonic()
            assert left_s > 0, f"no {text!r} in {self.shown[-2000:]!r}"
            assert self.look(left_s) or text in self.shown, (
                f"no {text!r} at the end of {self.shown[-2000:]!r}"
            )

    def end(self) -> int:
        """Look on until the command has ended; return its code."""
        end_s = time.monotonic() + LIMIT_S
        while self.process.poll() is None:
            assert time.monotonic() < end_s, f"it does not end; it shows {self.shown[-2000:]!r}"
            self.look(0.02)
        while self.look(0):
            pass
        return self.process.returncode

    def close(self) -> None:
        """Close the window."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def look(self, limit_s: float) -> bool:
        """Take in what was shown; False when nothing was, or nobody can show anything any more."""
        ready, _, _ = select.select([self._fd], [], [], limit_s)
        try:
            shown = os.read(self._fd, 1 << 16) if ready else b""
        except OSError:  # how Linux says that the other end was closed
            shown = b""
        self.shown += shown.decode("utf-8", "replace")
        return bool(shown)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self.process.kill()
        self.process.wait()
