"""Who holds a run: its folder, the lock in it, and which processes signed that lock.

The lock tells who is alive; what is written in it only ever authorises signals.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import msgspec

from .errors import BackpropError, UsageError
from .identity import RUN_ID, boot_id, is_alive, look_at, pid_namespace, send, start_ticks
from .locks import open_lock_file, private_folder, read_held, try_lock, unlock, write_line
from .records import RUN_FILES, Record

_LINE_LIMIT = 4096


class Holder(Record, frozen=True):
    """Which processes hold a run, and the number of the pipe that its script writes to."""

    boot: str | None = None
    namespace: str | None = None
    agent: int | None = None
    agent_ticks: int | None = None
    keeper: int | None = None
    keeper_ticks: int | None = None
    pipe: int | None = None

    @property
    def is_here(self) -> bool:
        """Tell whether its pids mean the same to us: this boot, this pid namespace."""
        return self.boot is not None and (self.boot, self.namespace) == (boot_id(), pid_namespace())

    @property
    def is_in_other_namespace(self) -> bool:
        """Tell whether it is of this boot and of a pid namespace known to be another one, a container's."""
        ours = pid_namespace()
        is_other = self.namespace is not None and ours is not None and self.namespace != ours
        return self.boot is not None and self.boot == boot_id() and is_other

    @property
    def is_gone(self) -> bool:
        """Tell whether agent and keeper have ended, as far as that can be known here."""
        is_known = self.is_here and self.agent is not None
        return is_known and not any(
            (is_alive(self.agent, self.agent_ticks), is_alive(self.keeper, self.keeper_ticks))
        )


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
    """Take the lock of a run, sign it, and return its descriptor; who inherits it holds the run too.

    :raises UsageError: when another process holds it.
    :raises StorageError: when it cannot be signed.
    """
    descriptor = open_lock_file(folder / "lock")
    try:
        if not try_lock(descriptor):
            raise UsageError(f"run {folder.name} is live: another process holds it")
        sign(descriptor)  # at once: who looks must not take us for those who held it last, and are dead
    except BackpropError:
        os.close(descriptor)
        raise
    return descriptor


def release(descriptor: int) -> None:
    """Let another process take the lock; the descriptor stays open."""
    unlock(descriptor)


def forget_folder(folder: Path) -> None:
    """Remove the folder of a run that never came to be; one that holds more than the lock stays."""
    with suppress(OSError):
        if os.listdir(folder) == ["lock"]:
            (folder / "lock").unlink()
            folder.rmdir()


def remove_files(folder: Path, names: Collection[str] = RUN_FILES) -> None:
    """Remove what Backprop wrote into a run's folder, and the folder unless it holds more; links are not followed."""
    with suppress(OSError):
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            for name in set(names).intersection(os.listdir(opened)):
                os.unlink(name, dir_fd=opened)
        finally:
            os.close(opened)
        folder.rmdir()


def sign(descriptor: int, keeper: int | None = None, *, pipe: int | None = None) -> None:
    """Write into a held lock who holds it."""
    holder = Holder(
        boot=boot_id(),
        namespace=pid_namespace(),
        agent=os.getpid(),
        agent_ticks=start_ticks(os.getpid()),
        keeper=keeper,
        keeper_ticks=start_ticks(keeper) if keeper else None,
        pipe=pipe,
    )
    write_line(descriptor, msgspec.json.encode(holder))


def signature(descriptor: int) -> Holder | None:
    """Read who signed a lock last; None where that cannot be read."""
    return _parsed(os.pread(descriptor, _LINE_LIMIT, 0))


def holder_of(folder: Path) -> Holder | None:
    """Read who holds a run; None when nobody does, an empty Holder when whoever does has not signed."""
    line = read_held(folder / "lock")
    return None if line is None else _parsed(line) or Holder()


def _parsed(line: bytes) -> Holder | None:
    try:
        return msgspec.json.decode(line, type=Holder)
    except msgspec.DecodeError:
        return None


def wake(folder: Path) -> None:
    """Have a live run's supervisor look for requests now; one that Ctrl-Z has stopped goes on for that."""
    holder = holder_of(folder)
    if holder is None or not holder.is_here or holder.agent is None:
        return
    agent = look_at(holder.agent)
    if agent is not None and agent.ticks == holder.agent_ticks:
        send(agent, signal.SIGCONT)
