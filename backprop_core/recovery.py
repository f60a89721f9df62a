"""Runs whose supervisor is gone: told apart from those that are held, ended to the last process, and marked lost.

A run is *held* while somebody has its lock, *lost* once nobody has. It is *orphaned* when agent and keeper, which
signed the lock, have ended and somebody else still has it. Of a run of another machine or container it is
*unknown*: its process numbers mean nothing here, and no lock of another machine's kernel is seen.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path

from .clock import now_ms, now_s
from .errors import StorageError
from .holding import Holder, holder_of, make_folder, run_folder, signature
from .identity import RUN_ID, Process, environment_of, look_at, newest_pid, processes, send
from .interfaces import Storage
from .locks import open_lock_file, try_lock
from .records import Record, RunRecord
from .registry import ended
from .states import LIVE, RunState

FORGOTTEN_MS = 60_000
GONE = "its supervisor is gone (killed, or the machine went down)"
SWEEP_LIMIT_S = 5.0  # who hangs on a disk dies only when that answers
QUIET_S = 0.02
BEING_BORN = 16  # numbers are given out a moment before their processes can be seen
LETTING_GO_S = 0.5  # who looks, or is about to resume the run, has its lock for far less before it signs


class Grasp(StrEnum):
    """What is known of who has hold of a live run."""

    HELD = "held"
    LOST = "lost"
    ORPHANED = "orphaned"
    UNKNOWN = "unknown"


def grasp(record: RunRecord, home: Path, host: str) -> Grasp:
    """Tell who has hold of a run whose record says that it is live.

    :param host: This machine's name, as records have it.
    """
    if record.host is None:  # handed over to a launcher, and not taken up yet
        is_local = record.settings.get("launcher", "local") == "local"
        handed_over_ms = record.attempts[-1].start if record.attempts else record.start_time
        if not is_local or now_ms() - handed_over_ms <= FORGOTTEN_MS:
            return Grasp.HELD
    elif record.host != host:
        return Grasp.UNKNOWN
    folder = run_folder(home, record.id)
    holder = holder_of(folder)
    if holder is not None:
        return Grasp.ORPHANED if holder.is_gone else Grasp.HELD
    last = last_holder(folder)
    return Grasp.UNKNOWN if last is not None and last.is_in_other_namespace else Grasp.LOST


def describe(record: RunRecord, home: Path, host: str) -> str:
    """Say in words who has hold of a live run, as far as it is known here."""
    if record.host is not None and record.host != host:
        return (
            f"machine {record.host}: whether it still goes on can be told there alone; "
            f"if that machine is gone: {if_gone(record.host)}"
        )
    holder = last_holder(run_folder(home, record.id))
    if holder is not None and holder.is_in_other_namespace:
        return "a container of this machine: whether it still goes on can be told in there alone"
    if holder is None or holder.agent is None:
        return "nobody yet" if record.host is None else "nobody that has said so"
    keeper = f", with keeper {holder.keeper}" if holder.keeper else ""
    return f"process {holder.agent}{keeper}"


def if_gone(host: str) -> str:
    """Return what a person types who knows that a machine is gone."""
    return f"backprop doctor --gone {host}"


def last_holder(folder: Path) -> Holder | None:
    """Read who signed the run's lock last, held or not; None where nobody did."""
    try:
        with open(folder / "lock", "rb") as lock:
            return signature(lock.fileno())
    except OSError:
        return None


def mark_lost(storage: Storage, home: Path, host: str) -> list[RunRecord]:
    """Find live runs of this machine whose supervisor is gone, end what they left, and mark them lost.

    One that cannot be marked (on a full disk, a read-only one) stays as it is: it can be shown all the same.
    """
    found = []
    for record in storage.runs(states=LIVE):
        if grasp(record, home, host) in (Grasp.LOST, Grasp.ORPHANED):
            with suppress(StorageError):
                lost = reap(storage, home, record.id)
                found += [lost] if lost else []
    return found


def reap(storage: Storage, home: Path, run_id: str) -> RunRecord | None:
    """End what a run without a supervisor has left, and mark it lost; None when it turned out not to be one.

    :raises StorageError: when that cannot be written.
    """
    with lock_of(make_folder(home, run_id), LETTING_GO_S) as (descriptor, is_ours):
        holder = signature(descriptor)
        current = storage.get(run_id)
        if current is None or current.status not in LIVE:
            return None
        if not is_ours and (holder is None or not holder.is_gone):
            return None
        end_leftovers(run_folder(home, run_id), holder, is_held_by_us=is_ours)
        if not is_ours:
            try_lock(descriptor, LETTING_GO_S)  # whoever resumes it wants it, too
        lost = ended(current, RunState.LOST, reason=GONE)
        storage.save(lost)
        return lost


def end_abandoned(home: Path, run_id: str) -> int:
    """End what a run that nobody saw to its end has left, whatever a record says; returns how many were met.

    One that somebody holds is left alone.
    """
    folder = home / "runs" / run_id
    if not RUN_ID.fullmatch(run_id) or not folder.is_dir():
        return 0
    with lock_of(folder) as (descriptor, is_ours):
        holder = signature(descriptor)
        if not is_ours and (holder is None or not holder.is_gone):
            return 0
        return end_leftovers(folder, holder, is_held_by_us=is_ours)


