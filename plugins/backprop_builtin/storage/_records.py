"""The text of experiments.json: one JSON object, a line for each run, the newest last.

Whoever else has JSON tools may read it, reformat it or add keys. Records are carried as the bytes they
were found as; only those that are asked for are decoded.
"""

# No `from __future__ import annotations`: msgspec would compile and evaluate each one, one by one.
import math
import re
import zlib
from collections.abc import Sequence
from typing import Any

import msgspec

from backprop_core import RunRecord, StorageError

from ._files import DamageError

UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)
"""What decoding raises: malformed, not UTF-8, nested too deeply."""

_ENTRY = re.compile(r'"([A-Za-z0-9][A-Za-z0-9._-]{0,127})"\s*:\s*(?=\{)')
_SEAL = re.compile(rb',"checksum":"([0-9a-f]{8})"\}')
_SEAL_LENGTH = len(b',"checksum":"01234567"}')
OPENING, SEPARATOR, CLOSING = b"{\n", b",\n", b"\n}\n"


class Glance(msgspec.Struct, rename="camel", gc=False):
    """What choosing among records needs, read without decoding the rest of them."""

    start_time: int | float = 0
    status: str | None = None


class _Version(msgspec.Struct, rename="camel"):
    schema_version: Any = 0


_records_of = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_version_of = msgspec.json.Decoder(_Version).decode
_glance_at = msgspec.json.Decoder(Glance).decode


def parse(text: bytes) -> dict[str, msgspec.Raw]:
    """Split the file into records, by run id.

    :raises DamageError: when it is not one JSON object.
    """
    if text.isspace() or not text:
        raise DamageError("is empty")
    try:
        return _records_of(text)
    except UNREADABLE as error:
        return _parse_leniently(text, str(error))


def _parse_leniently(text: bytes, reason: str) -> dict[str, msgspec.Raw]:
    """Accept what other programs write beside strict JSON: a byte order mark, and NaN, read as null."""
    import json

    try:
        values = json.loads(text.decode("utf-8-sig"), parse_constant=lambda _: None)
        if isinstance(values, dict):
            return {run_id: msgspec.Raw(msgspec.json.encode(value)) for run_id, value in values.items()}
    except UNREADABLE as error:
        raise DamageError(f"is not JSON ({reason})") from error
    raise DamageError("is not a JSON object")


def _on_one_line(record: bytes | msgspec.Raw) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.format(bytes(record), indent=-1))


def entry(run_id: str, record: bytes) -> bytes:
    """Write a record as a line of the file, without what separates lines."""
    return msgspec.json.encode(run_id) + b": " + record


def record_in(line: bytes, run_id: str) -> bytes | None:
    """Take a record out of its line, given with a character before and behind it; None where it is not whole."""
    beginning = b"\n" + entry(run_id, b"")
    if not line.startswith(beginning) or line[-1:] not in (b",", b"\n"):
        return None
    record = line[len(beginning) : -1]
    return record if _is_whole(record) else None


def _is_whole(record: bytes) -> bool:
    if record.endswith(b'"}') and _SEAL.fullmatch(record[-_SEAL_LENGTH:]):
        return is_intact(record)
    try:
        return bool(_records_of(record))
    except UNREADABLE:
        return False


def lines_of(records: dict[str, msgspec.Raw]) -> list[bytes]:
    """Write each record as a line of the file."""
    lines = [entry(run_id, bytes(raw)) for run_id, raw in records.items()]
    if any(b"\n" in line for line in lines):
        return [entry(run_id, bytes(_on_one_line(raw))) for run_id, raw in records.items()]
    return lines


def salvage(text: bytes) -> dict[str, msgspec.Raw]:
    """Take the records out of a damaged file that are still whole, before and behind the damage."""
    import json

    found: dict[str, msgspec.Raw] = {}
    readable = text.decode(errors="surrogateescape")
    scan = json.JSONDecoder().raw_decode
    for entry in _ENTRY.finditer(readable):
        try:
            values, end = scan(readable, entry.end())
            if values.get("id") == entry[1]:
                record = readable[entry.end() : end].encode(errors="surrogateescape")
                found[entry[1]] = _on_one_line(record)
        except UNREADABLE:
            continue
    return found


