"""What the acceptance tests work with: the test kit, without the plugins of others that happen to be installed."""

from __future__ import annotations

import stat
from pathlib import Path

from backprop_core import testing
from backprop_core.testing import LIMIT_S, Done, command, wait_for

__all__ = ["LIMIT_S", "Done", "Project", "command", "mode", "wait_for"]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


class Project(testing.Project):
    """A person's project on a machine with room, with the built-in plugins alone."""

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.env["BACKPROP_DISABLE_PLUGIN_AUTOLOAD"] = "1"
