"""The life of a run, written to a storage backend: found, begun, followed, ended."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, TypeVar

import msgspec

from .clock import now_ms, now_s
from .errors import HangingStorageError, NotFoundError, StorageError, UsageError
from .identity import RUN_ID
from .interfaces import Storage
from .records import (
    Attempt,
    CheckpointSaved,
    Code,
    Event,
    Intent,
    PauseSpan,
    ProcessExit,
    Progress,
    ProgressBatch,
    RunRecord,
    latest_of,
)
from .states import FINAL, RunState

PROGRESS_EVERY_S = 5.0
PROGRESS_SHARE = 0.01
SAVED_AT_ONCE_S = 1.0
"""What saving may take beyond its share of the time before checkpoints, too, wait for their turn to be saved."""
WAITING_S = 60.0
"""How long they wait at most."""
KEPT_CHECKPOINTS = 1_000
"""How many of the newest a record holds; the others are counted, and the run's ledger knows them."""
REST_S = 120.0
"""How long a storage that hung is not asked again: longer by far than it kept the loop of a run waiting."""
STAMPED_POINTS = 256
NEIGHBOURS = 100
"""How many of the newest runs are looked at for one that shares a folder."""

Answer = TypeVar("Answer")


# --- finding ------------------------------------------------------------------------------------


def find(storage: Storage, reference: str) -> RunRecord:
    """Find a run by its id, its name (the newest of that name), a unique prefix of its id, or `last`.

    :raises NotFoundError: when there is none.
    :raises UsageError: when a prefix fits several runs.
    """
    if RUN_ID.fullmatch(reference) and (record := storage.get(reference)):
        return record
    if reference == "last":
        if newest := storage.runs(limit=1):
            return newest[0]
        raise NotFoundError("there are no runs yet", "start one with `backprop run SCRIPT`")
    meant_by = getattr(storage, "meant_by", None)  # what a storage may have beyond its interface
    is_plain = (
        reference.isascii() and reference.isprintable()
    )  # other programs write the rest in their own ways
    records = meant_by(reference) if meant_by and is_plain else storage.runs()
    for record in records:
        if record.name == reference:
            return record
    matching = [record for record in records if reference and record.id.startswith(reference)]
    if len(matching) == 1:
        return matching[0]
    if matching:
        shown = ", ".join(record.id for record in matching[:3])
        raise UsageError(f"{reference!r} fits {len(matching)} runs: {shown}...", "give more of the id")
    raise NotFoundError(f"there is no run {reference!r}", "`backprop list --all` shows every run")