def seal(record: RunRecord) -> bytes:
    """Write a record as one line of strict JSON that ends in a checksum of what precedes it.

    :raises StorageError: for text that is not Unicode and values that are not JSON.
    """
    values = record.to_dict()
    values.pop("checksum", None)
    values["metrics"] = {name: value for name, value in record.metrics.items() if math.isfinite(value)}
    try:
        text = msgspec.json.encode(values)
    except (*UNREADABLE, TypeError, OverflowError) as error:
        raise StorageError(f"run {record.id} cannot be recorded: {error}") from error
    return b'%b,"checksum":"%08x"}' % (text[:-1], zlib.crc32(text))


def is_intact(raw: bytes) -> bool:
    """Tell whether a record is as it was sealed; one that another program has rewritten bears no seal."""
    found = _SEAL.fullmatch(raw[-_SEAL_LENGTH:])
    return found is None or int(found[1], 16) == zlib.crc32(raw[:-_SEAL_LENGTH] + b"}")


def read_record(run_id: str, raw: bytes) -> RunRecord:
    """Decode the record that is kept under an id.

    :raises StorageError: when it is no record, a newer version's, or another run's.
    """
    try:
        values = msgspec.json.decode(raw)
    except UNREADABLE as error:
        raise StorageError(f"the record of run {run_id} cannot be read: {error}") from error
    if isinstance(values, dict):
        values.pop("checksum", None)
        values.setdefault("id", run_id)
    try:
        record = RunRecord.from_dict(values)
    except StorageError as error:
        raise StorageError(
            f"the record of run {run_id} cannot be read: {error.message}", error.hint
        ) from error
    if record.id != run_id:
        raise StorageError(f"the record of run {run_id} names another run, {record.id!r}")
    return record


def refuse_newer(known: bytes | msgspec.Raw | None, record: RunRecord) -> None:
    """See that a record takes the place of none that a newer version wrote.

    :raises StorageError: when it would.
    """
    if known is not None and is_newer(known, record):
        raise StorageError(
            f"run {record.id} was recorded by a newer Backprop and is left as it is",
            "upgrade Backprop, or give the run another id",
        )


def is_newer(raw: bytes | msgspec.Raw, than: RunRecord) -> bool:
    """Tell whether a record was written by a version that knows more than this one does."""
    try:
        version = _version_of(raw).schema_version
    except UNREADABLE:
        return False
    return not isinstance(version, int) or version > than.to_dict()["schemaVersion"]


def glance(raw: bytes | msgspec.Raw) -> Glance:
    """Look at a record's state and time; what is no record has the defaults."""
    try:
        return _glance_at(raw)
    except UNREADABLE:
        return Glance()


def glances_at(records: dict[str, msgspec.Raw]) -> list[Glance]:
    """Look at each record, in the order of the file."""
    try:
        return [_glance_at(raw) for raw in records.values()]
    except UNREADABLE:
        return [glance(raw) for raw in records.values()]


def newest_first(records: dict[str, msgspec.Raw]) -> list[str]:
    """Order run ids by start; of two that started together the one further down in the file comes first."""
    glances = glances_at(records)
    return ordered(list(records), [seen.start_time for seen in glances], [seen.status for seen in glances])


def ordered(
    ids: Sequence[str],
    starts: Sequence[float],
    states: Sequence[str | None],
    wanted: frozenset[str] = frozenset(),
) -> list[str]:
    """Order run ids as `newest_first` does; `wanted` are states, none of which is named where all are wanted."""
    places = [place for place, state in enumerate(states) if not wanted or state in wanted]
    places.sort(key=starts.__getitem__)
    return [ids[place] for place in reversed(places)]
