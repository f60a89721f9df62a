"""`backprop unpause`."""

from __future__ import annotations

import typer

from .control import request
from .options import Run


def register(app: typer.Typer, about: str, *, hidden: bool) -> None:
    """Add the command."""
    app.command("unpause", help=about, hidden=hidden)(unpause)


def unpause(context: typer.Context, run: Run) -> int:
    return request(context, run, "unpause", "is asked to continue")
