"""`backprop stop`."""

from __future__ import annotations

import typer

from .control import request
from .options import Run


def register(app: typer.Typer, about: str, *, hidden: bool) -> None:
    """Add the command."""
    app.command("stop", help=about, hidden=hidden)(stop)


def stop(context: typer.Context, run: Run) -> int:
    return request(context, run, "stop", "is asked to stop")
