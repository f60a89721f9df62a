"""Commands that plugins add to the command line."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping

import typer

from backprop_core.errors import BackpropError
from backprop_core.opening import Ask, settle

from .app import say


def add_commands(app: typer.Typer, taken: Collection[str]) -> None:
    """Add what installed plugins bring; whatever is wrong with them leaves the rest as it is.

    Local `backprop_plugins.py` files are not loaded for that, since `--help` must not run code that lies about.
    """
    try:
        plugins = settle(Ask(with_local_plugins=False), os.environ).plugins
    except BackpropError:  # a command that needs the settings will say it
        return
    for answer in plugins.ask("backprop_commands"):
        if answer.failure:
            say(str(answer.failure))
            continue
        commands = answer.value if isinstance(answer.value, Mapping) else {}
        for name, command in commands.items():
            if name in taken or not isinstance(command, typer.Typer):
                say(
                    f"plugin {answer.plugin}: the command {name!r} is taken, or is no Typer app; it is left out"
                )
            else:
                _add(app, name, command)


def _add(app: typer.Typer, name: str, command: typer.Typer) -> None:
    """Add an app under a name: one with a single command is that command, as it is when run by itself."""
    single = command.registered_commands[0].callback if len(command.registered_commands) == 1 else None
    if single is None or command.registered_groups or command.registered_callback:
        app.add_typer(command, name=name)
    else:
        app.command(name)(single)
