"""The life of a run, written to a storage backend: found, begun, followed, ended, or found lost."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from .clock import now_ms, now_s
from .errors import NotFoundError, StorageError, UsageError
from .identity import RUN_ID, boot_id, has_variable, pid_namespace, processes, session_of, start_ticks
from .interfaces import Storage
from .locks import open_lock_file, private_folder, read_held, try_lock, write_line
from .records import (
    Attempt,
    CheckpointSaved,
    Event,
    Intent,
    PauseSpan,
    ProcessExit,
    Progress,
    Record,
    RunRecord,
)
from .states import FINAL, LIVE, RunState

PROGRESS_EVERY_S = 5.0
PROGRESS_SHARE = 0.01
FORGOTTEN_MS = 60_000
STAMPED_POINTS = 256


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
    records = storage.runs()
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


# --- who holds a run ----------------------------------------------------------------------------


class Holder(Record, frozen=True):
    """Which processes hold a run; it only ever authorises signals, the lock tells who is alive."""

    boot: str | None = None
    namespace: str | None = None
    agent: int | None = None
    agent_ticks: int | None = None
    keeper: int | None = None
    keeper_ticks: int | None = None


def run_folder(home: Path, run_id: str) -> Path:
    """Return `runs/<id>`.

    :raises UsageError: for an id that is none, before any path is built from it.
    """
    if not RUN_ID.fullmatch(run_id):
        raise UsageError(f"{run_id!r} is not a run id", "use letters, digits, '.', '_' and '-', at most 128")
    return home / "runs" / run_id


def make_folder(home: Path, run_id: str) -> Path:
    """Make the run's folder, for this user alone, and return it."""
    folder = run_folder(home, run_id)
    for part in (home, home / "runs", folder):
        private_folder(part)
    return folder


def hold(folder: Path) -> int:
    """Take the lock of a run and return its descriptor; who inherits it holds the run too.

    :raises UsageError: when another process holds it.
    """
    descriptor = open_lock_file(folder / "lock")
    if not try_lock(descriptor):
        os.close(descriptor)
        raise UsageError(f"run {folder.name} is live: another process holds it")
    return descriptor


def release(descriptor: int) -> None:
    """Let another process take the lock; the descriptor stays open."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)


def forget_folder(folder: Path) -> None:
    """Remove the folder of a run that never came to be; one that holds more than the lock stays."""
    with suppress(OSError):
        if os.listdir(folder) == ["lock"]:
            (folder / "lock").unlink()
            folder.rmdir()


def sign(descriptor: int, keeper: int | None = None) -> None:
    """Write into a held lock who holds it."""
    holder = Holder(
        boot=boot_id(),
        namespace=pid_namespace(),
        agent=os.getpid(),
        agent_ticks=start_ticks(os.getpid()),
        keeper=keeper,
        keeper_ticks=start_ticks(keeper) if keeper else None,
    )
    write_line(descriptor, msgspec.json.encode(holder))


@contextmanager
def _unless_held(folder: Path) -> Iterator[int | None]:
    """Hold a run's lock while the block runs, if nobody else does; yields None otherwise."""
    try:
        descriptor = hold(folder)
    except (UsageError, StorageError):
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def wake(folder: Path) -> None:
    """Continue a live run's supervisor if Ctrl-Z has stopped it, so that it hears what is asked of it."""
    holder = _holder_here(read_held(folder / "lock") or b"")
    if holder and holder.agent and holder.agent_ticks:
        _signal(holder.agent, holder.agent_ticks, signal.SIGCONT)


# --- lost runs ----------------------------------------------------------------------------------


