"""Bringing the runs of one storage into another: resumable, and verified afterwards.

A run that is there and equal is passed over. One that differs is replaced only when the source's has come
further (`RunRecord.standing`); otherwise it stays. Live runs are left out, for their records are about to
change. A series is continued where the target's ends, so a copy that was interrupted goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

from .interfaces import Storage
from .records import Progress, Record, RunRecord
from .states import LIVE

BATCH = 500
_POINTS_AT_ONCE = 10_000
Tell = Callable[[int, int], None]


class Copied(Record, frozen=True):
    """What became of each run of the source, oldest first.

    `ahead` have come further in the target, `clashing` differ there with neither being newer, and
    `split` are recorded alike but their series go different ways; all of these were left as they are.
    """

    copied: tuple[RunRecord, ...] = ()
    equal: tuple[RunRecord, ...] = ()
    live: tuple[RunRecord, ...] = ()
    ahead: tuple[RunRecord, ...] = ()
    clashing: tuple[RunRecord, ...] = ()
    split: tuple[RunRecord, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Tell whether the target now holds all that the source does."""
        return not (self.live or self.ahead or self.clashing or self.split)


def copy_runs(source: Storage, target: Storage, tell: Tell) -> Copied:
    """Copy records and series; `tell` hears how many of how many runs are done.

    :raises StorageError: when something cannot be read or written; what was copied until then stays.
    """
    sorted_out = _sort_out(reversed(source.runs()), target)
    total = len(sorted_out.copied) + len(sorted_out.equal)
    done = 0
    for batch in _batches(sorted_out.copied):
        _save(target, batch)
        done += len(batch)
        tell(done, total)
    split = []
    for done, record in enumerate((*sorted_out.copied, *sorted_out.equal), 1):
        if not _continue_series(source, target, record.id):
            split.append(record)
        if done % BATCH == 0:
            tell(done, total)
    return Copied(
        copied=sorted_out.copied,
        equal=sorted_out.equal,
        live=sorted_out.live,
        ahead=sorted_out.ahead,
        clashing=sorted_out.clashing,
        split=tuple(split),
    )


def differing(source: Storage, target: Storage, copied: Copied) -> list[str]:
    """Compare, number by number, what was copied or found equal, and name the runs that are not alike now."""
    there = {record.id: record for record in target.runs()}
    split = {record.id for record in copied.split}
    return [
        record.id
        for record in (*copied.copied, *copied.equal)
        if there.get(record.id) != record
        or not (record.id in split or _is_series_equal(source, target, record.id))
    ]


def _sort_out(records: Iterable[RunRecord], target: Storage) -> Copied:
    there = {record.id: record for record in target.runs()}
    kinds: dict[str, list[RunRecord]] = {}
    for record in records:
        kinds.setdefault(_kind(record, there.get(record.id)), []).append(record)
    return Copied(**{kind: tuple(found) for kind, found in kinds.items()})


def _kind(record: RunRecord, known: RunRecord | None) -> str:
    if record.status in LIVE:
        return "live"
    if known is None or record.standing > known.standing:
        return "copied"
    if record == known:
        return "equal"
    return "ahead" if known.standing > record.standing else "clashing"


def _batches(records: Sequence[RunRecord]) -> Iterator[Sequence[RunRecord]]:
    for first in range(0, len(records), BATCH):
        yield records[first : first + BATCH]


def _save(target: Storage, records: Sequence[RunRecord]) -> None:
    save_many = getattr(target, "save_many", None)  # what a storage may have beyond its interface
    if save_many is not None:
        save_many(records)
        return
    for record in records:
        target.save(record)


def _continue_series(source: Storage, target: Storage, run_id: str) -> bool:
    """Append what the target's series lacks; False when it is no beginning of the source's."""
    missing = _missing(source, target, run_id)
    if missing is None:
        return False
    while points := list(islice(missing, _POINTS_AT_ONCE)):
        target.append_metrics(run_id, points)
    return True


def _missing(source: Storage, target: Storage, run_id: str) -> Iterator[Progress] | None:
    """Give the source's points that follow the target's; None when the target's are no beginning of them."""
    points = iter(source.metrics(run_id))
    for known in target.metrics(run_id):
        if next(points, None) != known:
            return None
    return points


def _is_series_equal(source: Storage, target: Storage, run_id: str) -> bool:
    missing = _missing(source, target, run_id)
    return missing is not None and next(missing, None) is None
