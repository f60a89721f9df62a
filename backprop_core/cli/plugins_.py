"""`backprop plugins`: what is installed, and in which state."""

from __future__ import annotations

import os
from pathlib import Path

from backprop_core.opening import settle
from backprop_core.plugin_sources import LOCAL_NAME
from backprop_core.plugins import PluginState

from .app import say
from .declared import Command, Given
from .list_ import print_json
from .options import Json, base_ask
from .text import aligned


def plugins(given: Given, json_: Json = False) -> int:
    loaded = settle(base_ask(given), os.environ, script=Path(LOCAL_NAME)).plugins
    for warning in loaded.warnings:
        say(warning)
    if json_:
        print_json([as_json(state) for state in loaded.states])
        return 0
    rows = [("NAME", "DISTRIBUTION", "STATE", "HOOKS", "FILE")]
    for state in loaded.states:
        distribution = f"{state.distribution} {state.version}" if state.distribution else "-"
        what = state.error if state.state == "failed" else " ".join(state.hooks)
        rows.append((state.name, distribution, state.state, what or "-", state.path or "-"))
    for line in aligned(rows):
        print(line)
    return 0


COMMAND = Command(plugins)


def as_json(state: PluginState) -> dict[str, object]:
    """Build one item of `plugins --json`."""
    fields = ("name", "distribution", "version", "path", "hooks", "state", "error")
    return {field: getattr(state, field) for field in fields}