def mark_lost(storage: Storage, home: Path, host: str) -> list[RunRecord]:
    """Find live runs of this host that nobody holds any more, end what they left, and mark them lost."""
    found = []
    for record in storage.runs(states=LIVE):
        if not _may_be_lost(record, host):
            continue
        with _unless_held(make_folder(home, record.id)) as descriptor:
            current = storage.get(record.id) if descriptor is not None else None
            if descriptor is None or current is None or current.status not in LIVE:
                continue
            _end_leftovers(descriptor, record.id)
            lost = ended(
                current, RunState.LOST, reason="its supervisor is gone (killed, or the machine went down)"
            )
            storage.save(lost)
            found.append(lost)
    return found


def _may_be_lost(record: RunRecord, host: str) -> bool:
    if record.host is not None:
        return record.host == host
    # Handed over to a launcher and not yet taken up: only a local one that never came is ours to judge.
    is_local = record.settings.get("launcher", "local") == "local"
    return is_local and now_ms() - record.start_time > FORGOTTEN_MS


def _end_leftovers(descriptor: int, run_id: str) -> None:
    """Kill what a run whose supervisor and keeper are both gone has left behind, by session and token."""
    holder = _holder_here(os.pread(descriptor, 4096, 0))
    if holder is None:
        return
    for pid in processes():
        ticks = start_ticks(pid)
        if pid == os.getpid() or ticks is None or not _belongs(pid, ticks, holder, run_id):
            continue
        _signal(pid, ticks, signal.SIGKILL)


def _holder_here(line: bytes) -> Holder | None:
    """Read who signed a lock; None unless its pids mean the same to us, in this boot and namespace."""
    try:
        holder = msgspec.json.decode(line, type=Holder)
    except msgspec.DecodeError:
        return None
    is_here = holder.boot is not None and (holder.boot, holder.namespace) == (boot_id(), pid_namespace())
    return holder if is_here else None


def _belongs(pid: int, ticks: int, holder: Holder, run_id: str) -> bool:
    if has_variable(pid, f"BACKPROP_RUN_ID={run_id}"):
        return True
    # While a session has members its number is not given out again; a leader of that number that
    # started at another time is the first of a new session.
    is_member = holder.keeper is not None and session_of(pid) == holder.keeper
    return (
        is_member and (start_ticks(holder.keeper or 0) in (None, holder.keeper_ticks)) and ticks is not None
    )


def _signal(pid: int, ticks: int, number: signal.Signals) -> None:
    with suppress(OSError):
        descriptor = os.pidfd_open(pid)
        try:
            if start_ticks(pid) == ticks:
                signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)


# --- the life of a run --------------------------------------------------------------------------


def changed(record: RunRecord, **fields: Any) -> RunRecord:
    """Return the record with some fields replaced."""
    return msgspec.structs.replace(record, **fields)


def with_attempt(record: RunRecord, **fields: Any) -> RunRecord:
    """Return the record with fields of its newest attempt replaced."""
    *earlier, newest = record.attempts
    return changed(record, attempts=(*earlier, msgspec.structs.replace(newest, **fields)))


def ended(
    record: RunRecord, state: RunState, *, exit_code: int | None = None, reason: str | None = None
) -> RunRecord:
    """Return the record with its attempt ended, a pause that was going on included."""
    now = now_ms()
    if record.attempts:
        pauses = record.attempts[-1].pauses
        if pauses and pauses[-1].end is None:
            pauses = (*pauses[:-1], msgspec.structs.replace(pauses[-1], end=now))
        record = with_attempt(
            record, end=now, status=state, exit_code=exit_code, reason=reason, pauses=pauses
        )
    return changed(record, status=state, end_time=now, exit_code=exit_code, reason=reason)


