"""`backprop doctor`: explain and repair what crashes, kills and accidents have left."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from backprop_core import doctor as checks
from backprop_core.doctor import Finding, Patient, Treated
from backprop_core.errors import ExitCode, StorageError, UsageError
from backprop_core.identity import host_name
from backprop_core.opening import close, open_all
from backprop_core.settings import home_folder
from backprop_core.units import escape

from .app import say
from .declared import Command, Given, option
from .list_ import print_json, tell_problems
from .options import Json, base_ask

Gone = Annotated[
    str | None,
    option(
        "--gone",
        metavar="MACHINE",
        help="A machine that is gone for good: runs that are live there are lost.",
    ),
]
MARKS = {"repaired": "done", "would repair": "would", "left": "left", "noted": "note"}


def doctor(
    given: Given,
    storage: Annotated[
        str | None, option("--storage", metavar="NAME", help="Where records are kept.")
    ] = None,
    gone: Gone = None,
    json_: Json = False,
) -> int:
    if gone == host_name():
        raise UsageError(f"{gone} is this machine, which is not gone", "name another one after --gone")
    treated = list(_treat(given, storage, gone))
    if json_:
        print_json([as_json(each) for each in treated])
    else:
        for each in treated:
            print("\n".join(lines(each)))
    left = sum(each.is_left for each in treated)
    say(_summary(treated, left))
    return int(ExitCode.ERROR if left else ExitCode.OK)


COMMAND = Command(doctor, takes_globals=True)


def _treat(given: Given, storage: str | None, gone: str | None) -> Iterator[Treated]:
    home = home_folder(os.environ)
    if not home.exists():
        return
    is_dry = given.dry_run
    yield from checks.treat_folders(home, is_dry=is_dry)
    try:
        opened = open_all(base_ask(given, flags={"storage": storage} if storage else {}), os.environ)
    except StorageError as error:
        found = Finding(kind="storage", where=str(home), what=error.message, hint=error.hint)
        yield Treated(finding=found, outcome="left")
        return
    try:
        patient = Patient(home=opened.home, host=host_name(), storage=opened.storage, gone=gone)
        yield from checks.treat_all(patient, is_dry=is_dry)
        if not is_dry:
            tell_problems(opened.storage)
    finally:
        close(opened)


def as_json(treated: Treated) -> dict[str, Any]:
    """Build one item of `doctor --json`."""
    finding = treated.finding
    told = {field: getattr(finding, field) for field in ("kind", "where", "what", "repair", "hint")}
    return {**told, "outcome": treated.outcome, "error": treated.error}


def lines(treated: Treated) -> Iterator[str]:
    """Write a finding in two lines or three: what and where, what is done about it, what a person can do."""
    finding = treated.finding
    where = "" if finding.where in finding.what else f"{finding.where} "
    yield f"{finding.kind}: {escape(where + finding.what)}"
    if finding.repair:
        failed = f": {escape(treated.error)}" if treated.error else ""
        yield f"  {MARKS[treated.outcome]}: {escape(finding.repair)}{failed}"
    if finding.hint:
        yield f"  {escape(finding.hint)}"


def _summary(treated: Sequence[Treated], left: int) -> str:
    wrong = [each for each in treated if each.outcome != "noted"]
    if not wrong:
        return "nothing is wrong"
    repaired = sum(each.outcome == "repaired" for each in treated)
    could = sum(each.outcome == "would repair" for each in treated)
    parts = [f"{len(wrong)} found", f"{repaired} repaired"]
    parts += [f"{could} would be repaired without --dry-run"] if could else []
    parts += [f"{left - could} left to you"] if left - could else []
    return ", ".join(parts)
