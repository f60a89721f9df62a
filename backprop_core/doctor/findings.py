"""What the doctor finds, and what becomes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from backprop_core.errors import BackpropError
from backprop_core.interfaces import Storage
from backprop_core.records import Record


class Finding(Record, frozen=True):
    """Something that is not as it should be. `repair` is what is done about it; None: that is a person's, by `hint`.

    `is_note` marks what is only said: it may be in order, which cannot be told from here.
    """

    kind: str
    where: str
    what: str
    repair: str | None = None
    hint: str | None = None
    is_note: bool = False


class Treated(Record, frozen=True):
    """A finding, and what became of it."""

    finding: Finding
    outcome: Literal["repaired", "would repair", "left", "noted"]
    error: str | None = None

    @property
    def is_left(self) -> bool:
        """Tell whether something is still wrong."""
        return self.outcome in ("would repair", "left")


class Patient(Record, frozen=True):
    """Where to look. `host` is this machine's name in records, `gone` that of one which a person says is gone."""

    home: Path
    host: str
    storage: Storage
    gone: str | None = None


def treat(finding: Finding, repair: Callable[[], None] | None, *, is_dry: bool) -> Treated:
    """Repair one finding, unless it is dry or nothing can be done."""
    if finding.is_note:
        return Treated(finding=finding, outcome="noted")
    if finding.repair is None or repair is None:
        return Treated(finding=finding, outcome="left")
    if is_dry:
        return Treated(finding=finding, outcome="would repair")
    try:
        repair()
    except BackpropError as error:
        return Treated(finding=finding, outcome="left", error=error.message)
    except OSError as error:
        return Treated(finding=finding, outcome="left", error=str(error.strerror or error))
    return Treated(finding=finding, outcome="repaired")
