"""What Backprop's helper for scripts says, and nothing at all where there is no helper."""

from __future__ import annotations

import os

try:
    from backprop_core.script import (
        checkpoint,
        report,
        resume_path,
        should_checkpoint,
        should_stop,
    )
except ImportError:  # outside a run, in a Python that Backprop does not support

    def checkpoint(path: str | os.PathLike[str]) -> None: ...
    def report(step: object = None, loss: object = None, **metrics: object) -> None: ...
    def resume_path() -> str | None:
        return None

    def should_checkpoint() -> bool:
        return False

    def should_stop(ahead_s: float = 0.0) -> bool:
        return False


__all__ = ["checkpoint", "report", "resume_path", "should_checkpoint", "should_stop"]
