"""Files that survive a kill at any moment: bounded locks, whole replacement, folders of one's own."""

from __future__ import annotations

import fcntl
import os
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from backprop_core import StorageError, open_private

OURS_ALONE = 0o600
NO_LINKS = os.O_NOFOLLOW | os.O_CLOEXEC
_FIRST_PAUSE_S = 0.0005
_LONGEST_PAUSE_S = 0.01


class DamageError(Exception):
    """The file is there and is not what it should be; the message says how, to follow its name."""


class LockBusyError(StorageError):
    """Another process held the lock for all of the time that was allowed."""


@contextmanager
def explained(doing: str, path: str | Path) -> Iterator[None]:
    """Turn what the system refuses into a StorageError that names the file."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot {doing} {path}: {error.strerror or error}") from error


@contextmanager
def locked(path: str, wait_s: float) -> Iterator[int]:
    """Hold the file's lock, and give its descriptor, open for reading and writing.

    :param wait_s: How long to wait for another holder, in seconds.
    :raises LockBusyError: when it is still held then.
    :raises StorageError: when it cannot be opened, or the file system has no locks.
    """
    with explained("open", path):
        descriptor = open_private(path, os.O_RDWR)
    try:
        _take_lock(descriptor, path, wait_s)
        yield descriptor
    finally:
        with explained("close", path):  # the lock goes in any case
            os.close(descriptor)


def _take_lock(descriptor: int, path: str, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    pause_s = _FIRST_PAUSE_S
    while not _is_lock_taken(descriptor, path):
        if time.monotonic() >= deadline:
            raise LockBusyError(
                f"{path} has been locked by another process for {wait_s:g} s",
                "`fuser -v` on that file names it: a stopped process keeps its lock until it goes on or ends",
            )
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)


def _is_lock_taken(descriptor: int, path: str) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise StorageError(
            f"cannot lock {path}: {error.strerror or error}",
            "nothing is written without a lock: keep the records on a file system that has flock",
        ) from error
    return True


def read_plain_file(path: str | Path) -> bytes | None:
    """Read all of a file; None when it does not exist.

    :raises DamageError: for a folder, a pipe or a device.
    :raises OSError: when it cannot be read.
    """
    try:
        # O_NONBLOCK: opening a named pipe would wait for a writer for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | NO_LINKS)
    except FileNotFoundError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise DamageError("is not a file")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def replace_file(path: Path, content: bytes) -> None:
    """Give the file new content, all of it or none, whatever happens meanwhile; durable on return.

    :raises OSError: with the old content intact, or (from the last step, the folder's fsync) with the
        new content in place that a power cut may still undo.
    """
    temporary = path.parent / f".{path.name}.{os.urandom(6).hex()}.tmp"
    try:
        descriptor = open_private(temporary, os.O_WRONLY | os.O_EXCL)
        try:
            write_all(descriptor, content)
            _make_durable(descriptor)
        finally:
            os.close(descriptor)
        os.rename(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    sync_folder(path.parent)


def write_all(descriptor: int, content: bytes) -> None:
    """Write every byte: a disk that fills up takes a part first and says so at the next call."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _make_durable(descriptor: int) -> None:
    if sys.platform == "darwin":
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)  # fsync stops at the disk's own cache there
    else:
        os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _make_durable(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(path: Path) -> None:
    """Remove what killed writers of `path` left beside it; only for the holder of its lock."""
    for name in os.listdir(path.parent):
        if is_leftover(name, path.name):
            with suppress(FileNotFoundError):
                os.unlink(path.parent / name)


def is_leftover(name: str, of: str) -> bool:
    """Tell whether `name` is a temporary file of `replace_file` for a file called `of`."""
    return name.startswith(f".{of}.") and name.endswith(".tmp")


def keep_aside(path: Path) -> Path:
    """Give a damaged file a second name that says when it was found; for the holder of its lock.

    What is not a file cannot have two names and is moved.
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    kept = path.with_name(f"{path.name}.corrupt-{stamp}")
    number = 0
    while os.path.lexists(kept):
        number += 1
        kept = path.with_name(f"{path.name}.corrupt-{stamp}-{number}")
    try:
        os.link(path, kept, follow_symlinks=False)
    except OSError:
        os.rename(path, kept)
    return kept


def make_private_folder(folder: Path) -> None:
    """Make a folder, and those above it that are missing, for this user alone whatever the umask."""
    try:
        folder.mkdir(0o700)
        folder.chmod(0o700)  # a umask may have taken from it
    except FileExistsError:
        return
    except FileNotFoundError:
        make_private_folder(folder.parent)
        make_private_folder(folder)
        return
    sync_folder(folder.parent)


def refuse_shared_folder(folder: Path) -> None:
    """See that nobody else can swap files in this folder.

    :raises StorageError: when it is another user's, or others may write to it.
    """
    with explained("look at", folder):
        found = folder.stat()
    if not stat.S_ISDIR(found.st_mode):
        raise StorageError(
            f"{folder} is not a folder", "records need a folder of their own: move that file away"
        )
    if found.st_uid != os.geteuid():
        raise StorageError(
            f"{folder} belongs to user {found.st_uid}, and this is user {os.geteuid()}",
            "set BACKPROP_HOME to a folder of your own",
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise StorageError(f"{folder} may be written to by other users", f"run: chmod go-w {folder}")