class Journal:
    """Writes one attempt to storage as it goes; `record` is how it stands.

    Storage that fails while the script runs does not stop it: the loss is said once and counted in
    `lost_writes`, which the attempt's final record tells. Progress is written only as often as writing takes
    under 1 % of the time.
    """

    def __init__(self, storage: Storage, record: RunRecord, tell: Callable[[str], None]) -> None:
        self._storage = storage
        self._tell = tell
        self._next_progress_s = now_s() + PROGRESS_EVERY_S
        self._has_told_deaf = False
        self.record = record
        self.lost_writes = 0
        self.is_end_lost = False

    def begin(self, record: RunRecord) -> None:
        """Save the record before the script starts.

        :raises StorageError: then the run must not start.
        """
        self._storage.save(record)
        self.record = record

    def events(self, events: Sequence[Event]) -> None:
        """Take in what the script reported."""
        points = [event for event in events if isinstance(event, Progress)]
        saved = [event for event in events if isinstance(event, CheckpointSaved)]
        if points:
            points = _stamped(points, now_ms())
            self.record = _with_progress(self.record, points)
            self._try(lambda: self._storage.append_metrics(self.record.id, points))
        if saved:
            self.record = _with_checkpoints(self.record, saved)
            self._save()
        elif points and now_s() >= self._next_progress_s:
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
        pauses = (*earlier, msgspec.structs.replace(newest, end=now_ms()))
        self.record = with_attempt(
            changed(self.record, status=RunState.RUNNING, reason=None), status=RunState.RUNNING, pauses=pauses
        )
        self._save()

    def end(self, state: RunState, exited: ProcessExit | None, reason: str | None) -> None:
        """Save the final record."""
        assert state in FINAL
        self.record = ended(self.record, state, exit_code=exited.status if exited else None, reason=reason)
        self.record = with_attempt(self.record, lost_writes=self.lost_writes)
        self.is_end_lost = not self._save()

    def asked(self) -> Intent | None:
        """Take the oldest request to the run; none while the storage fails, which is said once."""
        try:
            return self._storage.take(self.record.id)
        except StorageError as error:
            if not self._has_told_deaf:
                self._has_told_deaf = True
                self._tell(f"{error.message}; the run goes on, and hears no `backprop stop` while that lasts")
            return None

    def _save(self) -> bool:
        began = now_s()
        is_saved = self._try(lambda: self._storage.save(self.record))
        cost = now_s() - began
        self._next_progress_s = now_s() + max(PROGRESS_EVERY_S, cost / PROGRESS_SHARE)
        return is_saved

    def _try(self, write: Callable[[], None]) -> bool:
        try:
            write()
        except StorageError as error:
            if not self.lost_writes:
                self._tell(f"{error.message}; the run goes on, what cannot be written is lost")
            self.lost_writes += 1
            return False
        return True


def _stamped(points: Sequence[Progress], now: int) -> list[Progress]:
    """Note when points were read; of a large batch, which came at one moment, only on the last one."""
    if len(points) > STAMPED_POINTS:
        return [*points[:-1], msgspec.structs.replace(points[-1], at=now)]
    return [point if point.at else msgspec.structs.replace(point, at=now) for point in points]


def _with_progress(record: RunRecord, points: Sequence[Progress]) -> RunRecord:
    backwards = points[::-1]
    metrics = dict(record.metrics)
    for point in points:
        if point.metrics:
            metrics.update(point.metrics)
    epoch = next((point.epoch for point in backwards if point.epoch is not None), None)
    total = next((point.total_steps for point in backwards if point.total_steps is not None), None)
    metrics |= {} if epoch is None else {"epoch": epoch}
    metrics |= {} if total is None else {"totalSteps": total}
    return changed(
        record,
        last_step=next((point.step for point in backwards if point.step is not None), record.last_step),
        last_loss=next((point.loss for point in backwards if point.loss is not None), record.last_loss),
        metrics=metrics,
    )


def _with_checkpoints(record: RunRecord, saved: Sequence[CheckpointSaved]) -> RunRecord:
    """Add checkpoints, the newest last; one saved again to the same path moves to the end."""
    paths = list(record.checkpoints)
    for event in saved:
        if event.path in paths:
            paths.remove(event.path)
        paths.append(event.path)
    return changed(record, checkpoints=tuple(paths), last_checkpoint=paths[-1])


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