@contextmanager
def lock_of(folder: Path, timeout_s: float = 0.0) -> Iterator[tuple[int, bool]]:
    """Open a run's lock and take it if it is free, or becomes so in time; tells whether that was so."""
    descriptor = open_lock_file(folder / "lock")
    try:
        yield descriptor, try_lock(descriptor, timeout_s)
    finally:
        os.close(descriptor)


# --- what it left -------------------------------------------------------------------------------


class Marks(Record, frozen=True):
    """What the processes of one run are known by. `before` leaves out those that started then, or later."""

    folder: Path
    holder: Holder
    before: int | None = None

    def fit(self, process: Process) -> bool:
        """Tell whether a process bears one of them, by the way it was started."""
        if process.is_dead or process.pid == os.getpid():
            return False
        if self.before is not None and process.ticks >= self.before:
            return False
        return self._is_of_session(process) or self._has_token(process.pid) or self._writes_to_pipe(process)

    def _is_of_session(self, process: Process) -> bool:
        # While a session has members its number is not given out again; a leader of that number that
        # started at another time is the first of a new session.
        keeper = self.holder.keeper
        if keeper is None or process.session != keeper:
            return False
        leader = look_at(keeper)
        return leader is None or leader.ticks == self.holder.keeper_ticks

    def _has_token(self, pid: int) -> bool:
        """Ids that people choose may be the same in two homes; the folder is not."""
        variables = environment_of(pid)
        if f"BACKPROP_RUN_ID={self.folder.name}".encode() not in variables:
            return False
        folders = [text[17:] for text in variables if text.startswith(b"BACKPROP_RUN_DIR=")]
        return any(_is_same(os.fsdecode(folder), self.folder) for folder in folders)

    def _writes_to_pipe(self, process: Process) -> bool:
        """Tell whether its standard output or error is the run's; a number of old may be another pipe's by now."""
        if self.holder.pipe is None or process.ticks < (self.holder.keeper_ticks or 0):
            return False
        return any(_pipe_at(process.pid, number) == self.holder.pipe for number in (1, 2))


def _is_same(one: str, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _pipe_at(pid: int, number: int) -> int | None:
    """Return the number of the pipe that the process can write to there; None where there is none."""
    try:
        kind, _, inode = os.readlink(f"/proc/{pid}/fd/{number}").partition(":")
        if kind != "pipe":
            return None
        with open(f"/proc/{pid}/fdinfo/{number}", encoding="ascii") as file:
            flags = next(line for line in file if line.startswith("flags:"))
    except (OSError, StopIteration):
        return None
    return int(inode.strip("[]")) if int(flags.split()[1], 8) & os.O_ACCMODE != os.O_RDONLY else None


def leftovers(marks: Marks, pids: Iterable[int] | None = None) -> list[Process]:
    """Find the processes that bear a run's marks, and all that they have started.

    :param pids: Where to look; None: everywhere.
    """
    seen = {one.pid: one for one in map(look_at, processes() if pids is None else pids) if one is not None}
    found = {pid for pid, one in seen.items() if marks.fit(one)}
    generation = found
    while generation:
        generation = {pid for pid, one in seen.items() if one.parent in generation} - found - {os.getpid()}
        found |= generation
    return [seen[pid] for pid in sorted(found) if not seen[pid].is_dead]


def end_leftovers(folder: Path, holder: Holder | None, *, is_held_by_us: bool) -> int:
    """Kill what a run whose supervisor and keeper are both gone has left behind; returns how many were met.

    :param is_held_by_us: Without its lock the run may be resumed meanwhile: then whoever starts from now on is
        left alone.
    """
    if holder is None or not holder.is_here:
        return 0
    marks = Marks(folder=folder, holder=holder, before=None if is_held_by_us else _ticks_now())
    end_s = now_s() + SWEEP_LIMIT_S
    met_in_all = 0
    while now_s() < end_s:
        newest = newest_pid()
        found = leftovers(marks)
        for process in found:
            send(process, signal.SIGKILL)
        met = len(found) + _chase(marks, newest, end_s)
        if not met:
            break
        met_in_all += met
    return met_in_all


def _chase(marks: Marks, newest: int | None, end_s: float) -> int:
    """Kill those that forked themselves away meanwhile, sooner than they can do it again.

    A look at every process takes longer than a fork and proves nothing. So only those are looked at that came since,
    the newest first, until none of them is the run's for as long as this process itself was at work on it: by the
    clock on the wall it may have been kept waiting all the time.
    """
    met, quiet_until_s = 0, time.process_time() + QUIET_S
    while newest is not None and time.process_time() < quiet_until_s and now_s() < end_s:
        last, newest = newest, newest_pid()
        for pid in range(newest or 0, max(0, last - BEING_BORN), -1):
            if _kill_marked(marks, pid):
                met, quiet_until_s = met + 1, time.process_time() + QUIET_S
    return met


def _kill_marked(marks: Marks, pid: int) -> bool:
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        process = look_at(pid)  # whatever it is now, the descriptor is of nobody else
        if process is None or not marks.fit(process):
            return False
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _ticks_now() -> int:
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))
