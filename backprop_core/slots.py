"""Places on this machine, across processes: `maxParallel`, GPU reservations and the queue of waiters.

Everything is the lock of a file in one folder, so that nothing outlives whoever held it::

    admission.lock   held by whoever decides about a start
    slots/1 2 ...    one held for each run, by its supervisor and its keeper; the content is its Holder
    queue.lock       held by whoever joins the queue
    queue/000...7    a ticket, held by its waiter; the content is its Waiter

The content of a file whose lock nobody holds is what somebody left behind and means nothing; but a slot that is
free and has some was not given back: whoever takes it sees to it that nothing of that run is left.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from .clock import now_ms, now_s
from .errors import StorageError
from .locks import (
    MOUNTS,
    is_held,
    is_on_network,
    locked,
    open_lock_file,
    private_folder,
    read_held,
    read_line,
    try_lock,
    unlock,
    write_line,
)
from .records import EMPTY, Gpu, Record

POLL_S = 0.2
MACHINE_TEMP = Path("/var/tmp")  # noqa: S108 - only a checked folder of our own in it is used
_JOIN_LIMIT_S = 10.0


class GpuReservation(Record, frozen=True):
    """GPU memory that a run was promised.

    `baseline_free_mb` is what the GPU was measured to have free then, reservations not taken off.
    """

    uuid: str | None
    index: int
    reserved_mb: float
    baseline_free_mb: float | None = None


class Holder(Record, frozen=True):
    """Who holds a slot. `run_id` is "?", which no run is called, where the slot's file cannot be read."""

    run_id: str
    name: str | None = None
    pid: int | None = None
    since_ms: int | None = None
    gpus: tuple[GpuReservation, ...] = ()


class Waiter(Record, frozen=True):
    """Who waits for a slot, and what stood in the way on arrival. "?" as in Holder."""

    run_id: str
    name: str | None = None
    pid: int | None = None
    since_ms: int | None = None
    reason: str | None = None


_Content = TypeVar("_Content", Holder, Waiter)


class Slot:
    """A slot that this process holds; so does every process that inherits `fd`, until the last one ends.

    `left_by` is the run that held it last where nobody saw that run to its end; None where it was given back.
    """

    def __init__(self, fd: int, holder: Holder, left_by: str | None = None) -> None:
        self.fd = fd
        self.holder = holder
        self.left_by = left_by
        self._identity = _identity_of(fd)
        self._is_open = True

    def update(self, *, pid: int) -> None:
        """Write down which process holds the slot from now on, for others to show."""
        self.holder = msgspec.structs.replace(self.holder, pid=pid)
        write_line(self.fd, msgspec.json.encode(self.holder))

    def give_back(self) -> None:
        """Free it, whoever has inherited it, and leave word that nothing of the run is left."""
        if self._is_there():
            with suppress(StorageError):  # whoever takes it next then looks whether something is
                write_line(self.fd, b"")
            unlock(self.fd)  # a plugin may have forked somebody who stays
        self.close()

    def close(self) -> None:
        """Let go of it here: it is free unless somebody inherited it. Closing twice is no error."""
        if self._is_there():
            os.close(self.fd)
        self._is_open = False

    def _is_there(self) -> bool:
        """Tell whether the descriptor is still the slot's: a plugin may have closed it, and opened another file."""
        return self._is_open and _identity_of(self.fd) == self._identity


class Ticket:
    """A place in the queue, kept until this process leaves it or ends."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd
        self._is_open = True

    def publish(self, waiter: Waiter, path: Path) -> None:
        """Lock the ticket, write it and let others see it at `path`; done once, by `Slots.join`."""
        try:
            try_lock(self._fd)
            write_line(self._fd, msgspec.json.encode(waiter))
            self.path = self.path.rename(path)
        except (OSError, StorageError):
            self.leave()
            raise

    def place(self) -> int:
        """Count this waiter's place among the living, from 1."""
        ahead = (name for name in _numbered(self.path.parent) if int(name) < int(self.path.name))
        return 1 + sum(_is_alive(self.path.with_name(name)) for name in ahead)

    def leave(self) -> None:
        """Give the place up; whoever is behind moves up. Leaving twice is no error."""
        if self._is_open:
            self._is_open = False
            with suppress(OSError):  # an unheld ticket is as good as none
                self.path.unlink()
            os.close(self._fd)