def new_id() -> str:
    """Make a run id that sorts by time."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(3).hex()}"


def neighbour(storage: Storage, record: RunRecord) -> RunRecord | None:
    """Find another run that trains, or trained, in the same folder while this one does or did.

    None without one, and where the storage cannot tell.
    """
    spans = _spans(record)
    try:
        newest = storage.runs(limit=NEIGHBOURS)
    except StorageError:
        return None
    for other in newest:
        is_other = other.id != record.id and other.cwd == record.cwd and other.framework is not None
        if is_other and any(
            begin < end_here and begin_here < end
            for begin, end in _spans(other)
            for begin_here, end_here in spans
        ):
            return other
    return None


def _spans(record: RunRecord) -> list[tuple[int, int]]:
    now = now_ms()
    return [(attempt.start, attempt.end or now) for attempt in record.attempts]


# --- the life of a run --------------------------------------------------------------------------


def changed(record: RunRecord, **fields: Any) -> RunRecord:
    """Return the record with some fields replaced."""
    return msgspec.structs.replace(record, **fields)


def with_attempt(record: RunRecord, **fields: Any) -> RunRecord:
    """Return the record with fields of its newest attempt replaced."""
    *earlier, newest = record.attempts
    return changed(record, attempts=(*earlier, msgspec.structs.replace(newest, **fields)))


def ended(
    record: RunRecord,
    state: RunState,
    *,
    exit_code: int | None = None,
    reason: str | None = None,
    cause: str | None = None,
) -> RunRecord:
    """Return the record with its attempt ended, a pause that was going on included.

    One that waits for its turn may have none of its own yet: the attempts before it stay as they are.
    """
    now = now_ms()
    if record.attempts and record.attempts[-1].status not in FINAL:
        pauses = record.attempts[-1].pauses
        now = _not_before(record.attempts[-1].start)
        if pauses and pauses[-1].end is None:
            now = max(now, pauses[-1].begin)
            pauses = (*pauses[:-1], msgspec.structs.replace(pauses[-1], end=now))
        record = with_attempt(
            record, end=now, status=state, exit_code=exit_code, reason=reason, pauses=pauses, cause=cause
        )
    return changed(record, status=state, end_time=now, exit_code=exit_code, reason=reason)


def _not_before(moment_ms: int) -> int:
    """Return the time, unless somebody has set the clock back behind that moment since: nothing took less than 0."""
    return max(now_ms(), moment_ms)


class Journal:
    """Writes one attempt to storage as it goes; `record` is how it stands.

    Storage that fails while the script runs does not stop it: the loss is said once and counted in
    `lost_writes`, which the attempt's final record tells. One that hangs is left in peace for a while; only the end
    is written even then. Progress is written only as often as writing takes under 1 % of the time, and so are
    checkpoints once there are very many of them.
    """

    def __init__(self, storage: Storage, record: RunRecord, tell: Callable[[str], None]) -> None:
        self._storage = storage
        self._tell = tell
        self._began_s = now_s()
        self._saving_s = 0.0
        self._behind_since_s: float | None = None
        self._next_progress_s = self._began_s + PROGRESS_EVERY_S
        self._has_told_deaf = False
        self._hung: HangingStorageError | None = None
        self._rests_until_s = 0.0
        self.record = record
        self.lost_writes = 0
        self.is_end_lost = False

    def begin(self, record: RunRecord) -> None:
        """Save the record before the script starts.

        :raises StorageError: then the run must not start.
        """
        began = now_s()
        self._storage.save(record)
        self._saving_s += now_s() - began
        self.record = record

    def events(self, events: Sequence[Event]) -> None:
        """Take in what the script reported."""
        points, saved = _by_kind(events)
        if points:
            points = _stamped(points, now_ms())
            self.record = _with_progress(self.record, points)
            self._try(lambda: self._storage.append_metrics(self.record.id, points))
        if saved:
            self._take_in(_with_checkpoints(self.record, saved))
        elif points and now_s() >= self._next_progress_s:
            self._save()

    def runs_code(self, code: Code) -> None:
        """Note which code the attempt runs; it is saved with what is saved next."""
        self.record = changed(self.record, code=code)

    def neighbour(self) -> RunRecord | None:
        """Find a run that trains in the same folder as this one."""
        return neighbour(self._storage, self.record)

    def checkpoints(self, paths: Sequence[str]) -> None:
        """Note which checkpoints there are, now that more were found; the one to go on from comes last."""
        saves = self.record.attempts[-1].saves + 1 if self.record.attempts else 0
        record = with_attempt(self.record, saves=saves) if saves else self.record
        self._take_in(changed(record, checkpoints=tuple(paths), last_checkpoint=paths[-1]))

    def _take_in(self, record: RunRecord) -> None:
        """Save checkpoints at once, unless there are so many that saving would take more than its share."""
        was_whole = not self.record.left_out_checkpoints
        self.record = _bounded(record)
        if was_whole and self.record.left_out_checkpoints:
            most = f"more than {KEPT_CHECKPOINTS:,} checkpoints"
            self._tell(f"{most}: the record keeps the newest, and how many others there were")
        if self._behind_since_s is None:
            self._behind_since_s = now_s()
        self._save_if_behind()

    def _save_if_behind(self) -> None:
        if self._behind_since_s is None:
            return
        now = now_s()
        share_s = PROGRESS_SHARE * (now - self._began_s)
        if self._saving_s <= SAVED_AT_ONCE_S + share_s or now >= self._behind_since_s + WAITING_S:
            self._save()

    def paused(self, cause: str, reason: str | None = None) -> None:
        """Note that the run is paused: all that led to this pause, and what holds it now where that is less."""
        pauses = self.record.attempts[-1].pauses
        if pauses and pauses[-1].end is None:
            pauses = (*pauses[:-1], msgspec.structs.replace(pauses[-1], cause=cause))
        else:
            pauses = (*pauses, PauseSpan(begin=now_ms(), cause=cause))
        self.record = with_attempt(
            changed(self.record, status=RunState.PAUSED, reason=reason or cause),
            status=RunState.PAUSED,
            pauses=pauses,
        )
        self._save()

    def continued(self) -> None:
        """Note that the run goes on."""
        *earlier, newest = self.record.attempts[-1].pauses
        pauses = (*earlier, msgspec.structs.replace(newest, end=_not_before(newest.begin)))
        self.record = with_attempt(
            changed(self.record, status=RunState.RUNNING, reason=None), status=RunState.RUNNING, pauses=pauses
        )
        self._save()

    def end(
        self,
        state: RunState,
        exited: ProcessExit | None,
        reason: str | None,
        *,
        cause: str | None = None,
        goes_on: Callable[[RunRecord], str | None] = lambda _: None,
    ) -> str | None:
        """Save the final record; or, where the run goes on, that it is queued again.

        It is never seen as final in between, so that a stop finds it live.

        :param goes_on: Told the final record, answers why another time box follows; None where none does.
        :returns: What `goes_on` answered.
        """
        assert state in FINAL
        code = exited.status if exited else None
        self.record = ended(self.record, state, exit_code=code, reason=reason, cause=cause)
        self.record = final = with_attempt(self.record, lost_writes=self.lost_writes)
        if why := goes_on(final):
            self.record = changed(final, status=RunState.QUEUED, end_time=None, exit_code=None, reason=why)
        self._rests_until_s = 0.0
        self.is_end_lost = not self._save()
        self.record = final
        return why

    def asked(self) -> Intent | None:
        """Take the oldest request to the run; none while the storage fails, which is said once."""
        self._save_if_behind()
        try:
            return self._asked_unless_resting(lambda: self._storage.take(self.record.id))
        except StorageError as error:
            if not self._has_told_deaf:
                self._has_told_deaf = True
                self._tell(f"{error.message}; the run goes on, and hears no `backprop stop` while that lasts")
            return None

    def _save(self) -> bool:
        began = now_s()
        is_saved = self._try(lambda: self._storage.save(self.record))
        cost = now_s() - began
        self._saving_s += cost
        self._behind_since_s = None
        # What was spent counts, and so do the next save and the last one.
        affordable_s = self._began_s + (self._saving_s + 2 * cost) / PROGRESS_SHARE
        self._next_progress_s = max(now_s() + PROGRESS_EVERY_S, affordable_s)
        return is_saved

    def _try(self, write: Callable[[], None]) -> bool:
        try:
            self._asked_unless_resting(write)
        except StorageError as error:
            if not self.lost_writes:
                self._tell(f"{error.message}; the run goes on, what cannot be written is lost")
            self.lost_writes += 1
            return False
        return True

    def _asked_unless_resting(self, ask: Callable[[], Answer]) -> Answer:
        if self._hung is not None and now_s() < self._rests_until_s:
            raise self._hung
        try:
            return ask()
        except HangingStorageError as error:
            self._hung = error
            self._rests_until_s = now_s() + REST_S
            raise


def _by_kind(events: Sequence[Event]) -> tuple[Sequence[Progress], Sequence[CheckpointSaved]]:
    if isinstance(events, ProgressBatch):
        return events, ()
    points = [event for event in events if type(event) is Progress]
    return points, [event for event in events if type(event) is CheckpointSaved]


def _stamped(points: Sequence[Progress], now: int) -> Sequence[Progress]:
    """Note when points were read; of a large batch, which came at one moment, only on the last one."""
    if len(points) <= STAMPED_POINTS:
        return [point if point.at else msgspec.structs.replace(point, at=now) for point in points]
    if isinstance(points, ProgressBatch):
        points.stamp(now)
        return points
    return [*points[:-1], msgspec.structs.replace(points[-1], at=now)]


def _with_progress(record: RunRecord, points: Sequence[Progress]) -> RunRecord:
    latest = points.latest if isinstance(points, ProgressBatch) else latest_of(points)
    metrics = {**record.metrics, **latest.metrics}
    metrics |= {} if latest.epoch is None else {"epoch": latest.epoch}
    metrics |= {} if latest.total_steps is None else {"totalSteps": latest.total_steps}
    if record.attempts and (reached := _reached(record.attempts[-1], latest, points)):
        record = with_attempt(record, **reached)
    return changed(
        record,
        last_step=record.last_step if latest.step is None else latest.step,
        last_loss=record.last_loss if latest.loss is None else latest.loss,
        metrics=metrics,
    )


def _reached(attempt: Attempt, latest: Progress, points: Sequence[Progress]) -> dict[str, float]:
    """Return from where to where an attempt has come, as far as these points tell something new of it."""
    found: dict[str, float] = {}
    for name in ("step", "epoch"):
        last = getattr(latest, name)
        if last is None or last == getattr(attempt, f"last_{name}"):
            continue
        found[f"last_{name}"] = last
        if getattr(attempt, f"first_{name}") is None:
            found[f"first_{name}"] = next(
                value for value in map(attrgetter(name), points) if value is not None
            )
    return found


def _with_checkpoints(record: RunRecord, saved: Sequence[CheckpointSaved]) -> RunRecord:
    """Add checkpoints, the newest last; one saved again to the same path moves to the end."""
    paths = dict.fromkeys(record.checkpoints)
    for event in saved:
        paths.pop(event.path, None)
        paths[event.path] = None
    if record.attempts:
        record = with_attempt(record, saves=record.attempts[-1].saves + len(saved))
    return changed(record, checkpoints=tuple(paths), last_checkpoint=saved[-1].path)


def _bounded(record: RunRecord) -> RunRecord:
    """Return the record with the newest checkpoints alone, and the others counted."""
    left_out = len(record.checkpoints) - KEPT_CHECKPOINTS
    if left_out <= 0:
        return record
    return changed(
        record,
        checkpoints=record.checkpoints[left_out:],
        left_out_checkpoints=record.left_out_checkpoints + left_out,
    )


def earlier_attempts(record: RunRecord) -> tuple[Attempt, ...]:
    """Return the attempts that were made, without one that is queued.

    Of a run from a file without `attempts` it is the one that its other fields tell of.
    """
    made = tuple(attempt for attempt in record.attempts if attempt.status is not RunState.QUEUED)
    if made or record.status not in FINAL:
        return made
    only = Attempt(
        start=record.start_time,
        end=record.end_time,
        status=record.status,
        exit_code=record.exit_code,
        reason=record.reason,
    )
    return (only,)


def before_queued(queued: RunRecord) -> RunRecord | None:
    """Return the record of a resumed run as it was before it was queued; None for a new run.

    What the person asked for anew (arguments, settings) stays: the record tells no other.
    """
    earlier = earlier_attempts(queued)
    if not earlier:
        return None
    last = earlier[-1]
    return changed(
        queued,
        attempts=earlier,
        status=last.status,
        end_time=last.end,
        exit_code=last.exit_code,
        reason=last.reason,
    )


def new_attempt(
    record: RunRecord, *, resumed_from: str | None, host: str | None, state: RunState
) -> RunRecord:
    """Return the record with one more attempt; one that was handed over and is queued is taken up."""
    attempt = Attempt(start=now_ms(), status=state, resumed_from=resumed_from)
    return changed(
        record,
        status=state,
        end_time=None,
        exit_code=None,
        reason=None,
        host=host,
        attempts=(*earlier_attempts(record), attempt),
    )
