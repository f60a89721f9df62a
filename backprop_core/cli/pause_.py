"""`backprop pause`."""

from __future__ import annotations

import typer

from .control import request
from .options import Run


def register(app: typer.Typer, about: str, *, hidden: bool) -> None:
    """Add the command."""
    app.command("pause", help=about, hidden=hidden)(pause)


def pause(context: typer.Context, run: Run) -> int:
    return request(context, run, "pause", "is asked to pause; continue it with `backprop unpause`")
