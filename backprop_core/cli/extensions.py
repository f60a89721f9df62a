"""Commands that plugins add to the command line."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import msgspec
import typer

from backprop_core.errors import BackpropError
from backprop_core.opening import Ask, Settled, configured, settle

from .app import COMMANDS, HIDDEN, say
from .declared import Given
from .plugin_flags import read_first
from .typed import build_app, invoke


def invoke_with_commands(command: str | None, words: Sequence[str], given: Given) -> object:
    """Run a command line that names none of our commands: it is a plugin's, or wants the help of all."""
    app = build_app([*COMMANDS], COMMANDS, HIDDEN)
    settled = add_commands(app, read_first(None, words).ask)
    if settled is None or command is None:
        return invoke(app, words, given)
    with configured(settled):
        return invoke(app, words, given)


def add_commands(app: typer.Typer, ask: Ask) -> Settled | None:
    """Add what installed plugins bring; whatever is wrong with them leaves the rest as it is.

    :returns: The plugins and their settings; None where the settings are wrong.

    Local `backprop_plugins.py` files are not loaded for that, since `--help` must not run code that lies about.
    """
    try:
        settled = settle(msgspec.structs.replace(ask, with_local_plugins=False), os.environ)
    except BackpropError:  # a command that needs the settings will say it
        return None
    plugins = settled.plugins
    for answer in plugins.ask("backprop_commands"):
        if answer.failure:
            continue
        commands = answer.value if isinstance(answer.value, Mapping) else {}
        for name, command in commands.items():
            if name in COMMANDS or not isinstance(command, typer.Typer):
                say(
                    f"plugin {answer.plugin}: the command {name!r} is taken, or is no Typer app; it is left out"
                )
            else:
                _add(app, name, command)
    plugins.tell_failures()
    return settled


def _add(app: typer.Typer, name: str, command: typer.Typer) -> None:
    """Add an app under a name: one with a single command is that command, as it is when run by itself."""
    single = command.registered_commands[0].callback if len(command.registered_commands) == 1 else None
    if single is None or command.registered_groups or command.registered_callback:
        app.add_typer(command, name=name)
    else:
        app.command(name)(single)