class Slots:
    """The slots and the queue in one machine's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._slots = private_folder(folder / "slots")
        self._queue = private_folder(folder / "queue")

    @contextmanager
    def lock(self, timeout_s: float = 30.0) -> Iterator[None]:
        """Hold the admission lock, inside which to measure, decide and `take`.

        :raises RefusedError: when somebody else keeps it for `timeout_s`; it names that process.
        """
        with locked(self.folder / "admission.lock", timeout_s):
            yield

    def holders(self) -> tuple[Holder, ...]:
        """List who holds a slot, lowest slot first; final under the admission lock, a glance without."""
        return tuple(self.held().values())

    def held(self) -> dict[str, Holder]:
        """Name the slots that are held, and who holds them."""
        found = {name: _read(self._slots / name, Holder) for name in _numbered(self._slots)}
        return {name: holder for name, holder in found.items() if holder is not None}

    def take(
        self,
        run_id: str,
        name: str | None,
        max_parallel: int,
        gpus: Sequence[GpuReservation] = (),
        held: Collection[str] | None = None,
    ) -> Slot | None:
        """Take the lowest free slot; None when `max_parallel` are held. Only under the admission lock.

        :param held: The slots that are held, where they were looked at since that lock was taken.
        """
        held = self._held() if held is None else held
        if len(held) >= max_parallel:
            return None
        holder = Holder(run_id=run_id, name=name, pid=os.getpid(), since_ms=now_ms(), gpus=tuple(gpus))
        descriptor = self._lock_lowest(held)
        slot = Slot(descriptor, holder, _left_by(descriptor))
        try:
            write_line(slot.fd, msgspec.json.encode(holder))
        except StorageError:
            slot.close()
            raise
        return slot

    def join(self, run_id: str, name: str | None, reason: str | None = None) -> Ticket:
        """Queue up behind everybody who waits; the admission lock may be held, and need not.

        A ticket appears under its number only once it is locked, and no number comes twice in a boot:
        so a ticket that nobody holds is dead for good, and anybody may clear it away without a lock.
        """
        waiter = Waiter(run_id=run_id, name=name, pid=os.getpid(), since_ms=now_ms(), reason=reason)
        with locked(self.folder / "queue.lock", _JOIN_LIMIT_S):
            newest = max(map(int, _numbered(self._queue)), default=0)
            number = max(newest + 1, time.monotonic_ns())
            nascent = self.folder / "queue.nascent"
            with suppress(FileNotFoundError):  # somebody was killed right here
                nascent.unlink()
            ticket = Ticket(nascent, open_lock_file(nascent))
            ticket.publish(waiter, self._queue / f"{number:020d}")
        return ticket

    def waiting(self) -> tuple[Waiter, ...]:
        """List who waits, in order of arrival; only the first is to try to get in."""
        found = (_read(self._queue / name, Waiter) for name in _numbered(self._queue))
        return tuple(waiter for waiter in found if waiter is not None)

    def snapshot(self) -> frozenset[str]:
        """What `wait_for_change` compares: the slots that are held and the tickets that are out.

        Of the tickets only the front one is looked at, and cleared away if dead: a dead one further back
        stands in nobody's way before it gets there, and a hundred waiters cost a hundred looks, not ten
        thousand.
        """
        tickets = _numbered(self._queue)
        while tickets and not _is_alive(self._queue / tickets[0]):
            tickets = tickets[1:]
        return frozenset(tickets) | self._held()

    def wait_for_change(self, timeout_s: float, since: frozenset[str] | None = None) -> bool:
        """Wait until a slot or ticket was taken or freed, by a kill too; noticed within 0.25 s.

        :param since: The snapshot from before the caller looked, so that nothing in between is missed.
        :returns: False when nothing changed in `timeout_s`.
        """
        before = self.snapshot() if since is None else since
        end_s = now_s() + timeout_s
        while self.snapshot() == before:
            left_s = end_s - now_s()
            if left_s <= 0:
                return False
            time.sleep(min(POLL_S, left_s))
        return True

    def _held(self) -> frozenset[str]:
        return frozenset(name for name in _numbered(self._slots) if is_held(self._slots / name))

    def _lock_lowest(self, held: Collection[str]) -> int:
        number = 0
        while True:
            number += 1
            if str(number) not in held:
                fd = open_lock_file(self._slots / str(number))
                # Somebody may be looking at it just now; who was stopped in doing so leaves us the next.
                if try_lock(fd):
                    return fd
                os.close(fd)


def host_folder(
    home: Path, hostname: str | None = None, *, mounts: Path = MOUNTS, machine_temp: Path = MACHINE_TEMP
) -> Path:
    """Make sure of the folder that holds what belongs to this machine, with mode 0700, and return it.

    :raises StorageError: when the folder cannot be made, or is a link, another user's, or open to others.
    """
    place = host_place(home, hostname, mounts=mounts, machine_temp=machine_temp)
    if place.is_relative_to(home):
        private_folder(place.parent)
    return private_folder(place)


def host_place(
    home: Path, hostname: str | None = None, *, mounts: Path = MOUNTS, machine_temp: Path = MACHINE_TEMP
) -> Path:
    """Name the folder that holds what belongs to this machine, whether it is there or not.

    That is `home/hosts/<host>`, unless home is on a network file system, where flock may be missing,
    emulated or shared between machines: then a folder in /var/tmp named after a hash of home, or in the
    user's runtime directory where /var/tmp will not do. (Not the other way round: a runtime directory
    goes when the user logs out and is unknown to cron, and runs in two folders do not see each other.)

    :param home: Backprop's folder, which exists.
    :raises StorageError: when home is on a network file system, and there is no local folder for it.
    """
    if not is_on_network(home, mounts):
        host = re.sub(r"[^A-Za-z0-9._-]", "-", hostname or os.uname().nodename).lstrip("._-")[:128]
        return home / "hosts" / (host or "localhost")
    from hashlib import sha256

    name = f"backprop-{sha256(os.fsencode(home.resolve())).hexdigest()[:16]}"
    runtime_dir = os.environ.get("XDG_RUNTIME_DIR")
    for base in (machine_temp, *([Path(runtime_dir)] if runtime_dir else [])):
        if os.access(base, os.W_OK | os.X_OK) and not is_on_network(base, mounts):
            return base / name
    raise StorageError(
        f"{home} is on a network file system, and there is no local folder for this machine's locks",
        f"make {machine_temp} writable, or set BACKPROP_HOME to a local folder",
    )


# ---------------------------------------------------------------------------------------------
# GPU memory that was promised and not yet taken
# ---------------------------------------------------------------------------------------------


def after_reservations(
    gpus: Sequence[Gpu], holders: Sequence[Holder], pids: Mapping[str, Collection[int]] = EMPTY
) -> tuple[Gpu, ...]:
    """Give each GPU the free memory that is left once the holders have taken what they were promised.

    :param pids: The process tree of each run, by run id, as far as known.
    """
    left = []
    for gpu in gpus:
        owed_mb = unallocated_mb(gpu, holders, allocated_mb(gpu, holders, pids))
        free_mb = None if gpu.vram_free_mb is None else max(0.0, gpu.vram_free_mb - owed_mb)
        left.append(msgspec.structs.replace(gpu, vram_free_mb=free_mb))
    return tuple(left)


def allocated_mb(
    gpu: Gpu, holders: Sequence[Holder], pids: Mapping[str, Collection[int]]
) -> dict[str, float | None]:
    """What each run's processes hold of this GPU according to the driver; None where it cannot tell.

    In a container drivers list the pids of the machine, or nothing, or 0 MB: so the list is believed only
    if some process of ours holds memory in it. Then a run that is not in it has taken nothing.
    """
    table = gpu.process_vram_mb or {}
    sums = {run_id: sum(table.get(pid, 0.0) for pid in tree) for run_id, tree in pids.items()}
    is_believed = any(sums.values())
    return {holder.run_id: sums.get(holder.run_id) if is_believed else None for holder in holders}


def unallocated_mb(gpu: Gpu, holders: Sequence[Holder], used_mb: Mapping[str, float | None]) -> float:
    """What the holders were promised of this GPU and have not taken yet, in MiB.

    :param used_mb: What each run has taken; for a run without an amount, the memory that went since its
        baseline counts as its own. What went between two admissions goes to those who were there, first
        come first served, up to what they were promised (or are known to have taken).
    """
    promises = [
        (holder.run_id, promise)
        for holder in sorted(holders, key=lambda holder: holder.since_ms or 0)
        for promise in holder.gpus
        if _is_of(promise, gpu)
    ]
    there: dict[str, float] = {}  # what each run here may still have taken unseen
    free_mb: float | None = None
    for run_id, promise in promises:
        _share(free_mb, promise.baseline_free_mb, there)
        free_mb = free_mb if promise.baseline_free_mb is None else promise.baseline_free_mb
        used = used_mb.get(run_id)
        there[run_id] = promise.reserved_mb if used is None else used
    _share(free_mb, gpu.vram_free_mb, there)
    owed = 0.0
    for run_id, promise in promises:
        used = used_mb.get(run_id)
        owed += there[run_id] if used is None else max(0.0, promise.reserved_mb - used)
    return owed


def _share(before_mb: float | None, after_mb: float | None, there: dict[str, float]) -> None:
    """Count the memory that went between two readings as taken by the runs there, first come first served."""
    gone_mb = 0.0 if before_mb is None or after_mb is None else max(0.0, before_mb - after_mb)
    for run_id, open_mb in there.items():
        taken_mb = min(open_mb, gone_mb)
        there[run_id] = open_mb - taken_mb
        gone_mb -= taken_mb


def _is_of(promise: GpuReservation, gpu: Gpu) -> bool:
    if promise.uuid is None or gpu.uuid is None:
        return promise.index == gpu.index
    return promise.uuid == gpu.uuid


def _read(path: Path, kind: type[_Content]) -> _Content | None:
    """Read what the holder of the file wrote; None when nobody holds it."""
    line = read_held(path)
    if line is None:
        return None
    try:
        return msgspec.json.decode(line, type=kind)
    except msgspec.MsgspecError:
        return kind(run_id="?")


def _identity_of(fd: int) -> tuple[int, int] | None:
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _left_by(fd: int) -> str | None:
    """Name the run that a slot's last holder wrote down and did not take back."""
    try:
        return msgspec.json.decode(read_line(fd), type=Holder).run_id
    except msgspec.MsgspecError:
        return None


def _is_alive(ticket: Path) -> bool:
    """Tell whether somebody holds the ticket; one that nobody holds is cleared away."""
    if is_held(ticket):
        return True
    with suppress(OSError):
        ticket.unlink()
    return False


def _numbered(folder: Path) -> list[str]:
    """The files in the folder that are called a number, in order."""
    try:
        return sorted(filter(str.isdecimal, os.listdir(folder)), key=int)
    except OSError as error:
        raise StorageError(f"{folder} cannot be read: {error.strerror}") from error
