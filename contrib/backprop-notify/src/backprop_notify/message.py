"""What is said of a run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from backprop_core import RunRecord

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True)
class Message:
    """One piece of news; `is_urgent` where somebody may want to look."""

    event: str
    title: str
    text: str
    is_urgent: bool
    run: dict[str, Any]


def message_of(event: str, run: RunRecord, reason: str | None) -> Message:
    """Say in a line what has happened to a run. Control characters in names do not come through."""
    known = run.to_dict()
    word = str(run.status) if event == "finished" else event
    about = [f"step {run.last_step}"] if run.last_step is not None else []
    about += [f"loss {run.last_loss:.4g}"] if known["lastLoss"] is not None else []
    about += [reason] if reason else []
    return Message(
        event=event,
        title=plain(f"{run.name or run.id}: {word}"),
        text=plain(", ".join(about) or run.script_path),
        is_urgent=event == "paused" or word in ("failed", "stopped"),
        run={
            key: known.get(key)
            for key in ("id", "name", "status", "reason", "exitCode", "lastStep", "lastLoss")
        },
    )


def plain(text: str) -> str:
    return _CONTROL.sub(" ", text)[:500]
